"""save_codebook.sh: the codes of all utterances -> h5; or, without --save_codebook, embeddings."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from k2distil.config import SaveCodebookConfig
from k2distil.device import choose_device
from k2distil.errors import ConfigError
from k2distil.pipeline.embed import ValuesOf
from k2distil.pipeline.extract import extract
from k2distil.pipeline.provenance import check_same_embedding
from k2distil.pipeline.save_embedding import save_embedding
from k2distil.pipeline.summary import Summary, prepare_output
from k2distil.pipeline.teacher import open_teacher, read_utterances
from k2distil.quantizer import Quantizer, load_quantizer

logger = logging.getLogger(__name__)


def save_codebook(config: SaveCodebookConfig) -> Summary:
    """Write the codes of the utterances that a config asks for."""
    if not config.save_codebook:
        if config.quantizer_path is not None:
            logger.warning("--quantizer_path is not used: without --save_codebook, embeddings")
        return save_embedding(config)
    if config.quantizer_path is None:
        raise ConfigError("--quantizer_path: missing; give the file of train_quantizer_offline.sh")
    prepare_output(config.save_path, [config.train_data, config.checkpoint, config.quantizer_path])
    device = choose_device(config.gpu)
    quantizer = load_quantizer(config.quantizer_path).to(device)
    _check_flags(config, quantizer)
    utterances = read_utterances(config, config.seed)
    teacher, provenance = open_teacher(config, device)
    check_same_embedding(
        config.quantizer_path,
        {**quantizer.provenance, "dim": quantizer.dim},
        provenance,
        config.force,
    )
    attributes = {
        "kind": "codes",
        **provenance,
        "quantizer_type": quantizer.type,
        "quantizer_id": quantizer.id,
        "num_codebooks": quantizer.num_codebooks,
        "codebook_size": quantizer.codebook_size,
    }
    return extract(config, utterances, teacher, codes_of(quantizer), attributes)


def codes_of(quantizer: Quantizer) -> ValuesOf:
    """The codes of frames, all frames of a batch at once."""

    def values_of(frames: list[Tensor]) -> list[np.ndarray]:
        codes = quantizer.encode(torch.cat(frames)).cpu()
        return [each.numpy() for each in codes.split([len(each) for each in frames])]

    return values_of


def _check_flags(config: SaveCodebookConfig, quantizer: Quantizer) -> None:
    given = [
        ("quantizer_in_dim", config.quantizer_in_dim, quantizer.dim),
        ("quantizer_out_dim", config.quantizer_out_dim, quantizer.num_codebooks),
        ("quantizer_codebook_size", config.quantizer_codebook_size, quantizer.codebook_size),
    ]
    errors = [
        f"--{name} {value}: {config.quantizer_path} has {actual}; leave it out"
        for name, value, actual in given
        if value not in (None, actual)
    ]
    if errors:
        raise ConfigError("\n".join(errors))
