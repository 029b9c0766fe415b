"""Codes of connected digits for `distil.py`, made by the project's own scripts; and controls."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import soundfile
import torch
from digits import ROOT, librispeech_list
from ideas import IDEAS, codes_of_idea, train_product
from mq import train_mq
from torch import Tensor

from k2distil.quantizer import FrameReservoir
from k2distil.storage import EmbeddingReader
from k2distil.teachers.log_mel import log_mel, mel_filters

FRAME_SHIFT = 0.02  # seconds
CODEBOOK_SIZE = 256  # of everything but product and additive codes
ALL = 100_000  # utterances


@dataclass(frozen=True)
class CodesSettings:
    """Which codes.

    name: product, additive, multi_quantization, shuffled, filter_banks, frames, or of `ideas.py`.
    """

    name: str = "product"
    num_codebooks: int = 8
    layer: int = -1
    padding: str = "none"
    mq_seconds: float = 360.0
    seed: int = 0  # of the quantizer's training
    codebook_size: int = CODEBOOK_SIZE

    @property
    def path_name(self) -> str:
        """Of the file."""
        sizes = str(self.num_codebooks)
        if self.codebook_size != CODEBOOK_SIZE:
            sizes += f"x{self.codebook_size}"
        name = f"{self.name}_{sizes}_{self.teacher}"
        return f"{name}_seed{self.seed}" if self.seed else name

    @property
    def teacher(self) -> str:
        """Its layer and padding, as a part of a file's name."""
        return f"layer{self.layer}_{self.padding}"


def script(name: str, *flags: object) -> None:
    """Run one of the project's scripts on one thread of the CPU; its log goes to the terminal."""
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    flags = (*flags, "--gpu", "cpu", "--num_workers", 0)
    subprocess.run([str(ROOT / name), *map(str, flags)], env=environment, check=True)


def make_codes(data: Path, folder: Path, settings: CodesSettings) -> Path:
    """The h5 of train.list's codes, made unless it is there.

    The quantizer is of the training audio and of LibriSpeech, as a user's would be of more than
    one domain; no student hears the latter.
    """
    path = folder / f"{settings.path_name}.h5"
    if path.exists():
        return path
    digits, broad = folder / "train.list", librispeech_list(data, folder)
    teacher = [
        *("--encoder_type", "wenet-whisper", "--middle_layer", settings.layer),
        *("--checkpoint", data / "teachers" / "whisper_tiny_en_encoder.fp16.pt"),
        *("--whisper_padding", settings.padding),
    ]
    if settings.name == "shuffled":
        _shuffle(make_codes(data, folder, CodesSettings()), path)
    elif settings.name == "filter_banks":
        _filter_bank_codes(folder, settings.num_codebooks, path)
    elif settings.name in IDEAS:
        embedding = folder / f"embedding_broad_{settings.teacher}.h5"
        _embed(embedding, teacher, digits, broad)
        _codes_of_idea(EmbeddingReader(embedding), folder, settings, path)
    elif settings.name == "frames":
        embedding = embedding_of_digits(folder, settings)
        _embed(embedding, teacher, digits)
        _frame_indexes(EmbeddingReader(embedding), path)
    else:
        quantizer = folder / f"{settings.path_name}.pt"
        if settings.name == "multi_quantization":
            embedding = folder / f"embedding_broad_{settings.teacher}.h5"
            _embed(embedding, teacher, digits, broad)
            _train_mq(EmbeddingReader(embedding), settings, quantizer)
        else:
            script(
                *("train_quantizer_offline.sh", *teacher, "--train_data", digits, broad),
                *("--train_quantizer_online", "--num_audio", ALL),
                *("--quantizer_type", settings.name),
                *("--quantizer_out_dim", settings.num_codebooks),
                *("--quantizer_codebook_size", settings.codebook_size, "--seed", settings.seed),
                *("--save_path", quantizer),
            )
        script(
            *("save_codebook.sh", *teacher, "--train_data", digits, "--save_codebook"),
            *("--quantizer_path", quantizer, "--save_path", path),
        )
    return path


