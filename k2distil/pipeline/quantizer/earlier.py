"""What earlier runs left of a quantizer: the file, or a training that is not done."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from k2distil.errors import CheckpointError
from k2distil.pipeline.run.summary import Summary, beside, read_summary, write_summary
from k2distil.quantizer import QuantizerTrainer, load_quantizer
from k2distil.storage import describe_differences, refuse_other_settings

logger = logging.getLogger(__name__)


def is_there_already(save_path: Path, fingerprint: dict[str, Any], force: bool) -> bool:
    """Whether the quantizer is there already."""
    if not save_path.exists():
        return False
    quantizer = load_quantizer(save_path, expected="remove it, or give another --save_path")
    if quantizer.type == "multi_quantization":
        raise CheckpointError(
            f"{save_path}: a quantizer of multi_quantization, not made by k2distil, never "
            "replaced; give another --save_path"
        )
    found = json.loads(str(quantizer.provenance.get("fingerprint", "{}")))
    if "first_of" in quantizer.provenance:
        found["first_of"] = quantizer.provenance["first_of"]
        found["quantizer_out_dim"] = quantizer.num_codebooks
    if not _is_same(save_path, found, fingerprint, force):
        return False
    logger.info("%s: complete already", save_path)
    return True


def summary_of_existing(save_path: Path) -> Summary:
    """The summary of a quantizer that is there; a kill may have left it to be written."""
    quantizer = load_quantizer(save_path)
    fingerprint = json.loads(str(quantizer.provenance["fingerprint"]))
    path = checkpoint_path(save_path)
    with suppress(Exception):  # there is none, or a damaged one
        found, _ = _read_checkpoint(path)
        if found == fingerprint | {"device": found["device"]}:
            path.unlink()
    summary = read_summary(save_path)
    if summary.get("quantizer_id") != quantizer.id:  # of one that was to replace it
        figures = {
            "quantizer_id": quantizer.id,
            "dim": quantizer.dim,
            "held_out": quantizer.figures,
            "fingerprint": fingerprint,
        }
        return write_summary(save_path, figures)
    return Summary(0, summary)


def resume(
    trainer: QuantizerTrainer, save_path: Path, fingerprint: dict[str, Any], force: bool
) -> None:
    """Go on with an unfinished training of the same settings, if there is one."""
    path = checkpoint_path(save_path)
    if not path.exists():
        return
    try:
        found, state = _read_checkpoint(path)
    except OSError:  # of a disk that answers again it may be whole
        raise
    except Exception as error:  # torch raises many kinds for a broken file
        logger.warning("%s: damaged, training from the start: %s", path, type(error).__name__)
        return
    if _is_same(path, found, fingerprint | {"device": trainer.device.type}, force):
        try:
            trainer.load_state_dict(state)
        except CheckpointError as error:
            logger.warning("%s: training from the start: %s", path, error)
            return
        logger.info("resuming at step %d of %d", trainer.steps_done, trainer.num_steps)


def checkpoint_path(save_path: Path) -> Path:
    """Where an unfinished training is kept."""
    return beside(save_path, "training.pt")


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """-> (settings with the kind of device, which decides the last bits; state of the trainer)."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state = checkpoint["state"]
    return checkpoint["fingerprint"] | {"device": state["config"]["device"]}, state


def _is_same(path: Path, found: dict[str, Any], wanted: dict[str, Any], force: bool) -> bool:
    """Whether a file was made with the same settings.

    Raises:
        DataError: it was not, and there is no --force.
    """
    if not force:
        refuse_other_settings(path, found, wanted)
    return not describe_differences(found, wanted)
