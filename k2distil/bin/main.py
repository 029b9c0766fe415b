"""k2distil COMMAND: what the scripts call, torchrun starts and an installed package offers."""

import sys
from collections.abc import Sequence

from k2distil import __version__, config
from k2distil.bin.command import run
from k2distil.bin.show import show
from k2distil.errors import nearest

COMMANDS = {
    "save_embedding": config.SaveEmbeddingConfig,
    "train_quantizer": config.TrainQuantizerConfig,
    "save_codebook": config.SaveCodebookConfig,
    "train_distil": config.TrainDistilConfig,
    "evaluate": config.EvaluateConfig,
    "average": config.AverageConfig,
    "merge": config.MergeConfig,
    "inspect": config.InspectConfig,
    "report": config.ReportConfig,
    "verify": config.VerifyConfig,
    "export": config.ExportConfig,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; without one, list them."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in {"-h", "--help"}:
        show(_usage())
        return 0
    if name == "--version":
        show(__version__)
        return 0
    if name in COMMANDS:
        return run(COMMANDS[name], f"k2distil.pipeline.{name}:{name}", rest)
    hint = nearest(name, list(COMMANDS), f"; known: {', '.join(COMMANDS)}")
    show(f"error: {name}: unknown command{hint}", sys.stderr)
    return 2


def _usage() -> str:
    does = {name: (kind.__doc__ or "").partition(": ")[2] for name, kind in COMMANDS.items()}
    rows = "\n".join(f"  {name:17} {what.removesuffix('.')}" for name, what in does.items())
    return f"usage: k2distil COMMAND [FLAGS]\n\ncommands:\n{rows}\n\nk2distil COMMAND --help"


if __name__ == "__main__":
    sys.exit(main())
