"""One student of several checkpoints of its training: the mean of their weights.

Where the learning rate is still high, the weights of single steps lie around a better place
(Izmailov et al. 2018, arXiv 1803.05407); WeNet and icefall average theirs too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from k2distil.errors import DataError

WEIGHTS = "model.safetensors"  # of a DistilModel, as the Trainer saves it


def average_weights(checkpoints: Sequence[Path]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The mean over checkpoints of each tensor; of whole numbers those of the last.

    Args:
        checkpoints: folders of the Trainer, whole ones, the latest last.

    Returns:
        The states of a DistilModel's student and of its CodebookLoss.

    Raises:
        DataError: one is of another student than the last.
    """
    last = _weights_of(checkpoints[-1])
    sums = {name: tensor.double() for name, tensor in last.items() if tensor.is_floating_point()}
    for folder in checkpoints[:-1]:
        found = _weights_of(folder)
        if {name: each.shape for name, each in found.items()} != {
            name: each.shape for name, each in last.items()
        }:
            raise DataError(f"{folder}: of another student than {checkpoints[-1]}; remove one")
        for name, total in sums.items():
            total += found[name].double()
    means = {name: (total / len(checkpoints)).to(last[name].dtype) for name, total in sums.items()}
    means = last | means
    return _of("student.", means), _of("codebook_loss.", means)


def _of(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)
    }


def _weights_of(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / WEIGHTS)
