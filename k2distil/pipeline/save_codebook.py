"""save_codebook.sh: the codes of all utterances -> h5; or, without --save_codebook, embeddings."""

from __future__ import annotations

import logging

from k2distil.config import SaveCodebookConfig
from k2distil.device import use_device
from k2distil.errors import ConfigError
from k2distil.pipeline.extraction.extract import extract
from k2distil.pipeline.extraction.provenance import check_same_embedding
from k2distil.pipeline.extraction.teacher import open_teacher, read_utterances
from k2distil.pipeline.run.summary import Summary, prepare_output
from k2distil.pipeline.run.unused_flags import warn_of_unused
from k2distil.pipeline.save_embedding import save_embedding
from k2distil.quantizer import MultiQuantizer, Quantizer, load_quantizer

logger = logging.getLogger(__name__)


def save_codebook(config: SaveCodebookConfig) -> Summary:
    """Write the codes of the utterances that a config asks for."""
    if not config.save_codebook:
        for name in ("quantizer_path", "num_codebooks_used"):
            if getattr(config, name) is not None:
                logger.warning(
                    "--%s is not used: without --save_codebook the embeddings are written, which "
                    "are hundreds of times as large as codes",
                    name,
                )
        sizes = ("quantizer_in_dim", "quantizer_out_dim", "quantizer_codebook_size")
        warn_of_unused(config, sizes, "without --save_codebook, embeddings")
        return save_embedding(config)
    if config.quantizer_path is None:
        raise ConfigError("--quantizer_path: missing; give the file of train_quantizer_offline.sh")
    warn_of_unused(config, ["embedding_dtype"], "codes are whole numbers")
    inputs = [*(config.train_data or ()), config.checkpoint, config.quantizer_path]
    prepare_output(config.save_path, inputs)
    device = use_device(config.gpu)
    quantizer = load_quantizer(config.quantizer_path, device)
    _check_flags(config, quantizer)
    num_trained = quantizer.num_codebooks
    if config.num_codebooks_used is not None:
        quantizer = _first(quantizer, config.num_codebooks_used)
    utterances = read_utterances(config)
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
    if quantizer.num_codebooks < num_trained:  # all of them are the same output as ever
        attributes["num_codebooks_trained"] = num_trained
    return extract(config, utterances, teacher, quantizer.encode, attributes)


def _first(quantizer: Quantizer, num_codebooks: int) -> Quantizer:
    """The first codebooks, and what is known of how good they are."""
    part = quantizer.first(num_codebooks)
    errors = quantizer.figures.get("error_by_num_codebooks")
    trained = quantizer.num_codebooks
    if isinstance(errors, list) and len(errors) == trained:
        logger.info(
            "the first %d of %d codebooks: relative error %.3g on held-out frames, of all %.3g%s",
            *(num_codebooks, trained, errors[num_codebooks - 1], errors[-1]),
            "" if quantizer.correction is None else ", both uncorrected",
        )
    elif num_codebooks < trained:
        logger.warning(
            "the quantizer was saved without being measured: how good its first codebooks are is "
            "not known"
        )
    return part


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
    used = config.num_codebooks_used
    if used is not None and used > quantizer.num_codebooks:
        errors.append(
            f"--num_codebooks_used {used}: {config.quantizer_path} has {quantizer.num_codebooks} "
            "codebooks; use at most so many"
        )
    if used is not None and isinstance(quantizer, MultiQuantizer):
        errors.append(
            f"--num_codebooks_used {used}: {config.quantizer_path} is of multi_quantization, whose "
            "codebooks are of use together only; leave it out"
        )
    if errors:
        raise ConfigError("\n".join(errors))
