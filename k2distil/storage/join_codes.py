"""Several outputs of codes as one, where they mean the same."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from k2distil.errors import ConfigError, DataError
from k2distil.storage.joined_reader import JoinedReader
from k2distil.storage.reader import CodebookReader

logger = logging.getLogger(__name__)

# Codes of one training mean the same entries, at the same times.
ALIKE = ("quantizer_id", "teacher_digest", "num_codebooks", "codebook_size", "frame_shift")

Kind = tuple[CodebookReader, Mapping[str, Any]]  # and what it is taken to hold


def join_codes(
    readers: Sequence[CodebookReader],
    kinds: Sequence[Mapping[str, Any]] | None = None,
    options: Mapping[str, str] | None = None,
) -> JoinedReader:
    """One mapping of all their codes; of a key in more than one the first reader's count.

    Args:
        readers: of outputs of save_codebook.sh.
        kinds: what each is taken to hold, by the names of ALIKE, where its attributes do not say.
        options: what tells such a thing, for messages.

    Raises:
        ConfigError: codes of different quantizers, teachers or sizes.
        DataError: one key for two utterances.
    """
    known = [reader.meta for reader in readers] if kinds is None else kinds
    for first, other in combinations(zip(readers, known, strict=True), 2):
        _refuse_unlike(first, other, options or {})
    joined = JoinedReader(readers)
    _tell_shared(joined)
    return joined


def _refuse_unlike(first: Kind, other: Kind, options: Mapping[str, str]) -> None:
    paths = [reader.path for reader, _ in (first, other)]
    for what in ALIKE:
        values = [kind.get(what) for _, kind in (first, other)]
        if None in values or values[0] == values[1]:
            continue
        tell = ""
        silent = [reader.path for reader, _ in (first, other) if reader.meta.get(what) is None]
        if silent and what in options:
            tell = f"{silent[0]} does not say it: {options[what]} does, or "
        raise ConfigError(
            f"{what} is {values[0]} in {paths[0]}, {values[1]} in {paths[1]}; "
            f"{tell}give codes of the same teacher and quantizer"
        )


def _tell_shared(joined: JoinedReader) -> None:
    """A key may be in several outputs, if it is of the same audio."""
    shared = 0
    for later in joined.readers[1:]:
        for key in later:
            first, *others = joined.readers_of(key)
            if first is later:
                continue
            shared += others[0] is later  # once, in however many files
            if (lengths := (first.num_frames(key), later.num_frames(key)))[0] != lengths[1]:
                raise DataError(
                    f"{key}: {lengths[0]} frames in {first.path}, {lengths[1]} in {later.path}: "
                    "one key for two utterances; make the codes of lists whose keys differ"
                )
    if shared:
        logger.warning("%d keys are in several files of codes; those of the first count", shared)
