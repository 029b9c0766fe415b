"""The quantizer's file: a versioned dict of tensors and plain values (docs: quantizer.md).

format: "k2distil.quantizer"; version: 1; type: product | additive | multi_quantization
id: digest of the tensors
table (N, K, D), mean (D,), scale (): float32; settings: the search; provenance; figures
centers (N, K, D) float32: for other readers; the sum of one a codebook is `decode`, uncorrected
correction: a dict of tensors (correction.py); there is none in other files
correction_digest: of those; files of before it have none
multi_quantization: logits_weight (N, K, D), logits_bias (N, K) beside centers, and no table
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from k2distil.atomic import make_folder, replacing
from k2distil.errors import CheckpointError
from k2distil.quantizer.correction import Correction
from k2distil.quantizer.model import QUANTIZER_TYPES, Quantizer
from k2distil.quantizer.multi_quantization import (
    MultiQuantizer,
    from_package_state,
    is_package_state,
)

FORMAT = "k2distil.quantizer"
VERSION = 1
EXPECTED = "give what train_quantizer_offline.sh saved, or a state dict of multi_quantization"
STATE_LINE = 'torch.save(quantizer.state_dict(), "icefall.pt")'
OTHERS = {b"\x89HDF": "an h5", b"\x1f\x8b": "a gzip file", b"{": "JSON"}  # by how they begin
TYPES: dict[str, type[Quantizer]] = {**QUANTIZER_TYPES, MultiQuantizer.type: MultiQuantizer}


def quantizer_file(path: str | Path) -> Path:
    """The file meant by `path`: a folder stands for the `quantizer.pt` inside."""
    path = Path(path)
    return path / "quantizer.pt" if path.is_dir() else path


def save_quantizer(quantizer: Quantizer, path: str | Path) -> Path:
    """Write the quantizer atomically (an existing file is replaced); -> the file written.

    Raises:
        DataError: the disk is full, or the folder cannot be written to.
    """
    path = quantizer_file(path)
    tensors = {name: tensor.cpu() for name, tensor in quantizer.entries().items()}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "type": quantizer.type,
        "id": quantizer.id,
        **tensors,
        "centers": quantizer.centers.cpu(),
        "settings": quantizer.settings,
        "provenance": dict(quantizer.provenance),
        "figures": dict(quantizer.figures),
    }
    if quantizer.correction is not None:
        tensors = quantizer.correction.state_dict()
        content["correction"] = {name: tensor.cpu() for name, tensor in tensors.items()}
        content["correction_digest"] = quantizer.correction.digest
    write_tensors(content, path)
    return path


def write_tensors(content: dict[str, Any], path: Path) -> None:
    """Write a dict of tensors and plain values atomically.

    Raises:
        DataError: the disk is full, or the folder cannot be written to.
    """
    make_folder(path.parent)
    with replacing(path) as temporary:
        temporary.write_bytes(serialized(content))


def serialized(content: dict[str, Any]) -> memoryview:
    """The bytes of torch's file: its own writer hides what is wrong with the disk."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def load_quantizer(
    path: str | Path, device: str | torch.device = "cpu", expected: str = EXPECTED
) -> Quantizer:
    """Read what `save_quantizer` wrote; `path` may be the folder that holds `quantizer.pt`.

    Also a state dict of the multi_quantization package (multi_quantization.py).

    Args:
        path: of the file.
        device: where its tensors go.
        expected: what the error of another kind of file says is taken.

    Raises:
        CheckpointError: no such file, not a quantizer, damaged, or of another version.
    """
    path = quantizer_file(path)
    content = _read(path, expected)
    if is_package_state(content):
        return from_package_state(content, path).to(device)
    version = content.get("version")
    if version != VERSION:
        raise CheckpointError(
            f"{path}: quantizer format version {version}, this k2distil reads {VERSION}; "
            "install the k2distil that wrote it, or train the quantizer again"
        )
    try:
        kind = TYPES[content["type"]]
        tensors = {name: content[name] for name in kind.tensor_names}
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("NaN or infinite values")
        quantizer = kind(**tensors, **content["settings"])
        if "correction" in content:
            quantizer.correction = Correction.of(content["correction"], quantizer.dim)
        quantizer.provenance = dict(content["provenance"])
        quantizer.figures = dict(content["figures"])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: a damaged quantizer file ({error!r}); remove it and train it again, or copy "
            "it again"
        ) from error
    if quantizer.id != content.get("id"):
        raise CheckpointError(
            f"{path}: the tensors do not match the id {content.get('id')}: the file was altered; "
            "remove it and train it again, or copy it again"
        )
    if quantizer.correction is not None:
        digest = quantizer.correction.digest
        if content.get("correction_digest", digest) != digest:
            raise CheckpointError(
                f"{path}: the correction does not match its digest "
                f"{content['correction_digest']}: the file was altered; remove it and train it "
                "again, or copy it again"
            )
    return quantizer.to(device)


def _read(path: Path, expected: str) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such quantizer file; train one with train_quantizer_offline.sh, "
            "or correct --quantizer_path"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file: struct.error, IndexError, BadZipFile and more
        raise CheckpointError(f"{path}: {_kind_of(path, error)}; {expected}") from error
    if isinstance(content, dict):
        if content.get("format") == FORMAT or is_package_state(content):
            return content
        for name, each in content.items():
            if is_package_state(each):
                alone = f"""torch.save(torch.load({str(path)!r}, "cpu")[{name!r}], "icefall.pt")"""
                raise CheckpointError(
                    f"{path}: a quantizer of multi_quantization under {name!r}; its state is read "
                    f"alone: {alone}, as of {STATE_LINE}; {expected}"
                )
    raise CheckpointError(
        f"{path}: a torch file, but not a quantizer (is it a teacher's checkpoint?); {expected}"
    )


def _kind_of(path: Path, error: Exception) -> str:
    """What a file is that torch cannot load safely, as far as can be told."""
    if "GLOBAL multi_quantization." in str(error):  # a class of the package, which is not made
        return (
            f"a pickled quantizer of multi_quantization, of which its state is read: {STATE_LINE}"
        )
    if not isinstance(error, OSError):  # it can be read
        with path.open("rb") as file:
            begin = file.read(4)
        for magic, what in OTHERS.items():
            if begin.startswith(magic):
                return f"{what}, not a quantizer file"
    return f"not a quantizer file, or a damaged one ({type(error).__name__})"
