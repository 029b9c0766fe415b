"""python -m k2distil.bin.save_codebook --help."""

import sys
from collections.abc import Sequence

from k2distil.bin.command import run
from k2distil.config import SaveCodebookConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    target = "k2distil.pipeline.save_codebook:save_codebook"
    return run(SaveCodebookConfig, target, argv, __spec__)


if __name__ == "__main__":
    sys.exit(main())
