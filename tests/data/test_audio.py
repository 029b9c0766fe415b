"""Real files in every format soundfile writes; broken ones; a stand-in for the ffmpeg program."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from k2distil.batch import Utterance
from k2distil.data import audio, audio_seconds, decode_ahead, load_audio, read_list
from k2distil.errors import DataError
from tests.data.tones import load, tone


@pytest.mark.parametrize(
    ("suffix", "kind", "tolerance"),
    [
        ("wav", {"subtype": "PCM_U8"}, 1 / 127),
        ("wav", {"subtype": "PCM_16"}, 1 / 32000),
        ("wav", {"subtype": "PCM_24"}, 1e-6),
        ("wav", {"subtype": "FLOAT"}, 1e-7),
        ("wav", {"subtype": "ULAW"}, 0.02),
        ("flac", {}, 1 / 32000),
        ("mp3", {}, 0.05),
        ("ogg", {"subtype": "VORBIS"}, 0.05),
        ("opus", {"format": "OGG", "subtype": "OPUS"}, 0.05),
    ],
)
def test_every_format_decodes_to_the_samples_written(
    tmp_path: Path, suffix: str, kind: dict[str, str], tolerance: float
) -> None:
    path = tmp_path / f"a.{suffix}"
    expected = tone(16000)[:, 0]
    soundfile.write(path, expected, 16000, **kind)
    samples = load(path)
    assert samples.dtype == np.float32
    assert samples.shape == (16000,)
    inner = slice(800, -800)  # lossy codecs ring at the ends
    assert np.abs(samples[inner] - expected[inner]).max() < tolerance


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_any_sample_rate_becomes_16_khz_in_time_and_pitch(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(rate), rate, subtype="FLOAT")
    samples = load(tmp_path / "a.wav")
    assert len(samples) == 16000
    assert np.abs(samples - tone(16000)[:, 0])[400:-400].max() < 1e-3


@pytest.mark.parametrize("num_channels", [2, 5])
def test_the_channel_asked_for_is_kept_and_the_first_by_default(
    tmp_path: Path, num_channels: int
) -> None:
    audio = tone(16000, num_channels=num_channels)
    soundfile.write(tmp_path / "a.flac", audio, 16000)
    utterance = Utterance("utt1", str(tmp_path / "a.flac"))
    assert np.abs(load_audio(utterance) - audio[:, 0]).max() < 1e-4
    last = load_audio(utterance, channel=num_channels - 1)
    assert np.abs(last - audio[:, -1]).max() < 1e-4
    for absent in (num_channels, -1):
        with pytest.raises(DataError, match=rf"no channel {absent}: it has {num_channels}"):
            load_audio(utterance, channel=absent)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        ("wav", {}),
        ("flac", {}),
        ("mp3", {}),
        ("ogg", {}),
        ("opus", {"format": "OGG", "subtype": "OPUS"}),
    ],
)
def test_a_segment_equals_the_same_cut_of_the_whole(
    tmp_path: Path, suffix: str, kind: dict[str, str]
) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = 0.1 * np.random.default_rng(0).standard_normal(5 * 16000)
    soundfile.write(path, noise, 16000, **kind)
    whole = load(path)
    assert np.abs(load(path, start=2.5, end=3.25) - whole[40000:52000]).max() < 1e-4
    assert np.abs(load(path, end=0.5) - whole[:8000]).max() < 1e-4
    assert np.abs(load(path, start=4.0) - whole[64000:]).max() < 1e-4


def test_a_segment_is_sought_and_the_rest_never_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "long.flac", tone(16000, 60), 16000)
    frames_read = []
    read = soundfile.SoundFile.read

    def counting_read(self: soundfile.SoundFile, frames: int = -1, **options: object) -> np.ndarray:
        frames_read.append(frames)
        return read(self, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting_read)
    load(tmp_path / "long.flac", start=50.0, end=51.5)
    assert frames_read == [24000]


def test_a_segment_may_end_a_rounding_past_the_audio_but_not_more(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)
    assert len(load(tmp_path / "a.wav", start=0.5, end=1.05)) == 8000
    for start, end in ((0.5, 1.2), (1.0, 1.05), (7.0, 8.0)):
        with pytest.raises(DataError, match=rf"segment {start} to {end} s is empty, or not"):
            load(tmp_path / "a.wav", start=start, end=end)
    with pytest.raises(DataError, match="segment"):
        load(tmp_path / "a.wav", start=0.5, end=0.500001)


def test_silence_and_a_hundredth_of_a_second_are_audio(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(160), 16000)
    assert np.array_equal(load(tmp_path / "a.wav"), np.zeros(160, np.float32))


def test_a_file_shorter_than_one_sample_at_16_khz_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1), 48000)
    with pytest.raises(DataError, match="shorter than one sample"):
        load(tmp_path / "a.wav")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinite_samples_are_refused(tmp_path: Path, bad: float) -> None:
    samples = np.zeros(100)
    samples[50] = bad
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"a\.wav: utterance utt1: NaN or infinite"):
        load(tmp_path / "a.wav")


def test_files_that_cannot_be_read_name_path_key_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "header_only.wav", np.zeros(0), 16000)
    for path, words in [
        (tmp_path / "absent.wav", "cannot be read .No such file.*correct the path"),
        (tmp_path, "cannot be read .Is a directory"),
        (tmp_path / "empty.wav", "the file is empty; remove it"),
        (tmp_path / "header_only.wav", "has no samples; remove it"),
    ]:
        with pytest.raises(DataError, match=f"{path}: utterance utt1: .*{words}"):
            load(path)


@pytest.mark.parametrize("suffix", ["flac", "ogg"])
def test_a_name_that_is_not_utf_8_is_opened(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / os.fsdecode(b"\xd6\xd0." + suffix.encode())  # GBK, as os.listdir() gives it
    with path.open("wb") as file:
        soundfile.write(file, tone(16000), 16000, format=suffix)
    assert len(load(path)) == 16000
    assert audio_seconds(Utterance("utt1", str(path))) == 1.0
    path.write_text("words")
    with pytest.raises(DataError, match="nothing here can decode it"):
        load(path)
    with pytest.raises(DataError, match=r"utterance utt1: no file can have that name"):
        load(tmp_path / "\ud800.flac")


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        ("wav", {}),
        ("wav", {"format": "WAVEX", "subtype": "FLOAT"}),
        ("flac", {}),
        ("mp3", {}),
        ("ogg", {}),
        ("opus", {"format": "OGG", "subtype": "OPUS"}),
        *(
            (name, {"format": name.upper()})
            for name in ("aiff", "au", "svx", "w64", "rf64", "nist")
        ),
    ],
)
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, kind: dict[str, str]) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(80000), 16000, **kind)
    whole = path.read_bytes()
    assert len(load(path)) >= 80000
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(DataError, match="truncated"):
        load(path)


def test_a_truncated_ogg_in_a_tar_and_one_cut_inside_a_page_header_are_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, tone(16000, 3), 16000)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rfind(b"OggS") + 10])
    with pytest.raises(DataError, match="truncated"):
        load(path)
    with pytest.raises(DataError, match="truncated"):
        load_audio(Utterance("utt1", str(path), tar_offset=0, tar_size=path.stat().st_size))


@pytest.mark.parametrize("size", [0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_whose_length_was_never_written_is_read_whole(
    tmp_path: Path, size: int
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(16000), 16000)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = size.to_bytes(4, "little")
    path.write_bytes(data)
    assert len(load(path)) == 16000


def test_a_flac_from_a_pipe_whose_length_was_never_written_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(16000, 3), 16000)
    expected = load(path)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples
    data[22:26] = bytes(4)
    path.write_bytes(data)
    utterance = Utterance("utt1", str(path))
    assert np.array_equal(load_audio(utterance), expected)
    in_tar = Utterance("utt1", str(path), tar_offset=0, tar_size=len(data))
    assert np.array_equal(load_audio(in_tar), expected)
    assert audio_seconds(utterance) == 3.0
    assert np.array_equal(load(path, start=1.0, end=2.0), expected[16000:32000])
    assert np.array_equal(load(path, start=2.0), expected[32000:])
    assert audio_seconds(Utterance("utt1", str(path), 2.0)) == 1.0
    with pytest.raises(DataError, match="not within the audio"):
        load(path, start=2.0, end=4.0)
    with pytest.raises(DataError, match=r"or it ends before 3\.5 s"):
        load(path, start=3.5)
    path.write_bytes(data[: len(data) // 2])
    if soundfile.__libsndfile_version__ >= "1.2.2":  # older ones give what is left of it
        with pytest.raises(DataError, match="damaged or truncated"):
            load(path)


def test_a_flac_that_announces_more_than_memory_holds_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(16000, 2), 16000)
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # the upper 4 of the 36 bits of STREAMINFO that count the samples
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.flac: utterance utt1: damaged or truncated"):
        load(path)


def test_audio_of_several_blocks_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.flac", tone(16000), 16000)
    whole = load(tmp_path / "a.flac")
    for block in (16000, 5000):
        monkeypatch.setattr(audio, "BLOCK", block)
        assert np.array_equal(load(tmp_path / "a.flac"), whole)
        assert np.array_equal(load(tmp_path / "a.flac", start=0.2, end=0.9), whole[3200:14400])


@pytest.mark.parametrize("error", [MemoryError("240 GiB"), RuntimeError("odd")])
def test_whatever_a_decoder_raises_is_the_fault_of_one_utterance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)
    monkeypatch.setattr(soundfile.SoundFile, "__init__", fail)
    utterance = Utterance("utt1", str(tmp_path / "a.wav"))
    words = rf"a\.wav: utterance utt1: {type(error).__name__}: {error}; make the file anew"
    for decode in (load_audio, audio_seconds):
        with pytest.raises(DataError, match=words):
            decode(utterance)
    [(_, failed)] = decode_ahead([utterance], num_workers=0)
    assert isinstance(failed, DataError)


def test_a_member_of_a_tar_is_read_in_place(tmp_path: Path) -> None:
    audio = tone(8000, 2)
    for name in ("a.flac", "b.opus"):
        soundfile.write(
            tmp_path / name,
            audio,
            8000,
            **({"format": "OGG", "subtype": "OPUS"} if "opus" in name else {}),
        )
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("a.flac", "b.opus"):
            tar.add(tmp_path / name, name)
    (tmp_path / "data.list").write_text("s.tar\n")
    for utterance, name in zip(
        read_list(tmp_path / "data.list"), ("a.flac", "b.opus"), strict=True
    ):
        assert np.array_equal(load_audio(utterance), load(tmp_path / name))
    cut = Utterance("utt1", str(tmp_path / "s.tar"), tar_offset=512, tar_size=10**8)
    with pytest.raises(DataError, match=r"of 100000000 bytes.*copy the tar again"):
        load_audio(cut)


# What soundfile cannot open. No m4a encoder is at hand, so b"not audio" stands for one.


@pytest.mark.parametrize("num_channels", [1, 2])
def test_seconds_are_told_without_decoding_where_the_header_knows(
    tmp_path: Path, num_channels: int, no_torchaudio: None
) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(44100, 1.5, num_channels), 44100)
    whole = Utterance("utt1", str(path))
    for utterance in (
        whole,
        Utterance("utt1", str(path), 0.25, 1.0),
        Utterance("utt1", str(path), 0.25, 1.55),
        Utterance("utt1", str(path), 0.25),
        Utterance("utt1", f"cat {path} |", 0.25, is_command=True),
    ):
        assert abs(audio_seconds(utterance) - len(load_audio(utterance)) / 16000) < 1e-3
    assert abs(audio_seconds(whole) - 1.5) < 1e-6
    path.write_text("words")
    with pytest.raises(DataError, match=r"a\.flac: utterance utt1: "):
        audio_seconds(whole)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.flac: utterance utt1: cannot be read"):
        audio_seconds(whole)


def test_real_speech_of_a_corpus_decodes(shared_data: Path) -> None:
    path = next((shared_data / "fsdd" / "george").glob("*.flac"))
    with io.BytesIO(path.read_bytes()) as file:
        seconds = soundfile.info(file).duration
    assert len(load(path)) == pytest.approx(seconds * 16000, abs=1)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_seconds_of_a_tars_member_are_those_of_its_header(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, tone(8000, 1.25), 8000)
    data, path = (tmp_path / name).read_bytes(), tmp_path / "s.tar"
    path.write_bytes(bytes(512) + data + bytes(512))
    member = Utterance("utt1", str(path), tar_offset=512, tar_size=len(data))
    assert abs(audio_seconds(member) - 1.25) < 1e-3
    path.write_bytes(
        bytes(512) + data[: len(data) // 2]
    )  # only the header of a wav or flac is looked at
    if name == "a.ogg":
        with pytest.raises(DataError, match="copy the tar again"):
            audio_seconds(member)
    else:
        assert abs(audio_seconds(member) - 1.25) < 1e-3


def test_what_looks_like_a_frame_behind_an_mp3_is_not_audio(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    noise = np.random.default_rng(0).standard_normal(32_000)
    soundfile.write(path, 0.1 * noise, 16000)
    data = path.read_bytes()
    whole = load(path)
    name = b"\xff\xfe" + "Künstler".encode("utf-16-le")  # its mark is that of a frame
    text = b"TPE1" + bytes([0, 0, 0, len(name) + 1, 0, 0, 1]) + name
    id3 = b"ID3\3\0\0" + bytes([0, 0, 0, len(text)]) + text
    picture = b"APETAGEX" + b"\xff\xfb\x90\x64" * 500
    for behind in (id3, picture, data[-700:-600]):
        path.write_bytes(data + behind)
        assert np.array_equal(load(path), whole)
    path.write_bytes(data + data)
    assert len(load(path)) >= 2 * len(whole)


@pytest.mark.parametrize("rate", [16000, 8000])
def test_samples_far_beyond_full_scale_are_refused(tmp_path: Path, rate: int) -> None:
    samples = np.zeros(800, np.float32)
    for loudest in (2.0, 32768.0, 3e38):  # the second: 16-bit integers as floats
        samples[400] = loudest
        soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
        if loudest == 2.0:
            assert np.isfinite(load(tmp_path / "a.wav")).all()
        else:
            with pytest.raises(DataError, match=r"samples up to 3.*, not within 1.* by 32768"):
                load(tmp_path / "a.wav")
