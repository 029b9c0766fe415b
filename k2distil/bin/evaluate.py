"""k2distil evaluate --help."""

import sys
from collections.abc import Sequence

from k2distil.bin.command import run
from k2distil.config import EvaluateConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(EvaluateConfig, "k2distil.pipeline.evaluate:evaluate", argv)


if __name__ == "__main__":
    sys.exit(main())