def embedding_of_digits(folder: Path, settings: CodesSettings) -> Path:
    """The h5 of the frames that "frames" counts."""
    return folder / f"embedding_{settings.teacher}.h5"


def _embed(path: Path, teacher: Sequence[object], *lists: Path) -> None:
    script(
        *("save_embedding.sh", *teacher, "--train_data", *lists),
        *("--num_audio", ALL, "--save_path", path),
    )


def _train_mq(embedding: EmbeddingReader, settings: CodesSettings, path: Path) -> None:
    """The package's own quantizer, as icefall saves it."""
    frames = [torch.from_numpy(embedding[key]).float() for key in embedding]
    reservoir = FrameReservoir(sum(map(len, frames)), frames[0].shape[1], settings.seed)
    for each in frames:
        reservoir.add(each)
    done = train_mq(reservoir, settings.num_codebooks, settings.seed, settings.mq_seconds)
    print(f"multi_quantization: {done.iterations} iterations, {done.seconds:.0f} s", flush=True)
    torch.save(done.quantizer.quantizer.state_dict(), path)


def _shuffle(codes: Path, path: Path) -> None:
    """Each utterance's codes in another order: how often they come stays, what is said is lost."""
    generator = np.random.default_rng(0)
    with h5py.File(codes) as source:
        found = {key: generator.permutation(source[key][:], axis=0) for key in source}
        _write(path, found, CODEBOOK_SIZE)


def _filter_bank_codes(folder: Path, num_codebooks: int, path: Path) -> None:
    """Codes of log-mel frames, pairs of 10 ms, instead of a teacher's."""
    frames = _log_mels(folder)
    encode = train_product(list(frames.values()), num_codebooks, seed=0).encode
    _write(path, {key: encode(each).numpy() for key, each in frames.items()}, CODEBOOK_SIZE)


def _log_mels(folder: Path) -> dict[str, Tensor]:
    """(T, 160) of every training utterance of digits, 50 frames/s."""
    filters = mel_filters(80)
    frames: dict[str, Tensor] = {}
    for wav in sorted((folder / "wav").glob("*_train_*.wav")):
        samples = torch.from_numpy(soundfile.read(wav, dtype="float32")[0])
        mel = log_mel(samples[None], [len(samples)], filters)[0].T  # (T, 80), 100 frames/s
        mel = torch.nn.functional.pad(mel, (0, 0, 0, len(mel) % 2))
        frames[wav.stem] = mel.reshape(-1, 160)
    return frames


def _codes_of_idea(
    embedding: EmbeddingReader, folder: Path, settings: CodesSettings, path: Path
) -> None:
    frames = {key: torch.from_numpy(embedding[key]).float() for key in embedding}
    mels = _log_mels(folder)
    made = codes_of_idea(
        settings.name, frames, mels, list(mels), settings.num_codebooks, settings.seed
    )
    _write(path, {key: each.numpy().astype(np.uint8) for key, each in made.items()}, CODEBOOK_SIZE)


def _frame_indexes(embedding: EmbeddingReader, path: Path) -> None:
    """Each frame's row among all frames, in the place of codes: see `l1_student.py`."""
    indexes, first = {}, 0
    for key in embedding:
        number = embedding.num_frames(key)
        indexes[key] = np.arange(first, first + number, dtype=np.int32)[:, None]
        first += number
    _write(path, indexes, first)


def _write(path: Path, arrays: dict[str, np.ndarray], codebook_size: int) -> None:
    width = next(iter(arrays.values())).shape[1]
    with h5py.File(path.with_suffix(".tmp"), "w", libver="v108") as file:
        file.attrs.update(kind="codes", format_version=1, frame_shift=FRAME_SHIFT)
        file.attrs.update(num_codebooks=width, codebook_size=codebook_size)
        for key, each in arrays.items():
            file[key] = each
    path.with_suffix(".tmp").rename(path)


def bytes_of(path: Path) -> int:
    """What the arrays take, without the file's own."""
    with h5py.File(path) as file:
        return sum(each.nbytes for each in file.values())
