"""Audio of one utterance: decoded, cut to its segment, one channel, 16 kHz."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

from k2distil.batch import SAMPLE_RATE, Utterance
from k2distil.data.command import run_command
from k2distil.data.other_formats import decode_other_format, segment_of
from k2distil.data.sound_file import (
    TOLERANCE,
    UNKNOWN_FRAMES,
    SoundFile,
    Window,
    fault_of_length,
    ogg_links,
    open_audio,
)
from k2distil.errors import DataError

MAX_OVERSHOOT = 0.1  # seconds a segment may end past the audio: lists round their times
TRUSTED = {"WAV", "WAVEX", "FLAC"}  # formats whose header tells the length
LOUDEST = 100.0  # a sample; full scale is 1, floats that hold 16-bit integers have 32,768
LEAST_RATE = 1000  # Hz; a damaged header may say 1, and resampling would fill the memory
RELATIVE = "; relative ones are looked for beside the list, then in the working directory"
BLOCK = 1 << 22  # frames read at a time: a damaged header may announce more than memory holds


def load_audio(utterance: Utterance, channel: int = 0, timeout: float = math.inf) -> np.ndarray:
    """Decode one utterance; silence is valid audio.

    Only the segment start..end is read, and only the given channel (0 is the first) is kept, or
    that which the list names. soundfile decodes wav, flac, mp3, ogg and opus; see `other_formats`
    for the rest. Resampled by soxr's HQ recipe. Samples of float files and of the resampler may
    leave [-1, 1] a little.

    Args:
        utterance: whose audio.
        channel: counted from 0, where the list names none.
        timeout: seconds that a command may take.

    Returns:
        (num_samples,) float32 at 16 kHz, at least one sample, all finite.

    Raises:
        DataError: the file is missing, unreadable, empty, truncated, not audio, has NaN or
            infinite samples, ends before the segment does, or lacks the channel; the command that
            should write it failed; or a decoder raised anything else. An mp3 without a Xing or
            Info header does not tell its length: it is read to its end, and truncation goes unseen;
            so it does in a flac from a pipe where libsndfile is older than 1.2.2, and in formats
            other than wav, flac, mp3, ogg, AIFF, AU, CAF, SVX, W64, RF64 and NIST.
    """
    with _named(utterance):
        samples, rate = _decode(utterance, timeout)
        return _prepare(
            samples, rate, utterance, channel if utterance.channel is None else utterance.channel
        )


def audio_seconds(utterance: Utterance, timeout: float = math.inf) -> float:
    """Seconds that `load_audio` gives; from the header where soundfile knows the format.

    The audio in other formats, that whose header does not tell its length (see `open_audio`), and
    what a command writes, is decoded for it. Of a wav or flac in a tar the header alone is read.

    Args:
        utterance: whose audio.
        timeout: seconds that a command may take.

    Raises:
        DataError: as `load_audio`, but for what only decoding finds.
    """
    with _named(utterance):
        num_frames, rate = _length_in_tar(utterance) or _length(utterance, timeout)
        if num_frames < UNKNOWN_FRAMES:
            _check_rate(rate)
    if num_frames >= UNKNOWN_FRAMES:
        return len(load_audio(utterance, timeout=timeout)) / SAMPLE_RATE
    seconds = num_frames / rate
    end = seconds if utterance.end is None else min(seconds, utterance.end)
    return max(0.0, end - (utterance.start or 0.0))


def _length(utterance: Utterance, timeout: float) -> tuple[int, int]:
    """Frames, which may be `UNKNOWN_FRAMES`, and the sample rate."""
    source = _open_source(utterance, timeout)
    try:
        with open_audio(source) as file:
            if fault := fault_of_length(file, source):
                raise DataError(fault)
            is_chain = ogg_links(file, source, utterance.end)
            return UNKNOWN_FRAMES if is_chain else file.frames, file.samplerate
    except (soundfile.LibsndfileError, TypeError):  # TypeError: a name ending in .raw
        return UNKNOWN_FRAMES, 0


def _length_in_tar(utterance: Utterance) -> tuple[int, int] | None:
    """The same of a tar's member whose header can be trusted; None: it has to be looked at."""
    if utterance.tar_offset is None or utterance.tar_size is None:
        return None
    try:
        with open(utterance.wav, "rb") as tar:
            member = Window(tar, utterance.tar_offset, utterance.tar_size)
            with SoundFile(member) as file:
                if file.format not in TRUSTED:
                    return None
                if fault := fault_of_length(file, member):
                    raise DataError(fault)
                return file.frames, file.samplerate
    except (OSError, soundfile.LibsndfileError):
        return None


@contextlib.contextmanager
def _named(utterance: Utterance) -> Iterator[None]:
    """Any fault of one utterance's audio becomes its DataError, with path and key."""
    try:
        yield
    except Exception as error:  # one bad file never ends a run, whatever a decoder makes of it
        reason = str(error)
        if not isinstance(error, DataError):
            reason = f"{type(error).__name__}: {error}; make the file anew or remove it"
        raise DataError(utterance.about(reason)) from error


