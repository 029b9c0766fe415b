"""One student of several checkpoints of its training: the mean of their weights.

Where the learning rate is still high, the weights of single steps lie around a better place
(Izmailov et al. 2018, arXiv 1803.05407); WeNet and icefall average theirs too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from k2distil.errors import DataError

WEIGHTS = "model.safetensors"  # of a DistilModel, as the Trainer saves it
STUDENT = "student."


def average_weights(checkpoints: Sequence[Path]) -> dict[str, Tensor]:
    """The student's state, each tensor the mean over checkpoints; whole numbers of the last.

    Args:
        checkpoints: folders of the Trainer, the latest one last.

    Raises:
        DataError: one is damaged, or of another student than the last.
    """
    last = _student_of(checkpoints[-1])
    sums = {name: tensor.double() for name, tensor in last.items() if tensor.is_floating_point()}
    for folder in checkpoints[:-1]:
        found = _student_of(folder)
        if {name: each.shape for name, each in found.items()} != {
            name: each.shape for name, each in last.items()
        }:
            raise DataError(f"{folder}: of another student than {checkpoints[-1]}; remove one")
        for name, total in sums.items():
            total += found[name].double()
    means = {name: (total / len(checkpoints)).to(last[name].dtype) for name, total in sums.items()}
    return last | means


def _student_of(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder / WEIGHTS}: damaged ({error}); remove this checkpoint") from error
    return {
        name.removeprefix(STUDENT): tensor
        for name, tensor in found.items()
        if name.startswith(STUDENT)
    }
