"""What predicts the codes, kept beside a student: a longer training goes on with it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from k2distil.distil.loss import CodebookLoss
from k2distil.errors import CheckpointError

logger = logging.getLogger(__name__)

HEAD_FILE = "codebook_head.safetensors"  # in the folder of a student; transformers ignores it


@dataclass(frozen=True)
class CodebookHead:
    """A loss with its head, and what that is for.

    made_for: what must be alike where it is to be of use, e.g. quantizer_id and student_layer.
    """

    loss: CodebookLoss
    made_for: Mapping[str, str]

    def files(self) -> dict[str, bytes]:
        """What stands beside a student, by name."""
        return _files(self.loss.state_dict(), self.made_for)

    def go_on_from(self, folder: Path) -> None:
        """Take the weights that stand beside the student there, if they are for the same.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = folder / HEAD_FILE
        if not path.exists():
            logger.info("what predicts the codes starts anew: %s has no %s", folder, HEAD_FILE)
            return
        tensors, found = _read(path)
        differences = [
            f"{name} {found.get(name)} there, {value} here"
            for name, value in self.made_for.items()
            if found.get(name) != value
        ]
        if differences:
            logger.info(
                "what predicts the codes starts anew: %s is for others (%s)",
                *(path, ", ".join(differences)),
            )
            return
        self.loss.load_state_dict(tensors)
        logger.info("what predicts the codes goes on from %s", path)


def with_weights(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    """What stands beside the student there, with other weights; empty: nothing does.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / HEAD_FILE
    return _files(tensors, _read(path)[1]) if path.exists() else {}


def _files(tensors: Mapping[str, Tensor], made_for: Mapping[str, str]) -> dict[str, bytes]:
    contents = {name: each.cpu().contiguous() for name, each in tensors.items()}
    return {HEAD_FILE: safetensors.torch.save(contents, dict(made_for))}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """-> its tensors, and what it was made for."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path}: damaged ({error}); remove it, and what predicts the codes starts anew"
        ) from error
