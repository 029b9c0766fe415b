"""Codes for lhotse, which icefall reads: cuts that have them, and shards. See docs/interop.md."""

from k2distil.interop.lhotse.cuts import (
    attach_codes,
    check_field,
    make_cuts,
    read_cuts,
    require_lhotse,
    write_cuts,
)
from k2distil.interop.lhotse.shar import write_shar

__all__ = [
    "attach_codes",
    "check_field",
    "make_cuts",
    "read_cuts",
    "require_lhotse",
    "write_cuts",
    "write_shar",
]
