#!/usr/bin/env python3
"""Copy an audio list, and leave the text to some of it: what a user has who transcribed a part.

    python hide_text.py exp/speech/train/data.list exp/student/data.list --num_labelled 160

Paths become absolute. The utterances that keep their text are a seeded random sample.
"""

import argparse
import json
import random
from pathlib import Path


def hide_text(source: Path, target: Path, num_labelled: int) -> None:
    """Write `target`; the same utterances in the same order."""
    entries = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    kept = set(random.Random(0).sample(range(len(entries)), min(num_labelled, len(entries))))
    lines = []
    for index, entry in enumerate(entries):
        entry["wav"] = str((source.parent / entry["wav"]).resolve())
        if index not in kept:
            del entry["txt"]
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Parse the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--num_labelled", type=int, required=True)
    options = parser.parse_args()
    hide_text(options.source, options.target, options.num_labelled)


if __name__ == "__main__":
    main()
