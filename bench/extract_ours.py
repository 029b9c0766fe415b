"""save_codebook.sh and save_embedding.sh in this process, with the teacher loaded before."""

import itertools
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from encode import random_product

from k2distil.config import SaveCodebookConfig
from k2distil.pipeline import save_codebook, save_embedding
from k2distil.pipeline.extraction.teacher import open_teacher
from k2distil.quantizer import load_quantizer, save_quantizer
from k2distil.stages import Profile
from k2distil.storage import EmbeddingReader

NUM_CODEBOOKS, CODEBOOK_SIZE = 8, 256
MODULES = (save_codebook, save_embedding)


class Ours:
    """A teacher, and a random quantizer for it; `codes` makes them anew on every call."""

    def __init__(self, config: SaveCodebookConfig, folder: Path, device: torch.device) -> None:
        """config: without --quantizer_path and --save_path; folder: to write in."""
        self._folder = folder
        self._numbers = itertools.count()
        self._profile = Profile()
        teacher, provenance = open_teacher(config, device)
        torch.manual_seed(0)
        quantizer = random_product(teacher.dim, NUM_CODEBOOKS, CODEBOOK_SIZE)
        quantizer.provenance = provenance
        name = f"{config.encoder_type}_{teacher.padding.replace('/', '')}"
        path = save_quantizer(quantizer, folder / f"{name}.pt")
        self._config = replace(config, quantizer_path=path)
        self._quantizer = load_quantizer(path).to(device)
        self._loaded = teacher, provenance

    def codes(self) -> None:
        """From the list to the merged h5."""
        with self._profile:
            path = self._run(save_codebook=True)
        shutil.rmtree(path.parent)

    def embeddings(self) -> dict[str, np.ndarray]:
        """Key -> (T, dim) float32, read from the h5."""
        path = self._run(save_codebook=False)
        reader = EmbeddingReader(path)
        found = {key: reader[key] for key in reader}
        shutil.rmtree(path.parent)
        return found

    def shares(self) -> dict[str, float]:
        """Of the stages in the time of all, over all calls of `codes`."""
        seconds = self._profile.seconds()
        del seconds["wait for audio"]
        total = sum(seconds.values())
        return {name: each / total for name, each in seconds.items()}

    def _run(self, save_codebook: bool) -> Path:
        path = self._folder / f"run{next(self._numbers)}" / "out.h5"
        config = replace(self._config, save_path=path, save_codebook=save_codebook)
        with ExitStack() as patches:
            for module in MODULES:
                patched = mock.patch.object(module, "open_teacher", return_value=self._loaded)
                patches.enter_context(patched)
            patched = mock.patch.object(MODULES[0], "load_quantizer", return_value=self._quantizer)
            patches.enter_context(patched)
            summary = MODULES[0].save_codebook(config)
        assert summary.num_failed == 0, summary.figures
        return path
