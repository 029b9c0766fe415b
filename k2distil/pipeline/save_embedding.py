"""save_embedding.sh: the teacher's embeddings -> h5."""

from __future__ import annotations

from k2distil.config import SaveCodebookConfig, SaveEmbeddingConfig
from k2distil.device import use_device
from k2distil.pipeline.extraction.embed import as_dtype
from k2distil.pipeline.extraction.extract import extract
from k2distil.pipeline.extraction.teacher import open_teacher, read_utterances
from k2distil.pipeline.run.summary import Summary, prepare_output


def save_embedding(config: SaveEmbeddingConfig | SaveCodebookConfig) -> Summary:
    """Write the embeddings of the utterances that a config asks for."""
    prepare_output(config.save_path, [*(config.train_data or ()), config.checkpoint])
    device = use_device(config.gpu)
    utterances = read_utterances(config)
    teacher, provenance = open_teacher(config, device)
    attributes = {"kind": "embedding", **provenance, "embedding_dtype": config.embedding_dtype}
    return extract(config, utterances, teacher, as_dtype(config.embedding_dtype), attributes)
