"""Named tensors of a checkpoint: names translated, set and shapes checked, digest taken."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from k2distil.errors import CheckpointError

WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
MAX_NAMES = 5  # of each kind in an error message


@contextmanager
def without_memory(checkpoint: str) -> Iterator[None]:
    """Build an encoder of a checkpoint's settings on the meta device.

    Raises:
        CheckpointError: no encoder has such settings.
    """
    try:
        with torch.device("meta"):
            yield
    except ImportError:
        raise
    except Exception as error:  # KeyError, ValueError, ZeroDivisionError, ..., by the setting
        raise CheckpointError(
            f"{checkpoint}: its settings (config.json of a folder) make no encoder "
            f"({type(error).__name__}: {error}); correct them, or download it again"
        ) from error


def translate(name: str, rules: Mapping[str, str]) -> str:
    """Rewrite `name` by each regular expression in turn."""
    for pattern, replacement in rules.items():
        name = re.sub(pattern, replacement, name)
    return name


def require_names(content: Any, checkpoint: str) -> Mapping[str, Any]:
    """`content`, where that is a mapping from names.

    Raises:
        CheckpointError: it is something else.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{checkpoint}: holds a {type(content).__name__}, not named tensors")
    for name in content:
        if not isinstance(name, str):
            raise CheckpointError(
                f"{checkpoint}: holds something under {name!r}, which is no name of a tensor; "
                "save the model's state_dict"
            )
    return content


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same under the names of the model itself, where all of it was saved in a wrapper."""
    tensors = dict(tensors)
    for _ in WRAPPERS:
        for prefix in WRAPPERS:
            if tensors and all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): each for name, each in tensors.items()}
    return tensors


def select(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names match the regular expression `prefix`, without it."""
    return {
        name[match.end() :]: tensor
        for name, tensor in tensors.items()
        if (match := re.match(prefix, name))
    }


def refuse_lora(names: Mapping[str, object], checkpoint: str) -> None:
    """Raise where an adapter was not merged: its base weights alone are another teacher."""
    lora = [name for name in names if "lora_" in name]
    if lora:
        raise CheckpointError(
            f"{checkpoint}: holds LoRA tensors ({lora[0]}, {len(lora)} in all); "
            "merge the adapter into the weights first"
        )


def fill(
    encoder: nn.Module, found: Mapping[str, Tensor], rules: Mapping[str, str], checkpoint: str
) -> dict[str, Tensor]:
    """Check that `found` is exactly what the encoder needs, and give it the encoder's names.

    Args:
        encoder: may lie on the meta device; only its names and shapes are read.
        found: the checkpoint's encoder tensors, under the checkpoint's names.
        rules: from the encoder's names to the checkpoint's, for `translate`.
        checkpoint: for messages.

    Returns:
        The encoder's names -> tensors, views of the checkpoint's.

    Raises:
        CheckpointError: a tensor is missing, unexpected, quantized, or of another shape.
    """
    needed = encoder.state_dict()
    theirs = {name: translate(name, rules) for name in needed}
    missing = [name for name in theirs.values() if name not in found]
    unexpected = sorted(set(found) - set(theirs.values()))
    misshapen = [
        f"{name} is {_shape_of(found[name])}, expected {tuple(needed[ours].shape)}"
        for ours, name in theirs.items()
        if name in found and _shape_of(found[name]) != tuple(needed[ours].shape)
    ]
    quantized = [
        f"{name} is {found[name].dtype}"
        for ours, name in theirs.items()
        if isinstance(found.get(name), Tensor)
        and needed[ours].is_floating_point()
        and found[name].dtype not in FLOATS
    ]
    if quantized:
        raise CheckpointError(
            f"{checkpoint}: holds quantized weights ({quantized[0]}, {len(quantized)} in all); "
            "give the checkpoint that they were made from"
        )
    kinds = {"missing": missing, "unexpected": unexpected, "of the wrong shape": misshapen}
    problems = [
        f"{len(names)} {kind} ({'; '.join(names[:MAX_NAMES])})"
        for kind, names in kinds.items()
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{checkpoint}: the encoder's tensors do not fit its settings: "
            f"{', '.join(problems)}; the checkpoint is incomplete or of another model"
        )
    return {ours: found[name] for ours, name in theirs.items()}


def _shape_of(value: object) -> tuple[int, ...] | str:
    """Of a tensor whose values lie one beside the other; of anything else what it is."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return tuple(value.shape) if value.layout == torch.strided else "sparse"


def load_float32(encoder: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give an encoder on the meta device its tensors, copied to float32, and set eval mode.

    Tensors the encoder no longer has (blocks that were cut off) are left out.
    """
    copies = {
        name: tensors[name].to(torch.float32, copy=True)
        if tensors[name].is_floating_point()
        else tensors[name]
        for name in encoder.state_dict()
    }
    encoder.load_state_dict(copies, assign=True)
    encoder.eval().requires_grad_(False)


def digest(tensors: Mapping[str, Tensor], **settings: object) -> str:
    """sha256 (hex) of an encoder's names, shapes and float32 values, blocks not in use included.

    Args:
        tensors: under the encoder's names.
        settings: what else decides the output and shows in no tensor, such as num_heads.
    """
    sha = hashlib.sha256(f"{sorted(settings.items())}\n".encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.float().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
