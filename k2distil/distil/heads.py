"""What predicts a teacher's codes from a student's frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN_DIM = 512  # of the autoregressive head; JointCodebookLoss's default


class LinearHead(nn.Module):
    """Each code by a softmax of its own."""

    def __init__(self, student_dim: int, num_predicted: int, codebook_size: int) -> None:
        super().__init__()
        self.num_predicted, self.codebook_size = num_predicted, codebook_size
        self.linear = nn.Linear(student_dim, num_predicted * codebook_size)

    def forward(self, student: Tensor, codes: Tensor) -> Tensor:
        """(*, D), ignored -> (*, num_predicted, codebook_size) logits."""
        return self.linear(student).unflatten(-1, [self.num_predicted, self.codebook_size])


class AutoregressiveHead(nn.Module):
    """Each code from the frame and from the codes before it in the same frame.

    The function of multi_quantization's JointCodebookLoss with is_joint (k2-fsa), whose weights
    `k2distil.interop.multi_quantization` reads and writes: logits of code n are
    A_n student + b_n + B_n relu(P student + sum over m < n of E_m[code_m]).
    """

    def __init__(self, student_dim: int, num_predicted: int, codebook_size: int) -> None:
        super().__init__()
        self.num_predicted, self.codebook_size = num_predicted, codebook_size
        self.linear = nn.Linear(student_dim, num_predicted * codebook_size)
        self.project = nn.Linear(student_dim, HIDDEN_DIM)
        self.to_logits = nn.Parameter(torch.randn(num_predicted, codebook_size, HIDDEN_DIM))
        if num_predicted > 1:  # the last code is before no other
            self.previous = nn.Embedding((num_predicted - 1) * codebook_size, HIDDEN_DIM)
            with torch.no_grad():
                self.previous.weight.mul_(0.5 * num_predicted**-0.5)
        with torch.no_grad():
            self.to_logits.mul_(HIDDEN_DIM**-0.5)

    def forward(self, student: Tensor, codes: Tensor) -> Tensor:
        """(*, D), (*, num_predicted) -> (*, num_predicted, codebook_size) logits."""
        terms = self.project(student).unsqueeze(-2)
        if hasattr(self, "previous"):  # TorchScript prunes by this, not by num_predicted
            firsts = torch.arange(self.num_predicted - 1, device=codes.device) * self.codebook_size
            before = self.previous(codes[..., :-1].long().clamp(min=0) + firsts)
            terms = torch.cat([terms, before.to(terms.dtype)], dim=-2)
        hidden = F.relu(terms.cumsum(-2))
        joint = torch.einsum("...nh,nkh->...nk", hidden, self.to_logits.to(hidden.dtype))
        alone = self.linear(student).unflatten(-1, [self.num_predicted, self.codebook_size])
        return alone + joint
