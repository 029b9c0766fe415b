"""Files opened by libsndfile, and what it gets wrong of where they end: cut, joined, unknown."""

from __future__ import annotations

import io
import os
import re
import struct
from typing import Any, BinaryIO

import soundfile

# Pipes cannot go back to write the length, so streaming writers leave about 2**31 or 2**32 there.
UNKNOWN_WAV_SIZE = 0x7FFF_0000  # bytes
UNKNOWN_FRAMES = 1 << 50  # `frames` are this or more where the header does not tell them
FAR = 1 << 54  # bytes, where an MP3 of unknown length seems to end
MAX_OGG_PAGE = 65_307  # bytes (RFC 3533, section 6)
LOOKED_AT = 1 << 16  # bytes at a time, after the samples of a wav
TOLERANCE = 0.1  # seconds that a header may be off by: some writers count themselves in

# What libsndfile calls the samples of a format in its log.
_SAMPLES = {
    **dict.fromkeys(["WAV", "WAVEX"], "data"),
    **{"AIFF": "SSND", "AU": "Data Size", "SVX": "BODY", "W64": "riff"},
}
_BYTES_BEHIND = re.compile(
    r"^Length : (\d+).*^  Bytes/sec +: (\d+).*^data : (\d+)\n"
    r"(?:\*\*\* Unknown chunk marker \(\w+\)|Have 0 marker) at position (\d+)",
    re.MULTILINE | re.DOTALL,
)
_RF64_FRAMES_LOG = re.compile(r"frame count (\d+) does not match value from 'ds64' chunk of (\d+)")
_NIST_FRAMES = re.compile(rb"^sample_count -i (\d+)", re.MULTILINE)
_NIST_HEADER = 1024  # bytes
_FIRST_OGG_PAGE = re.compile(rb"OggS\0\x02")
_TAG = 128  # bytes of an ID3v1 tag
# Of an MP3's frame (ISO 11172-3, 13818-3, and the 2.5 of Fraunhofer), by version 1 or another.
_MP3_HEADER = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xeb]")
_KBITS = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


class SoundFile(soundfile.SoundFile):
    """Without soundfile's seek after every read to where it is already.

    libFLAC fails in that one at the end of a file that does not tell its length.
    """

    endless: _Endless | None = None  # what is read in the place of an MP3 of unknown length

    def seekable(self) -> bool:
        """For `read` only: see `can_seek`."""
        return False

    @property
    def can_seek(self) -> bool:
        """Whether `seek` works: in GSM 6.10, say, it does not."""
        return super().seekable()


def open_audio(source: str | io.BytesIO) -> SoundFile:
    """Open a path or the bytes of a file.

    `frames` of it are `UNKNOWN_FRAMES` or more where only reading to the end shows how many there
    are: of a flac from a pipe, and of an MP3 without a Xing or Info header or with more audio than
    that tells of.

    Raises:
        soundfile.LibsndfileError: not a format of libsndfile.
        TypeError: a name ending in .raw.
    """
    # As bytes: soundfile refuses a str with the bytes of another encoding (GBK, say) in it.
    file = SoundFile(os.fsencode(source) if isinstance(source, str) else source)
    if file.format != "MP3":
        return file
    with _opened(source) as opened:
        whole = _endless_mp3(opened)
    if whole is not None:
        file.close()
        file = SoundFile(whole)
        file.endless = whole
    return file


def fault_of_length(file: SoundFile, source: Source) -> str | None:
    """What libsndfile lets pass, and what helps: it takes what a header and a file both have.

    Args:
        file: opened from `source`.
        source: path or bytes; of a wav or flac also a part of a file.
    """
    info = file.extra_info
    if cut := _sign_of_truncation(file, info, source):
        return f"truncated: {cut}; copy the file again or remove it from the list"
    is_wav = file.format in ("WAV", "WAVEX")
    if is_wav and "at position" in info and (log := _BYTES_BEHIND.search(info)):
        length, a_second, announced, end = map(int, log.groups())
        if length - end > TOLERANCE * a_second and not _is_tag_or_padding(source, end):
            return (
                f"{announced} bytes of samples announced, {length - end} more after them: of a "
                "header that was never finished (sox --ignore-length writes it anew), or of "
                "something else, to be removed"
            )
    return None


def _is_tag_or_padding(source: Source, place: int) -> bool:
    """Whether what lies there to the end is no audio, as some programs add it after a whole file.

    Silence to the end may be of an unfinished header too; nobody misses it.
    """
    if isinstance(source, str):
        with open(source, "rb") as file:
            return _is_no_audio(file, place)
    before = source.tell()  # libsndfile reads on from there
    try:
        return _is_no_audio(source, place)
    finally:
        source.seek(before)


def _is_no_audio(file: BinaryIO | Window, place: int) -> bool:
    file.seek(place)
    found = first = file.read(LOOKED_AT) or b""
    if first.startswith((b"ID3", b"APETAGEX")):
        return True
    while found:
        if found.strip(first[:1]):
            return False
        found = file.read(LOOKED_AT) or b""
    return True


def _sign_of_truncation(file: SoundFile, info: str, source: Source) -> str | None:
    name = _SAMPLES.get(file.format)
    size_log = rf"^ *{name} *: (\d+) \(should be (\d+)\)"
    if name and "should be" in info and (log := re.search(size_log, info, re.MULTILINE)):
        announced, found = map(int, log.groups())
        missing = (announced - found) * file.frames / max(1, found)
        is_much = not file.frames or missing > TOLERANCE * file.samplerate
        if found < announced < UNKNOWN_WAV_SIZE and is_much:
            return f"{announced} bytes of samples announced, {found} found"
    if file.format == "RF64" and (log := _RF64_FRAMES_LOG.search(info)):
        found, announced = map(int, log.groups())
        if found < announced:
            return f"{announced} frames announced, {found} found"
    if file.format == "NIST":
        with _opened(source) as opened:
            header = _NIST_FRAMES.search(opened.read(_NIST_HEADER))
        if header and file.frames < int(header[1]):
            return f"{int(header[1])} frames announced, {file.frames} found"
    if file.format == "OGG" and _last_ogg_page_is_cut(source):
        return "its last Ogg page is not whole"
    return None


