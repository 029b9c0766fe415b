"""A CTC student that learns a teacher's codes in the same forward pass."""

from __future__ import annotations

from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from k2distil.distil.loss import CodebookLoss
from k2distil.distil.spec_augment import SpecAugment


class Batch(TypedDict):
    """Utterances as the student takes them.

    inputs: what its feature extractor makes, e.g. input_features (B, S, F) and attention_mask.
    num_inputs: (B,) frames or samples without padding; num_frames: (B,) of the student's output.
    labels: (B, L) int64, -100 beyond the text and where there is none.
    codes: (B, T, N * ratio) int32, -100 where there is none.
    """

    keys: list[str]
    failed: list[dict[str, str]]  # key, wav, reason of what could not be decoded
    inputs: dict[str, Tensor]
    num_inputs: Tensor
    num_frames: Tensor
    labels: Tensor
    codes: Tensor


def count_items(labels: Tensor, codes: Tensor) -> Tensor:
    """(2,) int64: how many utterances with text, and codes, a batch has."""
    return torch.stack([(labels[:, 0] >= 0).sum(), (codes >= 0).sum()])


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
        codebook_loss: CodebookLoss | None,
        layer: int,
        weight: float,
        spec_augment: SpecAugment | None,
    ) -> None:
        super().__init__()
        self.student, self.codebook_loss = student, codebook_loss
        self.blank = int(student.config.pad_token_id)
        self.layer, self.weight, self.spec_augment = layer, weight, spec_augment

    def forward(
        self,
        inputs: dict[str, Tensor],
        num_inputs: Tensor,
        num_frames: Tensor,
        labels: Tensor,
        codes: Tensor,
        num_items: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Score a batch; see `Batch` for what is given.

        Args:
            num_items: (2,) what the summed losses are divided by: utterances with text and codes,
                of all processes and accumulated batches; None: of this batch.

        Returns:
            loss, ctc (mean over utterances of nats per token), codebook (mean over codes, nats):
            () each.
        """
        if self.training and self.spec_augment is not None:
            features = self.spec_augment(inputs["input_features"], num_inputs)
            inputs = {**inputs, "input_features": features}
        logits, hidden = self.encode(inputs)
        if num_items is None:
            num_items = count_items(labels, codes)
        ctc = self._ctc(logits, num_frames, labels) / num_items[0].clamp(min=1)
        loss, codebook = ctc, torch.zeros_like(ctc)
        if self.codebook_loss is not None:
            codebook = self.codebook_loss(hidden[:, : codes.shape[1]], codes, num_items[1])
            loss = loss + self.weight * codebook
        return {"loss": loss, "ctc": ctc.detach(), "codebook": codebook.detach()}

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
