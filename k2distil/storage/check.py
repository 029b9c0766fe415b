"""Everything that can be wrong with an h5 of ours, found by reading all of it once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from k2distil.errors import DataError
from k2distil.storage.convert import COPIED_FROM
from k2distil.storage.file_list import ListedFile, fault_of, is_list, parse_list
from k2distil.storage.merge import checksum, digest_line
from k2distil.storage.merge_files import digest_of_files
from k2distil.storage.offsets import find_offsets, index_path, read_offsets
from k2distil.storage.reader import FORMAT_VERSION
from k2distil.storage.utterance_h5 import attributes_of, open_h5, read_attributes

MAX_EXAMPLES = 5  # of a kind

ATTRIBUTES: dict[str, type] = {
    "teacher": str,
    "teacher_digest": str,
    "dim": int,
    "num_layers": int,
    "middle_layer": int,
    "middle_layer_norm": str,
    "whisper_padding": str,
    "dtype": str,
    "frame_shift": float,
    "list": str,
    "versions": str,
    "fingerprint": str,
    "content_digest": str,
}
ATTRIBUTES_OF_KIND: dict[str, dict[str, type]] = {
    "codes": {
        "quantizer_type": str,
        "quantizer_id": str,
        "num_codebooks": int,
        "codebook_size": int,
    },
    "embedding": {"embedding_dtype": str},
}


@dataclass
class Problems:
    """What is wrong, by kind: how often, and the first few examples."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        """One more of a kind."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(example)

    def lines(self) -> list[str]:
        """A line per kind with its number, and below it the examples."""
        lines = []
        for kind, count in self.counts.items():
            more = count - len(self.examples[kind])
            lines.append(f"{kind}: {count:,}")
            lines += [f"  {example}" for example in self.examples[kind]]
            lines += [f"  and {more:,} more"] if more else []
        return lines


@dataclass(frozen=True)
class Content:
    """What a file holds, as far as it can be read."""

    meta: dict[str, Any]
    num_frames: dict[str, int]  # by key, in the file's order


