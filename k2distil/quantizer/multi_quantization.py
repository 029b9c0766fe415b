"""Quantizers of the multi_quantization package: read, searched as it does, and written for it.

    from k2distil.quantizer import load_quantizer, package_state
    quantizer = load_quantizer("icefall/quantizer.pt")  # torch.save(its state_dict(), ...)
    torch.save(package_state(quantizer), "quantizer.pt")  # its load_state_dict() takes it

The package (github.com/k2-fsa/multi_quantization; Guo et al., "Predicting multi-codebook vector
quantization indexes for knowledge distillation", ICASSP 2023) holds centers, whose chosen ones add
up to a frame, and a linear layer, whose best outputs start the search for codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from k2distil.errors import CheckpointError, ConfigError
from k2distil.quantizer.model import Quantizer
from k2distil.quantizer.search.additive import interaction_tables, unary_scores
from k2distil.quantizer.search.joint import refine_jointly, values_per_frame

PACKAGE_KEYS = ("to_logits.weight", "to_logits.bias", "centers", "logits_scale", "centers_scale")
ID_KEY = "id_buf"  # the package's 8 hex digits, as ASCII
SCALE_SPEED = 10.0  # its scales are exp(10 * logits_scale), exp(10 * centers_scale)
NUM_ROUNDS = 5  # its refine_indexes_iters
MAX_GRAM_ENTRIES = 32_768  # N * K: its Gram table is (N * K)^2 float32
MAX_BYTE_ENTRIES = 256  # of a codebook, for its encode(as_bytes=True)


class MultiQuantizer(Quantizer):
    """What the package's `encode(frames, refine_indexes_iters=5, as_bytes=False)` gives.

    The codes differ where two choices tie in float rounding, and from nothing else. Frames are
    centred here before the search, which changes no choice; the package does not.

    Args:
        centers: (N, K, D), as the package scales them.
        logits_weight: (N, K, D); logits_bias: (N, K): the best one of each codebook is the start.
        width: candidates kept (search/joint.py); num_rounds: of refinement.
    """

    type = "multi_quantization"
    tensor_names = ("centers", "logits_weight", "logits_bias")
    package_centers: Tensor
    logits_weight: Tensor
    logits_bias: Tensor
    centred_bias: Tensor
    interactions: Tensor

    def __init__(
        self,
        centers: Tensor,
        logits_weight: Tensor,
        logits_bias: Tensor,
        width: int = 16,
        num_rounds: int = NUM_ROUNDS,
    ) -> None:
        if logits_weight.shape != centers.shape or logits_bias.shape != centers.shape[:2]:
            shapes = [tuple(each.shape) for each in (centers, logits_weight, logits_bias)]
            raise ValueError(f"shapes {shapes}")
        means = centers.double().mean(1, keepdim=True)
        mean = means.sum((0, 1))
        super().__init__(centers - means, mean, torch.ones(()))
        self.width, self.num_rounds = width, num_rounds
        self.register_buffer("package_centers", centers.float().contiguous())
        self.register_buffer("logits_weight", logits_weight.float().contiguous())
        self.register_buffer("logits_bias", logits_bias.float().contiguous())
        centred_bias = logits_bias.double() + logits_weight.double() @ self.mean.double()
        self.register_buffer("centred_bias", centred_bias.float())
        self.register_buffer("interactions", interaction_tables(self.table))

    @property
    def centers(self) -> Tensor:
        """(N, K, D) float32, the package's own."""
        return self.package_centers

    @property
    def settings(self) -> dict[str, int]:
        """The search: it decides the codes as the tensors do."""
        return {"width": self.width, "num_rounds": self.num_rounds}

    def first(self, num_codebooks: int) -> Quantizer:
        """Refused: its codebooks are in no order and hold constants of each other.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"the first {num_codebooks} codebooks of a multi_quantization quantizer: all "
            f"{self.num_codebooks} belong together; train one with train_quantizer_offline.sh"
        )

    @property
    def _scores_per_frame(self) -> int:
        return values_per_frame(self.num_codebooks, self.codebook_size, self.width)

    def _search(self, frames: Tensor) -> Tensor:
        start = unary_scores(frames, self.logits_weight, self.centred_bias).argmax(-1)
        unary = unary_scores(frames, self.table, self.bias)
        return refine_jointly(unary, self.interactions, start, **self.settings)


def is_package_state(content: object) -> bool:
    """Whether it looks like a state dict of the package, whole or not."""
    return isinstance(content, dict) and len(content.keys() & set(PACKAGE_KEYS)) > 1


def from_package_state(state: Mapping[str, Any], path: str | Path) -> MultiQuantizer:
    """The quantizer of a state dict of the package; `path` is where it was read.

    Raises:
        CheckpointError: tensors are missing, do not fit each other, or are not finite.
    """
    if missing := [key for key in PACKAGE_KEYS if key not in state]:
        raise CheckpointError(
            f"{path}: a multi_quantization state dict without {', '.join(missing)}; save all of "
            "quantizer.state_dict()"
        )
    try:
        weight, bias, centers, *scales = (state[key].double() for key in PACKAGE_KEYS)
        logits_scale, centers_scale = ((SCALE_SPEED * scale).exp() for scale in scales)
        centers = (centers * centers_scale).float()
        weight = (weight * logits_scale).float().view(centers.shape)
        bias = bias.float().view(centers.shape[:2])
        _check_package_tensors(weight, bias, centers)
        digits = bytes(state[ID_KEY].tolist()).decode("ascii") if ID_KEY in state else None
        width = 8 if centers.shape[1] <= 16 else 16
        quantizer = MultiQuantizer(centers, weight, bias, width)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: a damaged multi_quantization state dict ({error}); copy it again, or save "
            "quantizer.state_dict() again"
        ) from error
    if digits is not None:
        quantizer.provenance["multi_quantization_id"] = digits
    return quantizer


def package_state(quantizer: Quantizer, path: str | Path = "quantizer") -> dict[str, Tensor]:
    """The state dict of the package's Quantizer(dim=D, codebook_size=K, num_codebooks=N).

    Its `decode` gives our vectors. Of a product quantizer its `encode` gives our codes: the start,
    with refine_indexes_iters=0, is the best of all. Of an additive one the start is each codebook's
    best entry alone, and its own search finds codes from there.

    Args:
        quantizer: of any type; path: its file, for errors.

    Raises:
        CheckpointError: N or K is no power of two, or K is over 256.
    """
    _check_package_sizes(quantizer, path)
    if isinstance(quantizer, MultiQuantizer):
        weight, bias = quantizer.logits_weight.double(), quantizer.logits_bias.double()
    else:  # the scores in the frames' own unit, with mean and scale folded in
        scale, mean = quantizer.scale.double(), quantizer.mean.double()
        weight = quantizer.table.double() * scale
        bias = quantizer.bias.double() * scale.square() - weight @ mean
    digits = str(quantizer.provenance.get("multi_quantization_id", quantizer.id[:8]))
    state = {
        "centers": quantizer.centers,
        "logits_scale": torch.zeros(()),
        "centers_scale": torch.zeros(()),
        ID_KEY: torch.tensor(list(digits.encode("ascii")), dtype=torch.uint8),
        "to_logits.weight": weight.flatten(0, 1).float(),
        "to_logits.bias": bias.flatten().float(),
    }
    return {key: tensor.detach().cpu().clone() for key, tensor in state.items()}


def _check_package_sizes(quantizer: Quantizer, path: str | Path) -> None:
    sizes = {
        "quantizer_out_dim": quantizer.num_codebooks,
        "quantizer_codebook_size": quantizer.codebook_size,
    }
    for name, value in sizes.items():
        if value & (value - 1):
            raise CheckpointError(
                f"{path}: {name} {value}: multi_quantization has powers of two only; train a "
                f"quantizer with --{name} {2 ** (value.bit_length() - 1)}"
            )
    if quantizer.codebook_size > MAX_BYTE_ENTRIES:
        raise CheckpointError(
            f"{path}: quantizer_codebook_size {quantizer.codebook_size}: a code of "
            "multi_quantization is at most a byte; train a quantizer with "
            f"--quantizer_codebook_size {MAX_BYTE_ENTRIES}"
        )


def _check_package_tensors(weight: Tensor, bias: Tensor, centers: Tensor) -> None:
    if not all(each.isfinite().all() for each in (weight, bias, centers)):
        raise ValueError("NaN or infinite values")
    num_entries = centers.shape[0] * centers.shape[1]
    if num_entries > MAX_GRAM_ENTRIES or not centers.numel():
        raise ValueError(f"{num_entries} entries in all: expected 1 to {MAX_GRAM_ENTRIES}")
