"""k2distil COMMAND: the same commands as the scripts, for an installed package."""

import importlib
import sys
from collections.abc import Sequence

from k2distil import __version__
from k2distil.bin.show import show
from k2distil.errors import nearest

COMMANDS = {
    "save_embedding": "teacher embeddings of some utterances -> h5",
    "train_quantizer": "embeddings, or audio, -> a quantizer",
    "save_codebook": "codes of all utterances -> h5",
    "train_distil": "transcripts and codes -> a student",
    "evaluate": "a student -> word and character error rates",
    "merge": "finished parts of a run that ended before its merge -> h5",
    "inspect": "what is in a file of codes, embeddings or a quantizer",
    "report": "codes, quantizers, students -> one HTML page of tables and plots",
    "verify": "whether a file of codes or embeddings is whole, right and complete",
    "export": "a quantizer, or codes -> files for another toolkit",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; without one, list them."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in {"-h", "--help"}:
        rows = "\n".join(f"  {each:17} {what}" for each, what in COMMANDS.items())
        show(f"usage: k2distil COMMAND [FLAGS]\n\ncommands:\n{rows}\n\nk2distil COMMAND --help")
        return 0
    if name == "--version":
        show(__version__)
        return 0
    if name not in COMMANDS:
        hint = nearest(name, COMMANDS, f"; known: {', '.join(COMMANDS)}")
        show(f"error: {name}: unknown command{hint}", sys.stderr)
        return 2
    return importlib.import_module(f"k2distil.bin.{name}").main(rest)


if __name__ == "__main__":
    sys.exit(main())
