"""python -m k2distil.bin.train_quantizer --help."""

import sys
from collections.abc import Sequence

from k2distil.bin.command import run
from k2distil.config import TrainQuantizerConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(TrainQuantizerConfig, "k2distil.pipeline.train_quantizer:train_quantizer", argv)


if __name__ == "__main__":
    sys.exit(main())
