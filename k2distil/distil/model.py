"""A CTC student that learns a teacher's codes in the same forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from k2distil.batch import Rejection
from k2distil.distil.loss import CodebookLoss
from k2distil.distil.spec_augment import SpecAugment


class Part(TypedDict):
    """Utterances as the student takes them, padded to the longest.

    inputs: what its feature extractor makes, e.g. input_features (B, S, F) and attention_mask.
    num_inputs: (B,) frames or samples without padding; num_frames: (B,) of the student's output.
    labels: (B, L) int64, -100 beyond the text and where there is none.
    codes: (B, T, N * ratio) int32, -100 where there is none.
    """

    keys: list[str]
    failed: list[Rejection]  # what could not be decoded
    inputs: dict[str, Tensor]
    num_inputs: Tensor
    num_frames: Tensor
    labels: Tensor
    codes: Tensor


class Batch(TypedDict):
    """Utterances that are learnt from together."""

    parts: list[Part]


def count_items(parts: Sequence[Part]) -> Tensor:
    """(2,) int64: how many utterances with text, and codes, there are."""
    with_text = [(part["labels"][:, 0] >= 0).sum() for part in parts]
    codes = [(part["codes"] >= 0).sum() for part in parts]
    return torch.stack([torch.stack(with_text).sum(), torch.stack(codes).sum()])


class DistilModel(nn.Module):
    """The student and the head that predicts codes from one of its layers.

    Args:
        student: a CTC model of transformers, an nn.Module.
        codebook_loss: None: text alone.
        layer: hidden state the codes are predicted from, 1 to L, or -1 for the last.
        weight: of the codebook loss beside CTC's.
        spec_augment: of input features while training; None: none.
    """

    def __init__(
        self,
        student: Any,
        codebook_loss: CodebookLoss | None = None,
        layer: int = -1,
        weight: float = 0.0,
        spec_augment: SpecAugment | None = None,
    ) -> None:
        super().__init__()
        self.student, self.codebook_loss = student, codebook_loss
        self.blank = int(student.config.pad_token_id)
        self.layer, self.weight, self.spec_augment = layer, weight, spec_augment

    def forward(self, parts: Sequence[Part], num_items: Tensor | None = None) -> dict[str, Tensor]:
        """Score a batch.

        Args:
            parts: of it; their keys and what failed may be left out.
            num_items: (2,) what the summed losses are divided by: utterances with text and codes,
                of all processes and accumulated batches; None: of this batch.

        Returns:
            loss, ctc (mean over utterances of nats per token), codebook (mean over codes, nats):
            () each.
        """
        if num_items is None:
            num_items = count_items(parts)
        losses = [self._losses(part, num_items) for part in parts]
        ctc, codebook = torch.stack([torch.stack(each) for each in losses]).sum(0)
        loss = ctc if self.codebook_loss is None else ctc + self.weight * codebook
        return {"loss": loss, "ctc": ctc.detach(), "codebook": codebook.detach()}

    def _losses(self, part: Part, num_items: Tensor) -> tuple[Tensor, Tensor]:
        inputs, codes = part["inputs"], part["codes"]
        if self.training and self.spec_augment is not None:
            features = self.spec_augment(inputs["input_features"], part["num_inputs"])
            inputs = {**inputs, "input_features": features}
        logits, hidden = self.encode(inputs)
        ctc = self._ctc(logits, part["num_frames"], part["labels"]) / num_items[0].clamp(min=1)
        if self.codebook_loss is None:
            return ctc, torch.zeros_like(ctc)
        return ctc, self.codebook_loss(hidden[:, : codes.shape[1]], codes, num_items[1])

    def encode(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What the feature extractor made -> logits (B, T, V), the layer's frames (B, T, D)."""
        output = self.student(**inputs, output_hidden_states=True)
        return output.logits, output.hidden_states[self.layer]

    def _ctc(self, logits: Tensor, num_frames: Tensor, labels: Tensor) -> Tensor:
        """() sum over the utterances with text of nats per token; 0, with gradients, without."""
        has_text = labels[:, 0] >= 0
        if not has_text.any():
            return logits.float().sum() * 0.0
        labels = labels[has_text]
        lengths = (labels >= 0).sum(1)
        losses = F.ctc_loss(
            logits[has_text].float().log_softmax(-1).transpose(0, 1),
            labels[labels >= 0],
            num_frames[has_text],
            lengths,
            blank=self.blank,
            reduction="none",
            zero_infinity=True,
        )
        return (losses / lengths).sum()
