"""Weights of the codebook loss in the names of multi_quantization's JointCodebookLoss, and back.

The package (k2-fsa, `multi_quantization/prediction.py`) is what icefall's MVQ recipe trains with.
Its is_joint=True is our head="autoregressive", its is_joint=False our head="linear". It sums the
cross entropy where we take the mean: its loss is ours times the number of codes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from k2distil.distil import CodebookLoss
from k2distil.distil.heads import HIDDEN_DIM, AutoregressiveHead
from k2distil.errors import CheckpointError

WEIGHT, BIAS = "linear2b_weight", "linear2_bias"  # all that counts with is_joint=False
JOINT = ("linear1.weight", "linear1.bias", "codebook_embedding.weight", "linear2_weight")


def joint_codebook_state(loss: CodebookLoss) -> dict[str, Tensor]:
    """The state dict of the package's loss with the same values and gradients.

    For `JointCodebookLoss(student_dim, num_codebooks * frames_ratio, codebook_size=K,
    is_joint=...)` with hidden_channels at its default of 512. Of a linear head, the weights that
    is_joint=False does not use are 0.

    Raises:
        CheckpointError: one code per frame; the package has two or more.
    """
    head, num, size = loss.head, loss.num_predicted, loss.codebook_size
    if num < 2:
        raise CheckpointError(
            "a loss of one code per frame: JointCodebookLoss needs two or more; "
            "give more codebooks or another frames_ratio"
        )
    weight = head.linear.weight
    state = {WEIGHT: weight.view(num, size, -1), BIAS: head.linear.bias.view(num, size)}
    if isinstance(head, AutoregressiveHead):
        state |= {
            "linear1.weight": head.project.weight,
            "linear1.bias": head.project.bias,
            "codebook_embedding.weight": head.previous.weight / _embedding_scale(HIDDEN_DIM, num),
            "linear2_weight": head.to_logits,
        }
    else:
        state |= {
            "linear1.weight": weight.new_zeros(HIDDEN_DIM, weight.shape[1]),
            "linear1.bias": weight.new_zeros(HIDDEN_DIM),
            "codebook_embedding.weight": weight.new_zeros((num - 1) * size, HIDDEN_DIM),
            "linear2_weight": weight.new_zeros(num, size, HIDDEN_DIM),
        }
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def load_joint_codebook_state(loss: CodebookLoss, state: Mapping[str, Tensor]) -> None:
    """Give a loss the weights of a `JointCodebookLoss.state_dict()`.

    The loss's head says what the package's is_joint was; a state dict does not. Weights that
    is_joint=False does not use are left out.

    Raises:
        CheckpointError: tensors are missing, or of other sizes.
    """
    head, num, size = loss.head, loss.num_predicted, loss.codebook_size
    joint = isinstance(head, AutoregressiveHead)
    names = (WEIGHT, BIAS, *JOINT) if joint else (WEIGHT, BIAS)
    if missing := [name for name in names if name not in state]:
        raise CheckpointError(
            f"a JointCodebookLoss without {', '.join(missing)}; give all of its state_dict()"
        )
    student_dim = head.linear.in_features
    shapes = {
        WEIGHT: (num, size, student_dim),
        BIAS: (num, size),
        "linear1.weight": (HIDDEN_DIM, student_dim),
        "linear1.bias": (HIDDEN_DIM,),
        "codebook_embedding.weight": ((num - 1) * size, HIDDEN_DIM),
        "linear2_weight": (num, size, HIDDEN_DIM),
    }
    for name in names:
        if tuple(state[name].shape) != shapes[name]:
            raise CheckpointError(
                f"JointCodebookLoss {name}: {tuple(state[name].shape)}, expected {shapes[name]} "
                f"for {num} codes of {size} entries per frame and a student of {student_dim}; "
                "make the loss of the same sizes"
            )
    with torch.no_grad():
        head.linear.weight.copy_(state[WEIGHT].flatten(0, 1))
        head.linear.bias.copy_(state[BIAS].flatten())
        if isinstance(head, AutoregressiveHead):
            head.project.weight.copy_(state["linear1.weight"])
            head.project.bias.copy_(state["linear1.bias"])
            head.to_logits.copy_(state["linear2_weight"])
            if num > 1:
                scale = _embedding_scale(HIDDEN_DIM, num)
                head.previous.weight.copy_(state["codebook_embedding.weight"] * scale)


def _embedding_scale(hidden_dim: int, num_predicted: int) -> float:
    """What the package multiplies its embeddings by in the forward pass."""
    return 0.5 * (hidden_dim / num_predicted) ** 0.5