def ogg_links(file: SoundFile, source: str | io.BytesIO, end: float | None) -> list[io.BytesIO]:
    """The streams of a chained Ogg (RFC 3533, section 4), of which libsndfile reads the first.

    Args:
        file: opened from `source`.
        source: path or bytes.
        end: seconds of audio that are wanted; None: all.

    Returns:
        A file for each; none where it is no chain, or the first stream has all that is wanted.
    """
    if file.format != "OGG" or (end is not None and end * file.samplerate <= file.frames):
        return []
    with _opened(source) as opened:
        data = opened.read()
    starts: list[int] = []
    behind = 0
    for start in (found.start() for found in _FIRST_OGG_PAGE.finditer(data)):
        if start != behind or not starts:  # else side by side with the one before, not after it
            starts.append(start)
        behind = start + _ogg_page_size(data[start : start + MAX_OGG_PAGE])
    stops = [*starts[1:], len(data)]
    links = zip(starts, stops, strict=True) if len(starts) > 1 else ()
    return [io.BytesIO(data[start:stop]) for start, stop in links]


def _opened(source: Source) -> BinaryIO:
    """At its beginning; the place where libsndfile reads is another."""
    if isinstance(source, str):
        return open(source, "rb")
    assert isinstance(source, io.BytesIO)  # a part of a file is a wav or flac, which need it not
    return io.BytesIO(source.getvalue())


def _last_ogg_page_is_cut(source: Source) -> bool:
    with _opened(source) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_OGG_PAGE))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    return len(page) < _ogg_page_size(page)


def _ogg_page_size(page: bytes) -> int:
    """By its header: 27 bytes, the last of which counts the lengths that follow."""
    if len(page) < 27:
        return 27
    return 27 + page[26] + sum(page[27 : 27 + page[26]])


def _endless_mp3(file: BinaryIO) -> _Endless | None:
    """What libsndfile shall read of an MP3 so that it comes to the end; None: the file itself.

    It guesses the length from the first frame's bit rate where there is no Xing or Info header,
    and stops where that header says, even if another MP3 was appended (`cat a.mp3 b.mp3`). Without
    the header, and with its end out of sight, it reads frame by frame as long as there are any.
    """
    while (tag := file.read(10))[:3] == b"ID3":
        a, b, c, d = tag[6:]
        has_footer = bool(tag[5] & 0x10)
        file.seek((a << 21 | b << 14 | c << 7 | d) + 10 * has_footer, os.SEEK_CUR)
    start = file.tell() - len(tag)
    file.seek(start)
    frame = file.read(64)
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    if place >= 0:
        flags, num_frames, num_bytes = struct.unpack_from(">III", frame, place + 4)
        if flags & 3 == 3 and num_frames:  # it has both numbers
            file.seek(start + num_bytes)
            if not _has_mp3_frames(file.read()):
                return None
    file.seek(0)
    data = bytearray(file.read())
    if place >= 0:
        data[start + place : start + place + 4] = bytes(4)
    return _Endless(data)


def _has_mp3_frames(data: bytes) -> bool:
    """Whether there are two in a row: a tag or a picture may look like one."""
    for found in _MP3_HEADER.finditer(data):
        header = data[found.start() : found.start() + 4]
        if size := _mp3_frame_size(header):
            behind = found.start() + size
            if _mp3_kind(data[behind : behind + 4]) == _mp3_kind(header):
                return True
    return False


def _mp3_kind(header: bytes) -> tuple[bytes, int]:
    """Version, layer and sample rate, as bits."""
    return header[:2], header[2] & 0x0C if len(header) == 4 else 0


def _mp3_frame_size(header: bytes) -> int:
    """Bytes of a frame, by its first four; 0: none begins so."""
    if len(header) < 4:
        return 0
    version, bits, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version not in _RATES or not 1 <= bits <= 14 or rate == 3:
        return 0
    is_first = version == 3
    padding = header[2] >> 1 & 1
    bytes_a_second = 1000 * _KBITS[is_first][bits - 1] // 8
    return (1152 if is_first else 576) * bytes_a_second // _RATES[version][rate] + padding


class Window(io.RawIOBase):
    """Some bytes of an open file, such as a member of a tar, as a file of their own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._end = file, start, start + size
        file.seek(start)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        origin = {os.SEEK_SET: self._start, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._end}
        return self._file.seek(origin[whence] + offset) - self._start

    def tell(self) -> int:
        """As of any file."""
        return self._file.tell() - self._start

    def readinto(self, buffer: Any) -> int:
        """As of any file."""
        data = self._file.read(max(0, min(len(buffer), self._end - self._file.tell())))
        buffer[: len(data)] = data
        return len(data)


Source = str | io.BytesIO | Window


class _Endless(io.RawIOBase):
    """Bytes that seem to end at `FAR`, with an empty ID3v1 tag, and nothing before."""

    def __init__(self, data: bytearray) -> None:
        self._file = io.BytesIO(data)
        self.is_read = False  # to the end

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file that long."""
        if whence == os.SEEK_END:
            return self._file.seek(FAR + offset)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of any file."""
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        """As of any file."""
        if self.tell() >= FAR - _TAG:
            buffer[:] = bytes(len(buffer))
            return len(buffer)
        size = self._file.readinto(buffer)
        self.is_read = size == 0
        return size
