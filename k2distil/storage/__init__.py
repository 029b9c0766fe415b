"""h5 files with one array per utterance: `PartFolder` makes them, readers read them."""

from k2distil.storage.check import Problems, check_h5
from k2distil.storage.file_list import SHARD_HOURS
from k2distil.storage.fingerprint import describe_differences, refuse_other_settings
from k2distil.storage.join_codes import join_codes
from k2distil.storage.joined_reader import JoinedReader
from k2distil.storage.merge import DamagedPartError
from k2distil.storage.output import check_finished, complete_output, output_lease, refuse_foreign
from k2distil.storage.parts import (
    PartFolder,
    refuse_others,
    refuse_unfinished,
    remove_parts,
)
from k2distil.storage.reader import CodebookReader, EmbeddingReader, UtteranceReader
from k2distil.storage.unmerged import find_unmerged, merged_already, note_for_merge
from k2distil.storage.utterance_h5 import attributes_of

__all__ = [
    "SHARD_HOURS",
    "CodebookReader",
    "DamagedPartError",
    "EmbeddingReader",
    "JoinedReader",
    "PartFolder",
    "Problems",
    "UtteranceReader",
    "attributes_of",
    "check_finished",
    "check_h5",
    "complete_output",
    "describe_differences",
    "find_unmerged",
    "join_codes",
    "merged_already",
    "note_for_merge",
    "output_lease",
    "refuse_foreign",
    "refuse_other_settings",
    "refuse_others",
    "refuse_unfinished",
    "remove_parts",
]
