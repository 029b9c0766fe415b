"""python -m k2distil.bin.train_quantizer --help."""

import sys
from collections.abc import Sequence

from k2distil.bin.command import run
from k2distil.config import TrainQuantizerConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    target = "k2distil.pipeline.train_quantizer:train_quantizer"
    return run(TrainQuantizerConfig, target, argv, __spec__)


if __name__ == "__main__":
    sys.exit(main())
