"""Audio, and outputs as the scripts write them, with values that a test chooses."""

import json
from pathlib import Path

import numpy as np
import soundfile

from k2distil.storage import PartFolder

FRAME_SHIFT = 0.02  # seconds
LENGTHS = {"a": 20, "b": 35, "c": 50, "d": 27}  # frames

COMMON = {
    "teacher": "exp/final.pt",
    "teacher_digest": "abc",
    "dim": 16,
    "num_layers": 4,
    "middle_layer": 4,
    "middle_layer_norm": "final",
    "whisper_padding": "none",
    "dtype": "float32",
    "frame_shift": FRAME_SHIFT,
    "list": "123",
    "versions": "{}",
}
CODES = {
    "kind": "codes",
    "quantizer_type": "product",
    "quantizer_id": "q",
    "num_codebooks": 4,
    "codebook_size": 200,
}
EMBEDDING = {"kind": "embedding", "embedding_dtype": "float16"}


def write_list(folder: Path, keys: str = "abcd") -> Path:
    """wavs of LENGTHS, and their data.list."""
    lines = []
    for key in keys:
        noise = 0.1 * np.random.default_rng(0).standard_normal(round(LENGTHS[key] * 320))
        soundfile.write(folder / f"{key}.wav", noise, 16000)
        lines.append(json.dumps({"key": key, "wav": f"{key}.wav"}) + "\n")
    path = folder / "data.list"
    path.write_text("".join(lines))
    return path


def random_codes(dtype: str = "uint8") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {key: rng.integers(0, 200, (num, 4)).astype(dtype) for key, num in LENGTHS.items()}


def random_embedding(dtype: str = "float16") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {key: rng.standard_normal((num, 16)).astype(dtype) for key, num in LENGTHS.items()}


def write_output(
    path: Path, arrays: dict[str, np.ndarray], of: dict[str, object] = CODES, **changed: object
) -> Path:
    """An h5 with its index; `changed` are attributes that are not as they should be."""
    fingerprint = {**COMMON, **of, "utterances": len(arrays)}
    del fingerprint["teacher"], fingerprint["versions"]
    parts = PartFolder(path, fingerprint, len(arrays), 3)
    keys = list(arrays)
    for index in range(parts.num_parts):
        own = keys[3 * index : 3 * index + 3]
        parts.write(index, {key: arrays[key] for key in own}, {"failed": []})
    attributes = {**COMMON, **of, **changed}
    parts.merge(keys, {name: each for name, each in attributes.items() if each is not None})
    return path
