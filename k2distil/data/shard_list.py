"""WeNet's shard list: one tar per line, by path or URL, each a run of utterances."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from k2distil.batch import Utterance
from k2distil.data.fetch import URL_SCHEMES, fetch
from k2distil.data.list_file import Lines
from k2distil.data.relative_path import path_resolver
from k2distil.errors import DataError

AUDIO_SUFFIXES = frozenset({"flac", "m4a", "mp3", "ogg", "opus", "wav", "wma"})  # WeNet's
COMPRESSED_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gz, bz2, xz, zst

# Bytes. By default Python reads 1 to 4 MiB at each header on NFS or Lustre: all of the audio.
SCAN_BUFFER = 4096


def read_shard_lines(
    lines: Lines,
    list_path: Path,
    cache_dir: Path | None,
    with_text: bool = True,
) -> Iterator[tuple[int, Utterance | str]]:
    """Scan the tars' headers; yield (line number, utterance or what is wrong and what helps).

    A tar given by URL is fetched first, which takes its time; what is wrong with one does not keep
    the others from being read.

    Consecutive members that share the name up to its last dot make an utterance: one audio file,
    and its transcript in a `.txt`. Other members are passed over. The utterance tells where its
    audio lies in the tar, so nothing is unpacked.

    Args:
        list_path: what its relative paths are beside.
        cache_dir: where tars of http and https URLs are copied to; None: they are refused.
        with_text: else no `.txt` is read.
    """
    resolve = path_resolver(list_path)
    for number, line in lines:
        is_url = line.startswith(URL_SCHEMES) and cache_dir is not None
        if not is_url and ("://" in line or line.startswith("pipe:")):
            yield number, f"{line}: no such remote shards are read; copy it to a local disk"
            continue
        try:
            path = str(fetch(line, cache_dir)) if is_url and cache_dir else resolve(line)
        except DataError as error:
            yield number, str(error)
            continue
        try:
            with open(path, "rb", buffering=SCAN_BUFFER) as file:
                if file.read(6).startswith(COMPRESSED_MAGIC):
                    yield number, f"{path}: a compressed tar; decompress it (audio hardly shrinks)"
                    continue
                file.seek(0)
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for entry in _utterances(tar, path, line if is_url else None, with_text):
                        yield number, entry
        except OSError as error:
            yield number, f"{path}: cannot be read ({error.strerror}); correct the path"
        except tarfile.TarError as error:
            yield number, f"{path}: not a whole tar ({error}); make it anew"


def _utterances(
    tar: tarfile.TarFile, path: str, url: str | None, with_text: bool
) -> Iterator[Utterance | str]:
    files = (member for member in tar if not member.isdir())
    num_utterances = 0
    for name, group in groupby(files, key=lambda member: member.name.rpartition(".")[0]):
        members = [(member.name.rpartition(".")[2].lower(), member) for member in group]
        audio = [member for suffix, member in members if suffix in AUDIO_SUFFIXES]
        text = [member for suffix, member in members if suffix == "txt"]
        if not audio and not text:
            continue
        num_utterances += 1
        if "/" in name.removeprefix("./"):
            yield (
                f"{path}: {name}: its folder would be a part of the key, which can have no /; make "
                "the tar in that folder (tar --sort=name -C FOLDER -cf FILE.tar .)"
            )
            continue
        if len(audio) != 1 or len(text) > 1 or not _is_plain(audio[0]):
            found = ", ".join(member.name for member in audio + text)
            yield (
                f"{path}: expected one audio file and at most one .txt of one name, one after "
                f"another (tar --sort=name -cf does that), got {found}"
            )
            continue
        transcript = None
        if with_text and text and (content := tar.extractfile(text[0])) is not None:
            try:
                transcript = content.read().decode("utf-8").strip()
            except UnicodeDecodeError as error:
                yield f"{path}: {text[0].name}: not UTF-8 text ({error}); write it in UTF-8"
                continue
        yield Utterance(
            key=name.removeprefix("./"),
            wav=path,
            text=transcript,
            tar_offset=audio[0].offset_data,
            tar_size=audio[0].size,
            tar_url=url,
        )
    if num_utterances == 0:
        yield f"{path}: no audio in it; expected members such as utt1.wav and utt1.txt"


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Whether its bytes lie in the tar as they are: no link, no sparse file."""
    return member.isfile() and not member.issparse()
