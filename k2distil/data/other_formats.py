"""Audio that soundfile cannot open (m4a, wma, amr, ...): torchaudio where it loads, else ffmpeg."""

from __future__ import annotations

import functools
import io
import shutil
import subprocess
from types import ModuleType
from typing import Any

import numpy as np
import soundfile

from k2distil.batch import Utterance
from k2distil.errors import DataError

BARE_REMEDY = (
    "Samples without a header tell no rate, and no program can know it: give them one, by "
    "sox -t raw -r 16000 -e signed -b 16 -c 1 IN OUT.flac"
)


def decode_other_format(
    utterance: Utterance, source: str | io.BytesIO, reason: str
) -> tuple[np.ndarray, int]:
    """Decode the segment start..end of one utterance.

    The whole file is decoded and then cut: ffmpeg's own seeking is off by hundreds of samples (342
    in an m4a). Convert long recordings with many segments to flac first.

    Args:
        utterance: its file exists and is not empty.
        source: its path, or its bytes where it lies in a tar or comes from a command.
        reason: why soundfile could not open it; part of the error.

    Returns:
        (num_frames, num_channels) float32, shorter than the segment where the audio ends before;
        and the sample rate.

    Raises:
        DataError: nothing on this machine can decode it. The message has no path: the caller adds
            it.
    """
    reasons = [f"soundfile: {reason}"]
    for name, decode in (("torchaudio", _decode_by_torchaudio), ("ffmpeg", _decode_by_ffmpeg)):
        try:
            samples, rate = decode(utterance, source)
        except DataError as error:
            reasons.append(f"{name}: {error}")
            continue
        return segment_of(samples, rate, utterance), rate
    bare = f". {BARE_REMEDY}" if utterance.wav.endswith((".pcm", ".raw")) else ""
    raise DataError(
        f"nothing here can decode it (it begins with {_first_bytes(source)!r}); "
        f"{'; '.join(reasons)}. If it is audio, install the ffmpeg program or a torchaudio that "
        f"loads, or convert it to flac; else correct the list{bare}"
    )


def segment_of(samples: np.ndarray, rate: int, utterance: Utterance) -> np.ndarray:
    """The frames from start to end of the whole file's (num_frames, num_channels), a view."""
    first = round((utterance.start or 0.0) * rate)
    last = None if utterance.end is None else round(utterance.end * rate)
    return samples[first:last]


def _first_bytes(source: str | io.BytesIO) -> bytes:
    if isinstance(source, io.BytesIO):
        return source.getvalue()[:12]
    with open(source, "rb") as file:
        return file.read(12)


@functools.cache
def _torchaudio() -> ModuleType | str:
    """The module, or why it cannot be had.

    Beside a torch of other CUDA, or of none, one built for CUDA raises RuntimeError or OSError.
    """
    try:
        import torchaudio
    except Exception as error:  # whatever it raises, it is of no use to us
        reason = str(error).partition("\n")[0] or type(error).__name__
        return f"does not load ({reason})"
    return torchaudio


def _decode_by_torchaudio(utterance: Utterance, source: str | io.BytesIO) -> tuple[np.ndarray, int]:
    torchaudio = _torchaudio()
    if isinstance(torchaudio, str):
        raise DataError(torchaudio)
    if isinstance(source, io.BytesIO):
        source.seek(0)  # soundfile read its head
    try:
        samples, rate = torchaudio.load(source)  # (num_channels, num_frames)
    except Exception as error:  # its backends (sox, torchcodec, ffmpeg) share no base class
        raise DataError(str(error).partition("\n")[0] or type(error).__name__) from error
    return samples.numpy().astype(np.float32, copy=False).T, rate


def _decode_by_ffmpeg(utterance: Utterance, source: str | io.BytesIO) -> tuple[np.ndarray, int]:
    program = shutil.which("ffmpeg")
    if program is None:
        raise DataError("no such program on PATH")
    # `file:` and `subfile:` keep a path from being read as another of ffmpeg's protocols.
    url = f"file:{utterance.wav}"
    piped = None
    if utterance.is_command:
        assert isinstance(source, io.BytesIO)
        url, piped = "pipe:0", source.getvalue()
    elif isinstance(source, io.BytesIO):
        assert utterance.tar_offset is not None
        end = utterance.tar_offset + (utterance.tar_size or 0)
        url = f"subfile,,start,{utterance.tar_offset},end,{end},,:{url}"
    # float32 little endian in a wav rather than bare: it tells rate and channels, so that our own
    # resampler serves here too.
    # -xerror: without it a truncated file gives what is left of it, and exit status 0.
    command = [program, "-nostdin", "-v", "error", "-xerror", "-i", url, "-map", "0:a:0"]
    command += ["-c:a", "pcm_f32le", "-f", "wav", "pipe:1"]
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL} if piped is None else {"input": piped}
    # In a session of its own, which a Ctrl-C or a scheduler's SIGTERM for all does not reach.
    options["start_new_session"] = True
    done = subprocess.run(command, **options, capture_output=True, check=False)
    if done.returncode != 0:
        complaint = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise DataError(complaint or f"exit status {done.returncode}")
    try:
        with soundfile.SoundFile(io.BytesIO(done.stdout)) as file:
            return file.read(dtype="float32", always_2d=True), file.samplerate
    except soundfile.LibsndfileError as error:
        raise DataError(f"its output is not audio ({error})") from error
