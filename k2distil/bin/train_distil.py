"""python -m k2distil.bin.train_distil --help."""

import sys
from collections.abc import Sequence

from k2distil.bin.command import run
from k2distil.config import TrainDistilConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(TrainDistilConfig, "k2distil.pipeline.train_distil:train_distil", argv, __spec__)


if __name__ == "__main__":
    sys.exit(main())