def check_h5(path: Path, kind: str, problems: Problems) -> Content:
    """Read an h5 of codes or embeddings whole, and add to `problems` what is wrong with it.

    Looked at are the root attributes, the shape, dtype and range of every array, the digest of
    all of them, and the index where there is one. A flipped bit is in one of these, unless it is
    in the words of `teacher`, `versions`, `entries` or what the `fingerprint` alone says. Where the
    h5 lists files, every one of them is looked at so, and the list beside them.

    Args:
        kind: codes or embedding.

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; correct the path")
    try:
        meta = attributes_of(path)
        listed = parse_list(path, meta)
    except (DataError, OSError, RuntimeError, KeyError, ValueError) as error:
        problems.add("damaged file", " ".join(str(error).split()))
        return Content({}, {})
    if not is_list(meta):
        return _check_file(path, kind, problems)
    _check_attributes(meta, kind, problems)
    if meta.get("content_digest") != digest_of_files(listed):
        problems.add("content", f"{path}: its list is not what was written (content_digest)")
    num_frames: dict[str, int] = {}
    for each in listed:
        found = _check_listed(path, each, kind, problems)
        for key in found.keys() & num_frames.keys():
            problems.add("in two files", key)
        num_frames |= found
    return Content(meta, num_frames)


def _check_listed(path: Path, listed: ListedFile, kind: str, problems: Problems) -> dict[str, int]:
    """Look at a file that `path` lists; -> its num_frames by key."""
    file = path.with_name(listed.name)
    if not file.is_file():
        problems.add("missing files", str(file))
        return {}
    content = _check_file(file, kind, problems)
    counts = len(content.num_frames), sum(content.num_frames.values())
    if fault := fault_of(path, listed, content.meta):
        problems.add("files", fault)
    elif counts != (listed.utterances, listed.frames):
        what = f"{counts[0]:,} utterances of {counts[1]:,} frames"
        problems.add("files", f"{file}: {what}, not as {path} lists it")
    return content.num_frames


def _check_file(path: Path, kind: str, problems: Problems) -> Content:
    meta: dict[str, Any] = {}
    num_frames: dict[str, int] = {}
    try:
        with open_h5(path) as file:
            meta = read_attributes(file)
            _check_attributes(meta, kind, problems)
            digest = hashlib.sha256()
            for key in file:
                values = _read(file, key, problems)
                if values is not None:
                    _check_array(key, values, meta, kind, problems)
                    num_frames[key] = len(values)
                    digest.update(digest_line(key, len(values), checksum(values)))
            if meta.get("content_digest", digest.hexdigest()) != digest.hexdigest():
                problems.add(
                    "content",
                    "not what was written (content_digest): copy it again, or make it anew",
                )
            _check_index(path, file, meta, problems)
    except (DataError, OSError, RuntimeError, KeyError, ValueError) as error:
        problems.add("damaged file", " ".join(str(error).split()))
    return Content(meta, num_frames)


def _check_attributes(meta: Mapping[str, Any], kind: str, problems: Problems) -> None:
    expected = {"format_version": FORMAT_VERSION, "kind": kind}
    for name, value in expected.items():
        if meta.get(name) != value:
            problems.add("attributes", f"{name}: expected {value}, found {meta.get(name)!r}")
    for name, type_of in {**ATTRIBUTES, **ATTRIBUTES_OF_KIND[kind]}.items():
        if name == "fingerprint" and COPIED_FROM in meta:
            continue  # of the command that made the codes, not of the export that copied them
        value = meta.get(name)
        if type(value) is not type_of:
            what = "missing" if value is None else f"expected {type_of.__name__}, found {value!r}"
            problems.add("attributes", f"{name}: {what}")
        elif isinstance(value, int | float) and not 0 < value < float("inf"):
            problems.add("attributes", f"{name}: expected more than 0, found {value}")
    try:
        json.loads(meta.get("versions", "{}"))
        fingerprint = json.loads(meta.get("fingerprint", "{}"))
        contradictions = [
            f"{name}: {meta[name]}, but {fingerprint[name]} in the fingerprint"
            for name in fingerprint.keys() & meta.keys()
            if meta[name] != fingerprint[name]
        ]
    except (ValueError, TypeError, AttributeError) as error:
        contradictions = [f"fingerprint or versions: not JSON ({error})"]
    for example in sorted(contradictions):
        problems.add("attributes", example)


def _read(file: h5py.File, key: str, problems: Problems) -> np.ndarray | None:
    try:
        dataset = file[key]
        if isinstance(dataset, h5py.Dataset) and dataset.ndim == 2:
            return dataset[()]
        problems.add("shape", f"{key}: expected an array (num_frames, width)")
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        problems.add("damaged arrays", f"{key}: {' '.join(str(error).split())}")
    return None


def _check_array(
    key: str, values: np.ndarray, meta: Mapping[str, Any], kind: str, problems: Problems
) -> None:
    width = meta.get("num_codebooks" if kind == "codes" else "dim", values.shape[1])
    if values.shape[1] != width:
        problems.add("shape", f"{key}: expected (num_frames, {width}), found {values.shape}")
    if not len(values):
        problems.add("shape", f"{key}: no frames")
    dtype = _dtype(meta, kind)
    if dtype is not None and str(values.dtype) != dtype:
        problems.add("dtype", f"{key}: expected {dtype}, found {values.dtype}")
    if kind == "embedding":
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            problems.add("NaN or infinite", f"{key}: {int((~np.isfinite(values)).sum())} values")
    elif values.size and values.dtype.kind in "iu" and type(meta.get("codebook_size")) is int:
        least, most = int(values.min()), int(values.max())
        if least < 0 or most >= meta["codebook_size"]:
            wanted = f"0 to {meta['codebook_size'] - 1}"
            problems.add("codes out of range", f"{key}: {least} to {most}, expected {wanted}")


def _dtype(meta: Mapping[str, Any], kind: str) -> str | None:
    """As docs/formats.md has it; None: the attributes do not say."""
    if kind == "embedding":
        return meta.get("embedding_dtype")
    size = meta.get("codebook_size")
    if type(size) is not int or COPIED_FROM in meta:
        return None
    return "uint8" if size <= 256 else "int16" if size <= 32_768 else "int32"


def _check_index(path: Path, file: h5py.File, meta: Mapping[str, Any], problems: Problems) -> None:
    if not index_path(path).exists():
        return
    index = read_offsets(path, str(meta.get("content_digest", "")))
    if index is None:
        problems.add("index", f"{index_path(path)}: damaged or of another file; remove it")
        return
    found = find_offsets(file, file)
    same = (
        found is not None
        and (index.keys.joined, index.dtype, index.width)
        == (found.keys.joined, found.dtype, found.width)
        and np.array_equal(index.num_frames, found.num_frames)
        and np.array_equal(index.offset, found.offset)
    )
    if not same:
        twice = " (it has a key twice)" if len(set(index.keys)) < len(index.keys) else ""
        problems.add("index", f"{index_path(path)}: not of these arrays{twice}; remove it")
