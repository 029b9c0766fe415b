"""Every command's options: yaml key = --flag = field, its type, default and help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from k2distil.config.options import (
    AudioOptions,
    DataOptions,
    DeviceOptions,
    ExtractOptions,
    LaunchOptions,
    ListOptions,
    OptimizerOptions,
    RunOptions,
    StudentOptions,
    TeacherOptions,
    option,
)


@dataclass(frozen=True, kw_only=True)
class SaveEmbeddingConfig(TeacherOptions, AudioOptions, ExtractOptions, LaunchOptions, RunOptions):
    """k2distil save_embedding: the teacher's embeddings of some utterances -> h5."""

    save_path: Path = option("h5 file to write")
    num_audio: int | None = option("number of utterances", 1000, minimum=1)

    required = ("encoder_type", "checkpoint", "train_data", "save_path")


@dataclass(frozen=True, kw_only=True)
class TrainQuantizerConfig(TeacherOptions, AudioOptions, LaunchOptions, RunOptions):
    """k2distil train_quantizer: embeddings (or audio) -> a quantizer."""

    save_path: Path = option("quantizer file, or a folder to get quantizer.pt")
    embedding_path: Path | None = option("embeddings from save_embedding.sh", None)
    train_quantizer_online: bool = option(
        "take the frames from audio and teacher, with nothing on disk between", False
    )
    num_audio: int | None = option("number of utterances when online", 1000, minimum=1)
    quantizer_type: Literal["product", "additive"] = option(
        "product: predictable codes, fast; additive: less error, slower", "product"
    )
    quantizer_in_dim: int | None = option(
        "the embedding's dimension (1280 for whisper-large); not given: taken from the data", None
    )
    quantizer_out_dim: int = option("number of codebooks: bytes per frame", 8, minimum=1)
    quantizer_codebook_size: int = option("entries per codebook", 256, minimum=2)
    quantizer_batch_size: int = option("frames per training step", 512, minimum=1)
    reservoir_frames: int = option(
        "frames kept in memory to train on, a uniform sample if there are more", 500_000, minimum=1
    )
    checkpoint_seconds: float = option(
        "seconds of training between two checkpoints: what a stop can lose", 30.0, minimum=0
    )

    required = ("save_path",)


