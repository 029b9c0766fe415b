"""k2distil verify --help."""

import sys
from collections.abc import Sequence

from k2distil.bin.command import run
from k2distil.config import VerifyConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(VerifyConfig, "k2distil.pipeline.verify:verify", argv)


if __name__ == "__main__":
    sys.exit(main())
