"""Arrays and parts that the tests of storage share."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from k2distil.storage import PartFolder

FINGERPRINT = {"teacher": "tiny", "layer": 6, "list": "abc"}
ATTRIBUTES = {"kind": "codes", "num_codebooks": 8, "frame_shift": 0.02, "teacher": "tiny"}


def some_arrays(num: int = 10, dtype: str = "uint8", width: int = 8) -> dict[str, np.ndarray]:
    """By keys whose order is not that of their names."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, num)
    return {
        f"utt {(7 * i + 3) % num}-甲": (255 * rng.random((lengths[i], width))).astype(dtype)
        for i in range(num)
    }


def in_chunks(arrays: dict[str, np.ndarray], size: int) -> Iterator[dict[str, np.ndarray]]:
    keys = list(arrays)
    for start in range(0, len(keys), size):
        yield {key: arrays[key] for key in keys[start : start + size]}


def write_all(path: Path, arrays: dict[str, np.ndarray], size: int = 4) -> PartFolder:
    """All parts, not merged yet."""
    parts = PartFolder(path, FINGERPRINT, len(arrays), size)
    for index, chunk in enumerate(in_chunks(arrays, size)):
        parts.write(index, chunk, {"failed": [], "audio_seconds": 1.5})
    return parts


def make_h5(
    path: Path, arrays: dict[str, np.ndarray], kind: str = "codes", **attributes: object
) -> Path:
    write_all(path, arrays).merge(list(arrays), {**ATTRIBUTES, "kind": kind, **attributes})
    return path


def missing(parts: PartFolder) -> list[int]:
    """The parts that a run which goes on has to make."""
    parts.discard_damaged()
    return sorted(set(range(parts.num_parts)) - parts.done())


def assert_holds(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """As others read it: f[key][:]."""
    with h5py.File(path) as file:
        assert set(file) == set(arrays)
        for key, expected in arrays.items():
            assert file[key].dtype == expected.dtype
            assert np.array_equal(file[key][:], expected)
            assert (file[key].chunks, file[key].compression) == (None, None)