@dataclass(frozen=True, kw_only=True)
class SaveCodebookConfig(TeacherOptions, AudioOptions, ExtractOptions, LaunchOptions, RunOptions):
    """k2distil save_codebook: the codes (or embeddings) of all utterances -> h5."""

    save_path: Path = option("h5 file to write")
    save_codebook: bool = option("write codes; without it, embeddings", False)
    quantizer_path: Path | None = option(
        "quantizer from train_quantizer_offline.sh, or a state dict of multi_quantization", None
    )
    num_codebooks_used: int | None = option(
        "codes of the first so many codebooks only; not given: all", None, minimum=1
    )
    quantizer_in_dim: int | None = option("must be the quantizer's, if given", None)
    quantizer_out_dim: int | None = option("must be the quantizer's, if given", None)
    quantizer_codebook_size: int | None = option("must be the quantizer's, if given", None)

    force: bool = option(
        "start over an output made with other settings; accept a quantizer made for another layer, "
        "padding or dtype",
        False,
    )

    required = ("encoder_type", "checkpoint", "train_data", "save_path")


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """k2distil merge: the finished parts of a run that ended before its merge -> the h5."""

    save_path: Path = option("--save_path of the run")
    lease_seconds: float = option("as in the run", 60.0, minimum=1)

    required = ("save_path",)


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(DataOptions):
    """k2distil verify: whether a file of codes or embeddings is whole, right and complete."""

    codebook_path: Path | None = option("codes to look at", None)
    embedding_path: Path | None = option("or embeddings", None)

    required = ()


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """k2distil inspect: what is in a file of codes, embeddings or a quantizer."""

    path: Path = option("codes, embeddings or a quantizer")

    required = ("path",)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """k2distil report: codes, quantizers, students -> one HTML page of tables and plots."""

    path: tuple[Path, ...] = option("codes, embeddings, quantizers, folders of students")
    save_path: Path = option(".html to write")

    required = ("path", "save_path")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(DataOptions):
    """k2distil export: a quantizer, or codes -> files for another toolkit."""

    to: Literal["multi_quantization", "lhotse"] = option(
        "multi_quantization: icefall's, a state dict; lhotse: cuts that have the codes"
    )
    save_path: Path = option("file to write; lhotse: .jsonl.gz")
    quantizer_path: Path | None = option("multi_quantization: quantizer file, or its folder", None)
    codebook_path: Path | None = option("lhotse: codes from save_codebook.sh", None)
    cuts_path: Path | None = option("lhotse: cuts whose ids are the keys of the codes", None)
    train_data: tuple[Path, ...] | None = option(
        "lhotse: audio lists to make cuts of, without cuts_path", None
    )
    channel: int = option("lhotse: of train_data's audio, 0: the first", 0, minimum=0)
    field: str = option("lhotse: name of the codes in a cut", "codebook_indexes")
    dtype: Literal["uint8", "int16"] | None = option(
        "lhotse: of the codes; int16, which cut.pad() can fill with -100, makes a copy of the h5; "
        "not given: as they are. Not read from a yaml, where it is the teacher's",
        None,
        flag_only=True,
    )
    path_prefix: Path | None = option(
        "lhotse: folder where the training will find the h5; not given: where it lies now", None
    )
    shar: Path | None = option(
        "lhotse: folder to write shards of cuts, audio and codes to, too", None
    )
    force: bool = option("replace an export of other settings", False)

    required = ("to", "save_path")


@dataclass(frozen=True, kw_only=True)
class TrainDistilConfig(StudentOptions, OptimizerOptions, ListOptions, LaunchOptions, RunOptions):
    """k2distil train_distil: transcripts and codes -> a student."""

    save_path: Path = option("folder for the student, checkpoints and logs", in_utf8=True)
    cv_data: tuple[Path, ...] | None = option(
        "lists to test on; not given: no tests, no best student", None
    )
    codebook_path: tuple[Path, ...] | None = option(
        "codes from save_codebook.sh, one output or several of one quantizer", None
    )
    num_codebooks: int | None = option("must be the codes', if given", None, minimum=1)
    codebook_size: int | None = option(
        "must be the codes', if given; 256 where their file does not say", None, minimum=2
    )
    missing_codes: Literal["error", "ignore"] = option(
        "utterances without codes: an error, or trained on their text alone", "error"
    )
    bad_utterances: Literal["error", "skip"] = option(
        "audio that cannot be read, empty text, unknown characters, text or codes that do not fit "
        "the audio: an error, or listed, and left out but for what fits of them",
        "error",
    )

    required = ("train_data", "save_path")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ListOptions, DeviceOptions):
    """k2distil evaluate: a student -> the texts of a list, and error rates where it has text."""

    student_checkpoint: Path = option("folder of a student, such as <save_path>/best", in_utf8=True)
    save_path: Path | None = option(
        "JSON file for the rates and every text; not given: none, for lists with text", None
    )
    batch_seconds: float = option(
        "seconds of audio per batch, padding included", 120.0, minimum=0.1
    )
    num_worst: int = option("utterances whose alignment is shown", 5, minimum=0)

    gpu: str | None = option(
        "a CUDA device index, or cpu; not given: 0, or the CPU without one", None
    )

    required = ("student_checkpoint", "train_data")


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """k2distil average: the latest checkpoints of a student's training -> one student."""

    student_checkpoint: Path = option("--save_path of the training", in_utf8=True)
    num_checkpoints: int = option("how many of the latest to take the mean of", 2, minimum=1)
    save_path: Path = option("folder for the student, which is not there yet", in_utf8=True)

    required = ("student_checkpoint", "save_path")
