"""The codebook loss: cross entropy of a teacher's codes, predicted from a student's frames.

MVQ-KD, Guo et al. 2022, arXiv 2211.00508.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from k2distil.distil.heads import AutoregressiveHead, LinearHead
from k2distil.errors import ConfigError

Head = LinearHead | AutoregressiveHead
HEADS: dict[str, type[Head]] = {"linear": LinearHead, "autoregressive": AutoregressiveHead}


class CodebookLoss(nn.Module):
    """Mean cross entropy over valid frames and codebooks, so a weight means the same for any N.

    Args:
        student_dim: D, of the student's frames.
        num_codebooks: N, of the teacher's codes.
        codebook_size: K.
        frames_ratio: teacher frames per student frame; a student frame predicts N * ratio codes.
        head: "linear" predicts each code alone; "autoregressive" from the ones before it too, as
            multi_quantization's JointCodebookLoss does (lower cross entropy, no better students).
        chunk_frames: predict so many frames (B * T) at a time and once more in the backward pass,
            so that the (B * T, N * ratio * K) logits never stand whole; None: all at once.

    Raises:
        ConfigError: a size below 1, or an unknown head.
    """

    def __init__(
        self,
        student_dim: int,
        num_codebooks: int,
        codebook_size: int,
        frames_ratio: int = 1,
        head: str = "linear",
        chunk_frames: int | None = None,
    ) -> None:
        super().__init__()
        sizes = [student_dim, num_codebooks, codebook_size, frames_ratio, chunk_frames or 1]
        if min(sizes) < 1 or head not in HEADS:
            raise ConfigError(
                f"CodebookLoss(student_dim={student_dim}, num_codebooks={num_codebooks}, "
                f"codebook_size={codebook_size}, frames_ratio={frames_ratio}, head={head!r}, "
                f"chunk_frames={chunk_frames}): expected sizes above 0 and a head of "
                f"{', '.join(HEADS)}"
            )
        self.num_predicted = num_codebooks * frames_ratio
        self.codebook_size = codebook_size
        self.chunk_frames = chunk_frames
        self.head: Head = HEADS[head](student_dim, self.num_predicted, codebook_size)

    def forward(self, student: Tensor, codes: Tensor, num_targets: Tensor | None = None) -> Tensor:
        """Score a batch.

        Args:
            student: (B, T, D) frames of an encoder layer, float.
            codes: (B, T, N * ratio) integers, -100 where there is none: see `align_codes`.
            num_targets: () what the summed cross entropy is divided by; None: the number of codes
                here. Across processes or accumulated batches, give the number in all of them.

        Returns:
            () in nats, float32. Without any code 0, with gradients of 0 for every parameter.

        Raises:
            ValueError: shapes that do not fit.
        """
        if student.shape[:-1] != codes.shape[:-1] or codes.shape[-1] != self.num_predicted:
            raise ValueError(
                f"expected codes (B, T, {self.num_predicted}) for student (B, T, D); got "
                f"{codes.shape} and {student.shape}"
            )
        rows = student.reshape(-1, student.shape[-1])
        wanted = codes.reshape(-1, self.num_predicted).long()
        if num_targets is None:
            num_targets = (wanted >= 0).sum()
        if self.chunk_frames is None:
            total = self.summed(rows, wanted)
        else:
            total = self._summed_in_chunks(rows, wanted)
        return total / num_targets.clamp(min=1)

    def logits(self, student: Tensor, codes: Tensor) -> Tensor:
        """(*, D), (*, N * ratio) -> (*, N * ratio, K); the linear head does not look at codes."""
        return self.head(student, codes)

    def summed(self, rows: Tensor, wanted: Tensor) -> Tensor:
        """(R, D), (R, N * ratio) -> () summed cross entropy."""
        logits = self.head(rows, wanted).reshape(-1, self.codebook_size)
        return F.cross_entropy(logits.float(), wanted.reshape(-1), reduction="sum")

    @torch.jit.unused
    def _summed_in_chunks(self, rows: Tensor, wanted: Tensor) -> Tensor:
        size = self.chunk_frames or len(rows)
        total = rows.new_zeros((), dtype=torch.float32)
        for some_rows, some_wanted in zip(rows.split(size), wanted.split(size), strict=True):
            total = total + checkpoint(self.summed, some_rows, some_wanted, use_reentrant=False)
        return total