def _prepare(samples: np.ndarray, rate: int, utterance: Utterance, channel: int) -> np.ndarray:
    """(num_frames, num_channels) at any rate -> (num_samples,) at 16 kHz."""
    start, end = utterance.start or 0.0, utterance.end
    wanted = 1 if end is None else (end - start - MAX_OVERSHOOT) * rate
    if len(samples) < max(1, wanted):
        if start or end is not None:
            raise DataError(
                f"the segment {start} to {'the end' if end is None else end} s is empty, or not "
                f"within the audio ({len(samples) / rate:.2f} s of the segment are); correct its "
                "times in the list"
            )
        raise DataError("the audio has no samples; remove it from the list")
    if not 0 <= channel < samples.shape[1]:
        raise DataError(f"no channel {channel}: it has {samples.shape[1]}, counted from 0")
    _check_rate(rate)
    mono = np.ascontiguousarray(samples[:, channel])
    if not np.isfinite(mono).all():
        raise DataError("NaN or infinite samples; make the file anew or remove it from the list")
    if (loudest := float(np.abs(mono).max())) > LOUDEST:
        raise DataError(
            f"samples up to {loudest:.3g}, not within 1; make the file anew (16-bit integers "
            "written as floats are to be divided by 32768)"
        )
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    if not len(mono):
        raise DataError(f"shorter than one sample at {SAMPLE_RATE} Hz; remove it from the list")
    return mono


def _check_rate(rate: int) -> None:
    if rate < LEAST_RATE:
        raise DataError(f"a sample rate of {rate} Hz by its header; make the file anew")


def _decode(utterance: Utterance, timeout: float) -> tuple[np.ndarray, int]:
    """The segment's (num_frames, num_channels) float32 and its sample rate."""
    source = _open_source(utterance, timeout)
    try:
        file = open_audio(source)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name ending in .raw
        return decode_other_format(utterance, source, getattr(error, "error_string", str(error)))
    with file:
        if links := ogg_links(file, source, utterance.end):
            return segment_of(_joined(links), file.samplerate, utterance), file.samplerate
        return _segment(file, source, utterance.start, utterance.end), file.samplerate


def _joined(links: list[io.BytesIO]) -> np.ndarray:
    """The streams of a chained Ogg, one after another: (num_frames, num_channels) float32."""
    parts, kinds = [], set()
    for link in links:
        with open_audio(link) as file:
            parts.append(_segment(file, link))
            kinds.add((file.samplerate, file.channels))
    if len(kinds) > 1:
        raise DataError("Ogg streams of several sample rates or channels; convert it to flac")
    return np.concatenate(parts)


def _segment(
    file: SoundFile, source: str | io.BytesIO, start: float | None = None, end: float | None = None
) -> np.ndarray:
    """(num_frames, num_channels) float32 of the seconds start..end, or of all."""
    if fault := fault_of_length(file, source):
        raise DataError(fault)
    first = round((start or 0.0) * file.samplerate)
    last = file.frames
    is_known = last < UNKNOWN_FRAMES
    if end is not None:
        last = min(last, round(end * file.samplerate))
    if first >= last:
        return np.zeros((0, file.channels), np.float32)
    begin = first if file.can_seek else 0
    try:
        if begin:
            file.seek(begin)
        samples = _read(file, last - begin)[first - begin :]
    except soundfile.LibsndfileError as error:
        shorter = "" if is_known or not first else f", or it ends before {start} s"
        raise DataError(f"damaged or truncated{shorter} ({error}); make the file anew") from error
    if is_known and last - first - len(samples) > TOLERANCE * file.samplerate:
        raise DataError(
            f"damaged or truncated: {last - first} frames announced, {len(samples)} found; "
            "make the file anew"
        )
    if len(samples) < last - first and file.endless is not None and not file.endless.is_read:
        raise DataError(
            "an MP3 that goes on with another sample rate or number of channels, or with what is "
            "no audio; convert it to flac"
        )
    return samples


def _read(file: SoundFile, num_frames: int) -> np.ndarray:
    """So many frames, or all that there are: (num_frames, num_channels) float32."""
    blocks = []
    while num_frames > 0:
        wanted = min(BLOCK, num_frames)
        blocks.append(file.read(wanted, dtype="float32", always_2d=True))
        num_frames -= wanted
        if len(blocks[-1]) < wanted:
            break
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _open_source(utterance: Utterance, timeout: float) -> str | io.BytesIO:
    """What soundfile shall open: a path, or the bytes of a tar's member or of a command."""
    if utterance.is_command:
        return io.BytesIO(run_command(utterance.wav, timeout))
    try:
        with open(utterance.wav, "rb") as file:
            if utterance.tar_offset is None:
                if not file.read(1):
                    raise DataError("the file is empty; remove it from the list")
                return utterance.wav
            file.seek(utterance.tar_offset)
            data = file.read(utterance.tar_size)
    except UnicodeEncodeError as error:
        raise DataError(f"no file can have that name ({error.reason}); correct the list") from error
    except OSError as error:
        relative = "" if os.path.isabs(utterance.wav) else RELATIVE
        raise DataError(
            f"cannot be read ({error.strerror}); correct the path in the list{relative}"
        ) from error
    if utterance.tar_size == 0:
        raise DataError("the file is empty; remove it from the tar")
    if len(data) != utterance.tar_size:
        raise DataError(
            f"{len(data)} of {utterance.tar_size} bytes at {utterance.tar_offset} in the tar; "
            "copy the tar again"
        )
    return io.BytesIO(data)
