"""k2distil export --to multi_quantization: a quantizer -> a state dict of the package."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from k2distil.atomic import replacing
from k2distil.config import ExportConfig
from k2distil.pipeline.exports.replacing import digest_at, digests, refuse_unknown_file
from k2distil.pipeline.run.summary import Summary, prepare_output, read_summary, write_summary
from k2distil.quantizer import load_quantizer, package_state, quantizer_file
from k2distil.quantizer.checkpoint import serialized
from k2distil.storage import refuse_other_settings

logger = logging.getLogger(__name__)

MIN_REFINED_ENTRIES = 16  # of a codebook; multi_quantization's refinement fails with 2, 4 and 8


def export_multi_quantization(config: ExportConfig) -> Summary:
    """Write a quantizer as multi_quantization's state dict.

    Args:
        config: with quantizer_path.

    Raises:
        ConfigError, DataError, CheckpointError: see docs/errors.md.
    """
    assert config.quantizer_path is not None
    path, save_path = quantizer_file(config.quantizer_path), config.save_path
    prepare_output(save_path, [path])
    quantizer = load_quantizer(path)
    state = package_state(quantizer, path)
    there = digest_at(save_path)
    if there is not None:
        if _holds(save_path, state):
            logger.info("%s: complete already", save_path)
            return Summary(0, read_summary(save_path))
        found = read_summary(save_path)
        refuse_unknown_file(save_path, there, found)
        if not config.force:
            before = {"quantizer_id": found["quantizer_id"]}
            refuse_other_settings(save_path, before, {"quantizer_id": quantizer.id})
    if quantizer.codebook_size < MIN_REFINED_ENTRIES:
        logger.warning(
            "%d entries a codebook: multi_quantization encodes with refine_indexes_iters=0 only",
            quantizer.codebook_size,
        )
    if quantizer.correction is not None:
        logger.warning(
            "multi_quantization decodes to the sums of centers: the correction that "
            "k2distil's decode adds has no place in its format"
        )
    with replacing(save_path) as temporary:
        temporary.write_bytes(serialized(state))
        figures = {"to": config.to, "quantizer_id": quantizer.id, **digests(temporary, there)}
        summary = write_summary(save_path, figures)
    logger.info(
        "%s: multi_quantization.Quantizer(dim=%d, codebook_size=%d, num_codebooks=%d), %s %s",
        *(save_path, quantizer.dim, quantizer.codebook_size, quantizer.num_codebooks),
        *(quantizer.type, quantizer.id),
    )
    return summary


def _holds(path: Path, state: dict[str, Tensor]) -> bool:
    """Whether a file holds these tensors and nothing else."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        return found.keys() == state.keys() and all(
            torch.equal(found[key], tensor) for key, tensor in state.items()
        )
    except Exception:  # torch raises many kinds for what is no file of its own
        return False
