"""python -m k2distil.bin.save_embedding --help."""

import sys
from collections.abc import Sequence

from k2distil.bin.command import run
from k2distil.config import SaveEmbeddingConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(
        SaveEmbeddingConfig, "k2distil.pipeline.save_embedding:save_embedding", argv, __spec__
    )


if __name__ == "__main__":
    sys.exit(main())
