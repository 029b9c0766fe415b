"""What a command says that looks at files and writes none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Findings:
    """Text for stdout, and what decides the exit status."""

    report: str
    num_failed: int = 0
