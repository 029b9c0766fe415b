#!/usr/bin/env python3
"""Print what the demo made, from the summaries that the scripts left.

python table.py exp/en-600
"""

import argparse
import json
from pathlib import Path
from typing import Any


def summary(path: Path) -> dict[str, Any]:
    """The summary beside an output, and the size of the output itself."""
    figures = json.loads(path.with_name(f"{path.name}.summary.json").read_text())
    return figures | {"megabytes": path.stat().st_size / 1e6}


def rows(exp: Path) -> list[tuple[str, str, str]]:
    """(what, offline, online)."""
    embedding = summary(exp / "embedding.h5")
    quantizers = [summary(exp / mode / "quantizer.pt") for mode in ("offline", "online")]
    codes = [summary(exp / mode / "codes.h5") for mode in ("offline", "online")]

    def both(what: str, form: str, values: list[Any]) -> tuple[str, str, str]:
        return what, format(values[0], form), format(values[1], form)

    return [
        ("embeddings: utterances", f"{embedding['written']}", "none stored"),
        ("embeddings: hours", f"{embedding['audio_seconds'] / 3600:.3f}", ""),
        ("embeddings: MB", f"{embedding['megabytes']:.1f}", "0.0"),
        ("embeddings: seconds", f"{embedding['wall_seconds']:.1f}", ""),
        ("embeddings: x real time", f"{embedding['times_real_time']:.0f}", ""),
        both("quantizer: seconds", ".1f", [each["wall_seconds"] for each in quantizers]),
        both("quantizer: frames", ",", [each["frames"] for each in quantizers]),
        both(
            "quantizer: held-out relative error",
            ".3f",
            [each["held_out"]["relative_error"] for each in quantizers],
        ),
        both(
            "quantizer: codebook usage", ".0%", [each["held_out"]["usage"] for each in quantizers]
        ),
        both("codes: utterances", "", [each["written"] for each in codes]),
        both("codes: hours", ".3f", [each["audio_seconds"] / 3600 for each in codes]),
        both("codes: frames", ",", [each["frames"] for each in codes]),
        both("codes: MB", ".2f", [each["megabytes"] for each in codes]),
        both("codes: seconds", ".1f", [each["wall_seconds"] for each in codes]),
        both("codes: x real time", ".0f", [each["times_real_time"] for each in codes]),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exp", type=Path, help="the demo's output folder")
    exp = parser.parse_args().exp
    print(f"{'':36}{'offline':>14}{'online':>14}")
    for what, offline, online in rows(exp):
        print(f"{what:36}{offline:>14}{online:>14}")
    rates = {
        name: json.loads((exp / "student" / f"{name}.json").read_text())
        for name in ("text", "codes")
    }
    print(f"\n{'students: % errors, test voices':36}{'text alone':>14}{'+ codes':>14}{'ratio':>8}")
    for metric in ("wer", "cer"):
        text, codes = (100 * rates[name][metric] for name in ("text", "codes"))
        print(f"{metric.upper():36}{text:>14.1f}{codes:>14.1f}{codes / max(text, 1e-9):>8.2f}")
    print(f"\nThe student: {exp / 'student' / 'codes' / 'best'}")


if __name__ == "__main__":
    main()
