"""k2distil report --help."""

import sys
from collections.abc import Sequence

from k2distil.bin.command import run
from k2distil.config import ReportConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(ReportConfig, "k2distil.pipeline.report:report", argv)


if __name__ == "__main__":
    sys.exit(main())
