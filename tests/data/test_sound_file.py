"""Files of which libsndfile does not find the end by itself: joined ones, MP3s without a header."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile

from k2distil.batch import Utterance
from k2distil.data import audio_seconds, load_audio
from k2distil.errors import DataError
from tests.data.tones import load, tone

MORE = 3500  # samples that an encoder adds at most; the header tells to leave them out
TAG = b"TAG" + b"x" * 125
ID3 = b"ID3\x03\0\0\0\0\x0f\x76" + bytes(2038)


def noise(seconds: float, rate: int = 16000, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))


def encoded(path: Path, samples: np.ndarray, rate: int = 16000, **options: object) -> bytes:
    soundfile.write(path, samples, rate, **options)
    return path.read_bytes()


def without_header(mp3: bytes) -> bytes:
    """Without the first frame, which holds the Xing header."""
    return mp3[mp3.index(mp3[:2], 4) :]


def read(path: Path, data: bytes, **fields: float) -> np.ndarray:
    """As a file and as a member of a tar, which are the same; and `audio_seconds` agrees."""
    path.write_bytes(data)
    samples = load(path, **fields)
    in_tar = Utterance("utt1", str(path), tar_offset=0, tar_size=len(data), **fields)
    assert np.array_equal(samples, load_audio(in_tar))
    for utterance in (in_tar, Utterance("utt1", str(path), **fields)):
        assert audio_seconds(utterance) == pytest.approx(len(samples) / 16000, abs=1e-4)
    return samples


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_an_mp3_of_varying_rate_without_a_header_is_read_whole(
    tmp_path: Path, place: int, rate: int
) -> None:
    parts = [np.zeros(4 * rate)] * 3
    parts[place] = noise(4, rate)  # libsndfile guesses 3 s, or 25 s
    whole = encoded(tmp_path / "a.mp3", np.concatenate(parts), rate)
    expected = read(tmp_path / "a.mp3", whole)
    samples = read(tmp_path / "a.mp3", without_header(whole))
    assert len(expected) == 12 * 16000
    assert 0 < len(samples) - len(expected) < MORE
    heard = [np.abs(samples[4 * 16000 * part :][8000:56000]).mean() > 0.01 for part in range(3)]
    assert heard == [part == place for part in range(3)]
    segment = read(tmp_path / "a.mp3", without_header(whole), start=3.0, end=9.5)
    assert len(segment) == 104000
    inner = slice(3200, -3200)
    assert np.abs(segment[inner] - samples[48000:152000][inner]).max() < 0.01
    for start, end in ((11.0, 13.0), (20.0, 21.0)):
        with pytest.raises(DataError, match="not within the audio"):
            load(tmp_path / "a.mp3", start=start, end=end)


@pytest.mark.parametrize(("before", "behind"), [(b"", b""), (ID3, TAG)])
def test_joined_mp3s_are_read_to_the_end_of_the_last(
    tmp_path: Path, before: bytes, behind: bytes
) -> None:
    first = before + encoded(tmp_path / "a.mp3", tone(16000, 2)) + behind
    second = before + encoded(tmp_path / "a.mp3", noise(3)) + behind
    assert len(read(tmp_path / "a.mp3", first)) == 32000
    for more, seconds in (
        (second, 5),
        (second + first, 7),
        (without_header(second.removeprefix(before)), 5),
    ):
        samples = read(tmp_path / "a.mp3", first + more)
        assert 0 <= len(samples) - 16000 * seconds < 3 * MORE
    samples = read(tmp_path / "a.mp3", first + second)
    assert len(read(tmp_path / "a.mp3", first + second, start=3.0, end=4.5)) == 24000


def test_an_mp3_that_goes_on_in_another_way_is_refused(tmp_path: Path) -> None:
    first = encoded(tmp_path / "a.mp3", tone(16000, 2))
    for name, more in {
        "rate": encoded(tmp_path / "b.mp3", tone(44100, 2), 44100),
        "channels": encoded(tmp_path / "b.mp3", tone(16000, 2, num_channels=2)),
    }.items():
        path = tmp_path / f"{name}.mp3"
        path.write_bytes(first + more)
        for read_one in (load_audio, audio_seconds):
            with pytest.raises(DataError, match="another sample rate or number of channels"):
                read_one(Utterance("utt1", str(path)))
        assert len(load(path, start=0.5, end=1.5)) == 16000


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_chained_ogg_is_read_to_the_end_of_its_last_stream(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.ogg"
    kind = {"format": "OGG", "subtype": subtype}
    links = [encoded(path, noise(seconds, seed=seconds), **kind) for seconds in (2, 3, 1)]
    alone = [read(path, link) for link in links]
    for order in ((0, 1), (1, 0, 2), (2, 2)):
        samples = read(path, b"".join(links[index] for index in order))
        assert np.array_equal(samples, np.concatenate([alone[index] for index in order]))
    chain = links[0] + links[1]
    whole = read(path, chain)
    assert np.array_equal(read(path, chain, start=1.5, end=4.5), whole[24000:72000])
    assert np.abs(read(path, chain, start=0.5, end=1.5) - whole[8000:24000]).max() < 1e-4
    path.write_bytes(chain[: len(links[0]) + len(links[1]) // 2])
    with pytest.raises(DataError, match="truncated"):
        load(path)
    path.write_bytes(links[0] + encoded(path, noise(1, 8000), 8000, **kind))
    with pytest.raises(DataError, match="several sample rates"):
        load(path)


def test_streams_side_by_side_in_an_ogg_are_no_chain(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    data, other = (encoded(path, noise(2, seed=seed), subtype="VORBIS") for seed in (1, 2))
    end = data.index(b"OggS", 4)  # of the first page
    expected = read(path, data)
    side_by_side = data[:end] + other[: other.index(b"OggS", 4)] + data[end:]
    assert np.array_equal(read(path, side_by_side), expected)


def test_what_an_mp3_carries_behind_its_audio_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    data = encoded(path, noise(2))
    expected = read(path, data)
    for before, behind in itertools.product(
        (b"", ID3, ID3 + ID3), (b"", TAG, bytes(1000), b"text")
    ):
        assert np.array_equal(read(path, before + data + behind), expected)


@pytest.mark.parametrize("announced", [0, 16_000])
def test_a_wav_whose_header_was_never_finished_is_not_cut_short(
    tmp_path: Path, announced: int
) -> None:
    path = tmp_path / "a.wav"
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(path, noise, 16000, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[40:44] = announced.to_bytes(4, "little")
    path.write_bytes(data)
    words = f"{announced} bytes of samples announced, {32_000 - announced} more after them"
    with pytest.raises(DataError, match=words):
        load(path)
    with pytest.raises(DataError, match=words):
        audio_seconds(Utterance("utt1", str(path)))


@pytest.mark.parametrize("more", [1, 2, 36, 44])
def test_a_header_that_counts_some_bytes_too_many_is_believed_no_further(
    tmp_path: Path, more: int
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(16000), 16000, subtype="PCM_16")
    expected = load(path)
    data = bytearray(path.read_bytes())
    data[40:44] = (32_000 + more).to_bytes(4, "little")
    path.write_bytes(data)
    assert np.array_equal(load(path), expected)


@pytest.mark.parametrize(("name", "subtype"), [("a.wav", "GSM610"), ("a.au", "G721_32")])
def test_a_segment_of_what_cannot_be_sought_in(tmp_path: Path, name: str, subtype: str) -> None:
    soundfile.write(tmp_path / name, tone(8000, 3), 8000, subtype=subtype)
    whole = load(tmp_path / name)
    part = load(tmp_path / name, start=1.0, end=2.0)
    assert len(part) == 16_000
    assert np.abs(part[400:-400] - whole[16_400:31_600]).max() < 1e-4  # the resampler's ends


def test_a_header_with_an_absurd_rate_fills_no_memory(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000, subtype="PCM_16")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[24:28] = (1).to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(DataError, match="a sample rate of 1 Hz by its header"):
        load(tmp_path / "a.wav")


@pytest.mark.parametrize(
    "behind", [b"ID3\3\0\0\0\0\2\1" + bytes(range(256)) * 40, b"\xff" * 8000, bytes(8000)]
)
def test_tags_and_padding_behind_a_whole_wav_do_no_harm(tmp_path: Path, behind: bytes) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(16000), 16000, subtype="PCM_16")
    whole = load(path)
    path.write_bytes(path.read_bytes() + behind)
    assert np.array_equal(load(path), whole)
    data = path.read_bytes()
    (tmp_path / "a.tar").write_bytes(bytes(512) + data)
    member = Utterance("utt1", str(tmp_path / "a.tar"), tar_offset=512, tar_size=len(data))
    assert np.array_equal(load_audio(member), whole)
    assert audio_seconds(member) == 1.0


def test_a_wav_that_ends_behind_its_header_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(16000), 16000, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:44])
    with pytest.raises(DataError, match="truncated: 32000 bytes of samples announced, 0 found"):
        load(path)


def test_an_unfinished_header_in_a_tar_is_found_without_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(16_000), 16000)
    data = bytearray(path.read_bytes())
    data[40:44] = (16_000).to_bytes(4, "little")
    (tmp_path / "a.tar").write_bytes(bytes(512) + data)
    member = Utterance("utt1", str(tmp_path / "a.tar"), tar_offset=512, tar_size=len(data))
    with pytest.raises(DataError, match="16000 bytes of samples announced, 16000 more"):
        audio_seconds(member)


@pytest.mark.parametrize("kind", ["ULAW", "PCM_U8", "PCM_16"])
def test_silence_behind_the_announced_samples_does_not_hide_what_comes_then(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "a.wav"
    samples = np.concatenate([noise(2), np.zeros(8000), noise(7.5)])
    soundfile.write(path, samples, 16000, subtype=kind)
    data = bytearray(path.read_bytes())
    place = data.index(b"data") + 4
    whole = int.from_bytes(data[place : place + 4], "little")
    data[place : place + 4] = (whole // 5).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DataError, match="more after them"):
        load(path)
