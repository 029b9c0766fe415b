"""Whether a list is the one that an output was made from."""

from dataclasses import replace
from pathlib import Path

import pytest

from k2distil.batch import Utterance
from k2distil.pipeline.run.digests import digest_of_entries, entries_as_text, has_other_entries
from k2distil.storage import UtteranceReader
from tests.pipeline.outputs import random_codes, write_output

UTTERANCES = [Utterance(key, f"/wavs/{key}.wav", 1.0, 2.0) for key in "abcd"]
ENTRIES = entries_as_text(digest_of_entries(UTTERANCES))
SEVERAL = 60 * 0.02 / 3600  # hours a file, of 132 frames in all


@pytest.mark.parametrize("options", [{}, {"shard_hours": SEVERAL}], ids=["one", "several"])
def test_the_entries_of_an_output_are_told_from_others(tmp_path: Path, options: dict) -> None:
    path = write_output(tmp_path / "codes.h5", random_codes(), entries=ENTRIES, **options)
    reader = UtteranceReader(path)
    assert len(reader.files) == (3 if options else 1)
    assert not has_other_entries(reader, UTTERANCES)
    assert not has_other_entries(reader, [Utterance("new", "new.wav"), *reversed(UTTERANCES)])
    for change in ({"wav": "/moved/d.wav"}, {"start": 0.5}, {"end": None}, {"channel": 1}):
        assert has_other_entries(reader, [*UTTERANCES[:3], replace(UTTERANCES[3], **change)])


def test_what_cannot_be_told_are_no_other_entries(tmp_path: Path) -> None:
    moved = [replace(each, wav="elsewhere.wav") for each in UTTERANCES]
    path = write_output(tmp_path / "codes.h5", random_codes(), entries=ENTRIES)
    assert has_other_entries(UtteranceReader(path), moved)
    assert not has_other_entries(UtteranceReader(path), moved[:3])
    without = write_output(tmp_path / "older.h5", random_codes())
    assert not has_other_entries(UtteranceReader(without), moved)
    options = {"entries": ENTRIES, "shard_hours": SEVERAL}
    write_output(tmp_path / "several.h5", random_codes(), **options)
    assert not has_other_entries(UtteranceReader(tmp_path / "several-00000.h5"), UTTERANCES)
