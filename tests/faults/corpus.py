"""Very many very short utterances, and a quantizer for the tiny teacher's embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
import torch

from k2distil.quantizer import ProductQuantizer, save_quantizer

DIM = 64  # of the golden WeNet teacher


def key_of(index: int) -> str:
    return f"utt{index:05}"


def write_corpus(folder: Path, num_utterances: int) -> Path:
    """Noise of 0.2 to 0.5 s; -> its data.list, with relative paths."""
    folder.mkdir()
    random = np.random.default_rng(0)
    lines = []
    for index in range(num_utterances):
        noise = random.standard_normal(random.integers(3200, 8000))
        soundfile.write(folder / f"{key_of(index)}.wav", 0.1 * noise, 16000)
        lines.append(json.dumps({"key": key_of(index), "wav": f"{key_of(index)}.wav"}))
    path = folder / "data.list"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def write_quantizer(path: Path) -> Path:
    """8 codebooks of 256 random entries."""
    generator = torch.Generator().manual_seed(0)
    table = torch.zeros(8, 256, DIM)
    for codebook, axes in enumerate(torch.arange(DIM).chunk(8)):
        table[codebook, :, axes] = torch.randn(256, len(axes), generator=generator)
    return save_quantizer(ProductQuantizer(table, torch.zeros(DIM), torch.ones(())), path)
