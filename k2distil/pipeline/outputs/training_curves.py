"""What a training wrote for TensorBoard, as points."""

from __future__ import annotations

import logging
from pathlib import Path


def training_curves(runs: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag, such as train/loss or eval/wer -> (step, value), in the order of steps.

    Args:
        runs: a folder of event files, in one folder per start; where a training went on from an
            earlier step, what came later counts.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    starts = {file.parent for file in runs.rglob("events.out.tfevents.*")}
    points: dict[str, dict[int, float]] = {}
    for start in sorted(starts, key=lambda folder: folder.stat().st_mtime):
        events = EventAccumulator(str(start)).Reload()
        for tag in events.Tags()["scalars"]:
            found = {each.step: each.value for each in events.Scalars(tag)}
            points.setdefault(tag, {}).update(found)
    return {tag: sorted(found.items()) for tag, found in points.items()}
