"""A list through a student: texts, and how well it predicts codes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from k2distil.batch import Rejection
from k2distil.distil.batches import by_length
from k2distil.distil.model import DistilModel
from k2distil.distil.scoring import CodeScores, Transcript
from k2distil.distil.student import Student
from k2distil.distil.vocabulary import normalize
from k2distil.pipeline.student.dataset import DistilDataset
from k2distil.workers import Loader

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """What a student made of utterances.

    failed: what could not be decoded; codes: None where it learns none.
    """

    transcripts: list[Transcript]
    failed: list[Rejection]
    codes: CodeScores | None


def batches_to_test(
    student: Student, seconds: Sequence[float], batch_seconds: float
) -> list[list[int]]:
    """Batches for `transcribe`, longest audio first; the student is on the CPU.

    One by one where padding changes what the student says, so that its errors are those of audio
    as users will give it.
    """
    if not student.padding_matters():
        return list(by_length(seconds, batch_seconds))
    logger.info("padding changes what this student says: it is tested on one utterance at a time")
    return list(by_length(seconds, 0.0))


@torch.no_grad()  # what a model keeps, as positions, is used in training too
def transcribe(
    model: DistilModel,
    dataset: DistilDataset,
    batches: Sequence[Sequence[int]],
    num_workers: int,
    device: torch.device,
) -> Scored:
    """Decode batches of a list greedily; with codes, count how well they are predicted."""
    loader = Loader(
        dataset,
        batch_sampler=[[batch] for batch in batches],
        num_workers=min(num_workers, len(batches)),
        generator=torch.Generator(),  # torch's own stays as the training left it
    )
    texts = {each.key: each.text for each in dataset.utterances}
    transcripts: list[Transcript] = []
    failed: list[Rejection] = []
    scores = None
    if model.codebook_loss is not None and dataset.codes is not None:
        codes = dataset.codes
        width = codes.num_codebooks * codes.frames_ratio
        scores = CodeScores(width, codes.codebook_size, codes.num_codebooks)
    model.eval()
    for batch in (batch for whole in loader for batch in whole["parts"]):
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
