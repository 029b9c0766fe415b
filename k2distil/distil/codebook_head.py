"""What predicts the codes, kept beside a student: a longer training goes on with it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch

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
        tensors = {name: each.cpu().contiguous() for name, each in self.loss.state_dict().items()}
        return {HEAD_FILE: safetensors.torch.save(tensors, dict(self.made_for))}

    def go_on_from(self, folder: Path) -> None:
        """Take the weights that stand beside the student there, if they are for the same.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = folder / HEAD_FILE
        if not path.exists():
            logger.info("what predicts the codes starts anew: %s has no %s", folder, HEAD_FILE)
            return
        try:
            with safetensors.safe_open(path, "pt") as file:
                found = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(
                f"{path}: damaged ({error}); remove it, and what predicts the codes starts anew"
            ) from error
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
