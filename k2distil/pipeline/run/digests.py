"""Digests that tell lists and files apart, as fingerprints have them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from k2distil.batch import Utterance
from k2distil.storage import SHARD_HOURS, UtteranceReader
from k2distil.storage.file_list import is_list

logger = logging.getLogger(__name__)

ENTRIES = "entries"  # the root attribute with the `digest_of_entries` of what is in an output
ENTRIES_MODULUS = 2**128  # of digests that add up


def digest_of(utterances: Sequence[Utterance], with_text: bool = False) -> str:
    """A digest of keys, audio and segments in their order, and of the text where it counts."""
    digest = hashlib.sha256()
    for each in utterances:
        fields = (each.key, _source(each), each.start, each.end, each.tar_offset)
        digest.update(repr(fields).encode())
        if each.channel is not None:
            digest.update(repr(each.channel).encode())
        if with_text:
            digest.update(repr(each.text).encode())
    return digest.hexdigest()[:16]


def digest_of_file(path: Path) -> str:
    """sha256 (hex) of its bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of_path(path: Path) -> str:
    """sha256 (hex) of a file; of a folder that of its files."""
    if not path.is_dir():
        return digest_of_file(path)
    digest = hashlib.sha256()
    for each in sorted(path.iterdir()):
        if each.is_file():
            digest.update(f"{each.name} {digest_of_file(each)}\n".encode())
    return digest.hexdigest()


def content_of(file: UtteranceReader) -> str:
    """What tells two versions of a file apart: its own digest; of those of others size and time."""
    status = file.path.stat()
    stamp = f"{status.st_size} bytes, changed at {status.st_mtime_ns}"
    return str(file.meta.get("content_digest", stamp))


def digest_of_entries(utterances: Iterable[Utterance]) -> int:
    """A digest of keys, audio and segments in any order; those of two sets add up to that of both.

    The place in a tar does not count: a tar that is made anew for one of its members moves others.
    """
    total = 0
    for each in utterances:
        fields = (each.key, _source(each), each.start, each.end, each.channel)
        total += int.from_bytes(hashlib.sha256(repr(fields).encode()).digest()[:16], "big")
    return total % ENTRIES_MODULUS


def entries_as_text(digest: int) -> str:
    """As the root attribute has it: 32 hex digits."""
    return f"{digest % ENTRIES_MODULUS:032x}"


def warn_of_other_entries(reader: UtteranceReader, utterances: Iterable[Utterance]) -> None:
    """See `has_other_entries`; paths change when a folder moves, so it is no error."""
    if has_other_entries(reader, utterances):
        logger.warning(
            "%s: the list has other audio, segments or paths than it was made from; where the "
            "paths alone have changed that is right",
            reader.path,
        )


def has_other_entries(reader: UtteranceReader, utterances: Iterable[Utterance]) -> bool:
    """Whether a list has other audio, segments or paths than an output was made from.

    False where that cannot be told: the list lacks keys of the output, which has no digest of its
    entries, or is one of several files alone, with the digest of all.

    Args:
        reader: of the output.
        utterances: of the list; those that are not in the output do not count, and of a key in
            several lists the first one.
    """
    is_one_of_several = SHARD_HOURS in reader.meta and not is_list(reader.meta)
    if ENTRIES not in reader.meta or is_one_of_several:
        return False
    seen: set[str] = set()

    def once() -> Iterator[Utterance]:
        for each in utterances:
            if each.key in reader and each.key not in seen:
                seen.add(each.key)
                yield each

    own = entries_as_text(digest_of_entries(once()))
    return len(seen) == len(reader) and own != reader.meta[ENTRIES]


def _source(utterance: Utterance) -> str:
    """The audio file, or the tar or the URL of the tar it lies in, or a command."""
    if utterance.is_command:
        return utterance.wav
    return utterance.tar_url or os.path.abspath(utterance.wav)
