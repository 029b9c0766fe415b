"""k2distil merge --help."""

import sys
from collections.abc import Sequence

from k2distil.bin.command import run
from k2distil.config import MergeConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(MergeConfig, "k2distil.pipeline.merge:merge", argv)


if __name__ == "__main__":
    sys.exit(main())
