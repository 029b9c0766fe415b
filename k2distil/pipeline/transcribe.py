"""A list through a student: texts, and how well it predicts codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader

from k2distil.data import start_worker
from k2distil.distil.model import DistilModel
from k2distil.distil.scoring import CodeScores, Transcript
from k2distil.distil.vocabulary import normalize
from k2distil.pipeline.distil_data import DistilDataset, as_it_is


@dataclass(frozen=True)
class Scored:
    """What a student made of utterances.

    failed: rows of failed.tsv, of what could not be decoded; codes: None where it learns none.
    """

    transcripts: list[Transcript]
    failed: list[dict[str, str]]
    codes: CodeScores | None


@torch.no_grad()  # what a model keeps, as positions, is used in training too
def transcribe(
    model: DistilModel,
    dataset: DistilDataset,
    batches: Sequence[Sequence[int]],
    num_workers: int,
    device: torch.device,
) -> Scored:
    """Decode batches of a list greedily; utterances without text count for codes only."""
    loader = DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type]  # any sequence of lists serves
        collate_fn=as_it_is,
        num_workers=min(num_workers, len(batches)),
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # torch's own stays as the training left it
    )
    texts = {each.key: each.text for each in dataset.utterances}
    transcripts: list[Transcript] = []
    failed: list[dict[str, str]] = []
    scores = None
    if model.codebook_loss is not None and dataset.codes is not None:
        codes = dataset.codes
        width = codes.num_codebooks * codes.frames_ratio
        scores = CodeScores(width, codes.codebook_size, codes.num_codebooks)
    model.eval()
    for batch in loader:
        failed += batch["failed"]
        inputs = {name: value.to(device) for name, value in batch["inputs"].items()}
        logits, hidden = model.encode(inputs)
        found = dataset.student.decode(logits, batch["num_frames"])
        for key, text in zip(batch["keys"], found, strict=True):
            if (reference := texts.get(key)) is not None:
                transcripts.append(Transcript(key, normalize(reference), text))
        if scores is not None:
            wanted = batch["codes"].to(device)
            valid = (wanted >= 0).any(-1)
            frames, wanted = hidden[:, : wanted.shape[1]][valid], wanted[valid]
            assert model.codebook_loss is not None
            scores.add(model.codebook_loss.logits(frames, wanted), wanted)
    return Scored(transcripts, failed, scores)
