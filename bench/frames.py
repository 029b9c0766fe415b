"""Frames that `quantizer.py` trains and tests quantizers on, made once and kept in a folder.

whisper_last, whisper_block3: the real Whisper tiny.en encoder's states, 50 frames/s, D = 384
log_mel_stack: 16 log-mel frames of 80 bins side by side, every 20 ms, D = 1280
gaussian: variances fall as 1 / i along random axes, D = 1280, the mean of a dimension is 1
gaussian_outliers: the same, then 8 dimensions of deviation 30, and 30 added to every one

Speech is LibriSpeech: the first 90 % of the utterances train, the others are held out. All is kept
as float16, as embedding files do. Of Gaussians the least error any code can have is known.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import soundfile
import torch
from digits import librispeech
from torch import Tensor

from k2distil.atomic import replacing
from k2distil.batch import SAMPLE_RATE, AudioBatch
from k2distil.quantizer import FrameReservoir
from k2distil.teachers import build_teacher
from k2distil.teachers.log_mel import log_mel, mel_filters

VERSION = 1  # of what this file makes: raise it with any change to the data
MAX_HELD_OUT = 15_000  # frames
TRAINING_PART = 0.9  # of the utterances
STACKED, EVERY, NUM_MELS = 16, 2, 80  # log-mel frames of 10 ms
GAUSSIAN_DIM, GAUSSIAN_ROWS = 1280, 100_000
NUM_OUTLIERS, OUTLIER_DEVIATION, OFFSET = 8, 30.0, 30.0
CHUNK = 4096  # rows made or read at once
TEACHER_BATCH = 8  # utterances

Parts = Iterator[tuple[str, Tensor]]  # ("train" or "held_out", (num_frames, D) float)


@dataclass(frozen=True)
class Frames:
    """training: all to train on; held_out: (H, D) float32; least_error: see below, or None."""

    training: FrameReservoir
    held_out: Tensor
    variances: np.ndarray | None

    def least_error(self, num_bits: float) -> float | None:
        """The least relative error of any code of so many bits, where it is known."""
        return None if self.variances is None else least_error(self.variances, num_bits)


def least_error(variances: np.ndarray, num_bits: float) -> float:
    """The distortion-rate function of a Gaussian, over its variance, by reverse water-filling.

    Every principal axis keeps an error of `level`, or its variance where that is less; an axis
    costs log2(variance / level) / 2 bits (Cover and Thomas, Elements of Information Theory, 10.3).
    """
    low, high = 0.0, float(variances.max())
    for _ in range(100):
        level = (low + high) / 2
        spent = 0.5 * np.log2(np.maximum(variances / level, 1.0)).sum()
        low, high = (level, high) if spent > num_bits else (low, level)
    return float(np.minimum(variances, level).sum() / variances.sum())


def make(name: str, data: Path, cache: Path) -> Path:
    """-> the h5 of a data set, made where it is not there yet."""
    path = cache / f"{name}_{VERSION}.h5"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        parts, variances = DATA[name](data)
        with replacing(path) as temporary, h5py.File(temporary, "w") as file:
            if variances is not None:
                file["variances"] = variances
            for kind, frames in parts:
                _append(file, kind, frames)
    return path


def dim_of(path: Path) -> int:
    """D of a data set."""
    with h5py.File(path) as file:
        return int(file["train"].shape[1])


def read(path: Path, max_rows: int | None, seed: int) -> Frames:
    """max_rows: train on a sample, the same for every seed; seed: of the order of the frames."""
    with h5py.File(path) as file:
        size, dim = file["train"].shape
        rows = min(size, max_rows or size)
        training = FrameReservoir(rows, dim, seed)
        for frames in _sampled(file["train"], rows):
            training.add(frames)
        held_out = torch.cat(list(_sampled(file["held_out"], MAX_HELD_OUT))).float()
        variances = file["variances"][:] if "variances" in file else None
    return Frames(training, held_out, variances)


def _sampled(dataset: h5py.Dataset, max_rows: int) -> Iterator[Tensor]:
    """Some rows of a data set, in its order, in parts."""
    generator = torch.Generator().manual_seed(0)
    kept = torch.zeros(len(dataset), dtype=torch.bool)
    kept[torch.randperm(len(dataset), generator=generator)[:max_rows]] = True
    for start in range(0, len(dataset), CHUNK):
        yield torch.from_numpy(dataset[start : start + CHUNK])[kept[start : start + CHUNK]]


def _append(file: h5py.File, kind: str, frames: Tensor) -> None:
    if kind not in file:
        shape = {"shape": (0, frames.shape[1]), "maxshape": (None, frames.shape[1])}
        file.create_dataset(kind, dtype="float16", chunks=(256, frames.shape[1]), **shape)
    size = len(file[kind])
    file[kind].resize(size + len(frames), axis=0)
    file[kind][size:] = frames.half().numpy()


def _whisper(layer: int) -> Callable[[Path], tuple[Parts, None]]:
    def frames(data: Path) -> Parts:
        teacher = build_teacher(
            "wenet-whisper",
            str(data / "teachers" / "whisper_tiny_en_encoder.fp16.pt"),
            middle_layer=layer,
            whisper_padding="none",
        )
        utterances = list(_utterances(data))
        for start in range(0, len(utterances), TEACHER_BATCH):
            kinds, audio = zip(*utterances[start : start + TEACHER_BATCH], strict=True)
            lengths = torch.tensor([len(each) for each in audio])
            samples = torch.nn.utils.rnn.pad_sequence(audio, batch_first=True)
            keys = [str(i) for i in range(len(audio))]
            for key, values in teacher.embed(AudioBatch(keys, samples, lengths)).unpadded():
                yield kinds[int(key)], values

    return lambda data: (frames(data), None)


def _log_mel_stack(data: Path) -> tuple[Parts, None]:
    def frames() -> Parts:
        filters = mel_filters(NUM_MELS)
        for kind, audio in _utterances(data):
            mel = log_mel(audio[None], [len(audio)], filters)[0]  # (80, T)
            stacked = mel.unfold(1, STACKED, EVERY)  # (80, M, 16)
            yield kind, stacked.permute(1, 2, 0).flatten(1)

    return frames(), None


def _utterances(data: Path) -> Iterator[tuple[str, Tensor]]:
    """("train" or "held_out", (S,) float32 samples)."""
    paths = [row["path"] for row in librispeech(data)]
    num_training = int(TRAINING_PART * len(paths))
    for index, path in enumerate(paths):
        samples, rate = soundfile.read(path, dtype="float32")
        assert rate == SAMPLE_RATE, path
        yield "train" if index < num_training else "held_out", torch.from_numpy(samples)


def _gaussian(outliers: bool) -> Callable[[Path], tuple[Parts, np.ndarray]]:
    def make_all(data: Path) -> tuple[Parts, np.ndarray]:
        generator = torch.Generator().manual_seed(0)
        variances = 1 / torch.arange(1, GAUSSIAN_DIM + 1, dtype=torch.float64)
        variances *= GAUSSIAN_DIM / variances.sum()
        normal = torch.randn(GAUSSIAN_DIM, GAUSSIAN_DIM, generator=generator).double()
        factor = variances.sqrt().unsqueeze(1) * torch.linalg.qr(normal)[0]  # (axes, D)
        if outliers:
            chosen = torch.randperm(GAUSSIAN_DIM, generator=generator)[:NUM_OUTLIERS]
            factor[:, chosen] *= OUTLIER_DEVIATION / factor[:, chosen].norm(dim=0)
            variances = torch.linalg.eigvalsh(factor.T @ factor).clamp(min=0)
        offset = OFFSET if outliers else 0.0

        def frames() -> Parts:
            for kind, num_rows in (("train", GAUSSIAN_ROWS), ("held_out", MAX_HELD_OUT)):
                for start in range(0, num_rows, CHUNK):
                    shape = (min(CHUNK, num_rows - start), GAUSSIAN_DIM)
                    yield kind, torch.randn(shape, generator=generator) @ factor.float() + offset

        return frames(), variances.numpy()

    return make_all


DATA: dict[str, Callable[[Path], tuple[Parts, np.ndarray | None]]] = {
    "whisper_last": _whisper(-1),
    "whisper_block3": _whisper(3),
    "log_mel_stack": _log_mel_stack,
    "gaussian": _gaussian(outliers=False),
    "gaussian_outliers": _gaussian(outliers=True),
}
