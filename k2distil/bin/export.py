"""k2distil export --help."""

import sys
from collections.abc import Sequence

from k2distil.bin.command import run
from k2distil.config import ExportConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(ExportConfig, "k2distil.pipeline.export:export", argv)


if __name__ == "__main__":
    sys.exit(main())
