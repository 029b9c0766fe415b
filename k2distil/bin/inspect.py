"""k2distil inspect --help."""

import sys
from collections.abc import Sequence

from k2distil.bin.command import run
from k2distil.config import InspectConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(InspectConfig, "k2distil.pipeline.inspect_file:inspect_file", argv)


if __name__ == "__main__":
    sys.exit(main())
