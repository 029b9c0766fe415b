"""python -m k2distil.bin.save_codebook --help."""

import sys
from collections.abc import Sequence

from k2distil.bin.command import run
from k2distil.config import SaveCodebookConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(SaveCodebookConfig, "k2distil.pipeline.save_codebook:save_codebook", argv)


if __name__ == "__main__":
    sys.exit(main())
