"""k2distil COMMAND: what the scripts call, torchrun starts and an installed package offers."""

import sys
from collections.abc import Sequence
from typing import Any

from k2distil import __version__, config
from k2distil.bin.command import run
from k2distil.bin.show import show
from k2distil.errors import EXIT_USER_ERROR, nearest

COMMAND_GROUPS = {  # of commands, as --help lists them
    "the four steps": {
        "save_embedding": config.SaveEmbeddingConfig,
        "train_quantizer": config.TrainQuantizerConfig,
        "save_codebook": config.SaveCodebookConfig,
        "train_distil": config.TrainDistilConfig,
    },
    "students": {
        "evaluate": config.EvaluateConfig,
        "average": config.AverageConfig,
    },
    "files": {
        "inspect": config.InspectConfig,
        "verify": config.VerifyConfig,
        "report": config.ReportConfig,
        "merge": config.MergeConfig,
        "export": config.ExportConfig,
    },
}
COMMANDS: dict[str, Any] = {
    name: kind for group in COMMAND_GROUPS.values() for name, kind in group.items()
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
    return EXIT_USER_ERROR


def _usage() -> str:
    lines = ["usage: k2distil COMMAND [FLAGS]"]
    for title, commands in COMMAND_GROUPS.items():
        lines += ["", f"{title}:"]
        for name, kind in commands.items():
            what = (kind.__doc__ or "").splitlines()[0].partition(": ")[2]
            lines.append(f"  {name:17} {what.removesuffix('.')}")
    last = "k2distil COMMAND --help lists its flags; k2distil --version prints the version."
    return "\n".join([*lines, "", last])


if __name__ == "__main__":
    sys.exit(main())
