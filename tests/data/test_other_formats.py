"""Audio that soundfile cannot open: a stand-in for the ffmpeg program, and for torchaudio."""

import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from k2distil.batch import Utterance
from k2distil.data import load_audio, other_formats
from k2distil.errors import DataError
from tests.data.tones import load

FAKE_FFMPEG = """#!{python}
import io, sys
import numpy as np, soundfile
arguments = sys.argv[1:]
open({log!r}, "w").write("\\n".join(arguments))
assert arguments[-1] == "pipe:1" and {{"-xerror", "pcm_f32le"}} <= set(arguments)
assert sys.stdin.read() == ""
samples = np.linspace(-0.5, 0.5, 32000, dtype="<f4")[:, None] * np.array([1, -1], "<f4")
wav = io.BytesIO()
soundfile.write(wav, samples, 16000, format="WAV", subtype="FLOAT")
data = bytearray(wav.getvalue())
place = data.index(b"data")
data[4:8] = data[place + 4 : place + 8] = b"\\xff" * 4  # a pipe: the length is never known
sys.stdout.buffer.write(data)
"""


def install_ffmpeg(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "ffmpeg").write_text(script)
    (folder / "ffmpeg").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.usefixtures("no_torchaudio")
def test_ffmpeg_decodes_what_soundfile_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "arguments"
    script = FAKE_FFMPEG.format(python=sys.executable, log=str(log))
    install_ffmpeg(tmp_path / "bin", script, monkeypatch)
    path = tmp_path / "a b;c.m4a"
    path.write_bytes(b"not audio")
    ramp = np.linspace(-0.5, 0.5, 32000, dtype=np.float32)
    assert np.array_equal(load(path), ramp)
    assert f"file:{path}" in log.read_text().split("\n")
    assert np.array_equal(load(path, start=0.5, end=1.5), ramp[8000:24000])
    assert np.array_equal(load_audio(Utterance("utt1", str(path)), channel=1), -ramp)
    with pytest.raises(DataError, match="not within the audio"):
        load(path, start=1.5, end=3.0)
    load_audio(Utterance("utt1", str(path), tar_offset=3, tar_size=6))
    assert f"subfile,,start,3,end,9,,:file:{path}" in log.read_text().split("\n")


@pytest.mark.usefixtures("no_torchaudio")
def test_ffmpeg_gets_what_a_command_wrote_through_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"""#!{sys.executable}
import io, sys, numpy, soundfile
samples = numpy.frombuffer(sys.stdin.buffer.read(), numpy.uint8) / 256
file = io.BytesIO()
soundfile.write(file, samples, 16000, format="WAV", subtype="FLOAT")
sys.stdout.buffer.write(file.getvalue())
"""
    install_ffmpeg(tmp_path / "bin", script, monkeypatch)
    (tmp_path / "a.m4a").write_bytes(b"not audio")
    utterance = Utterance("utt1", f"cat {tmp_path / 'a.m4a'} |", is_command=True)
    expected = np.frombuffer(b"not audio", np.uint8).astype(np.float32) / 256
    assert np.array_equal(load_audio(utterance), expected)


@pytest.mark.usefixtures("no_torchaudio")
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("#!/bin/sh\necho Invalid data found >&2; echo more >&2; exit 1\n", "ffmpeg: Invalid data"),
        ("#!/bin/sh\nexit 3\n", "ffmpeg: exit status 3"),
        ("#!/bin/sh\necho junk\n", "ffmpeg: its output is not audio"),
    ],
)
def test_what_ffmpeg_complains_of_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    install_ffmpeg(tmp_path / "bin", script, monkeypatch)
    (tmp_path / "a.m4a").write_bytes(b"not audio")
    with pytest.raises(DataError, match=words):
        load(tmp_path / "a.m4a")


@pytest.mark.parametrize("in_tar", [False, True])
@pytest.mark.parametrize("name", ["a.wav", "a.raw"])
def test_text_named_wav_names_both_remedies_where_there_is_no_ffmpeg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, in_tar: bool
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    other_formats._torchaudio.cache_clear()
    path = tmp_path / name
    path.write_text("this is text, not audio")
    tar = {"tar_offset": 0, "tar_size": path.stat().st_size} if in_tar else {}
    with pytest.raises(DataError) as caught:
        load_audio(Utterance("utt1", str(path), **tar))
    other_formats._torchaudio.cache_clear()
    for words in (str(path), "utt1", "this is text", "install the ffmpeg program", "torchaudio"):
        assert words in str(caught.value)


@pytest.mark.usefixtures("no_torchaudio")
def test_samples_without_a_header_get_the_command_that_gives_them_one(tmp_path: Path) -> None:
    for name, is_bare in [("a.pcm", True), ("a.raw", True), ("a.m4a", False)]:
        np.zeros(1000, "<i2").tofile(tmp_path / name)
        with pytest.raises(DataError) as caught:
            load(tmp_path / name)
        assert ("sox -t raw -r 16000" in str(caught.value)) == is_bare


@pytest.mark.parametrize("error", ["OSError", "RuntimeError"])
def test_a_torchaudio_that_fails_to_load_is_asked_once_and_its_reason_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    (tmp_path / "torchaudio.py").write_text(
        f"open({str(tmp_path / 'tries')!r}, 'a').write('x')\nraise {error}('libcudart.so: no')\n"
    )
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    other_formats._torchaudio.cache_clear()
    (tmp_path / "a.m4a").write_bytes(b"not audio")
    for _ in range(2):
        with pytest.raises(DataError, match=r"does not load .libcudart\.so: no"):
            load(tmp_path / "a.m4a")
    other_formats._torchaudio.cache_clear()
    assert (tmp_path / "tries").read_text() == "x"


def test_a_torchaudio_that_loads_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchaudio.py").write_text(
        "import io, torch\n"
        "def load(source):\n"
        "    file = source if isinstance(source, io.BytesIO) else open(source, 'rb')\n"
        "    data = file.read()\n"
        "    if data != b'not audio':\n"
        "        raise RuntimeError('odd\\nbytes')\n"
        "    return torch.arange(16000).repeat(2, 1) / 16000 * torch.tensor([[1], [-1]]), 16000\n"
    )
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    other_formats._torchaudio.cache_clear()
    (tmp_path / "a.m4a").write_bytes(b"not audio")
    (tmp_path / "b.m4a").write_bytes(b"other")
    ramp = np.arange(16000, dtype=np.float32) / 16000
    assert np.array_equal(load(tmp_path / "a.m4a", start=0.25, end=0.5), ramp[4000:8000])
    in_tar = Utterance("utt1", str(tmp_path / "a.m4a"), tar_offset=0, tar_size=9)
    assert np.array_equal(load_audio(in_tar, channel=1), -ramp)
    with pytest.raises(DataError, match="torchaudio: odd;"):
        load(tmp_path / "b.m4a")
    other_formats._torchaudio.cache_clear()
    sys.modules.pop("torchaudio", None)
