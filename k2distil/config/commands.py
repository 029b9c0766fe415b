"""Every command's options: yaml key = --flag = field, its type, default and help.

Of each command `--help` also shows its docstring, and its `example`: flags that it parses.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from k2distil.config.options import (
    AudioOptions,
    DataOptions,
    DeviceOptions,
    ExtractOptions,
    FileOptions,
    LaunchOptions,
    ListOptions,
    OptimizerOptions,
    RunOptions,
    StudentOptions,
    TeacherOptions,
    option,
)


@dataclass(frozen=True, kw_only=True)
class SaveEmbeddingConfig(
    TeacherOptions, AudioOptions, FileOptions, ExtractOptions, LaunchOptions, RunOptions
):
    """k2distil save_embedding: write a teacher's embeddings of some audio."""

    save_path: Path = option("h5 file to write")
    num_audio: int | None = option("number of utterances", 1000, minimum=1)

    required = ("encoder_type", "checkpoint", "train_data", "save_path")
    example = (
        "--config conf/huggingface_whisper.yaml --checkpoint openai/whisper-large-v3 "
        "--train_data data.list --save_path exp/embedding.h5"
    )


@dataclass(frozen=True, kw_only=True)
class TrainQuantizerConfig(TeacherOptions, AudioOptions, LaunchOptions, RunOptions):
    """k2distil train_quantizer: train a quantizer on embeddings, or on audio."""

    save_path: Path = option("quantizer file, or a folder for quantizer.pt")
    embedding_path: Path | None = option("embeddings of save_embedding.sh to train on", None)
    train_quantizer_online: bool = option(
        "train on audio and a teacher directly, without an h5 of embeddings", False
    )
    num_audio: int | None = option("number of utterances when online", 1000, minimum=1)
    quantizer_type: Literal["product", "additive"] = option(
        "product: easy to predict, for students, fast; additive: less reconstruction error at the "
        "same bytes, slower",
        "product",
    )
    quantizer_in_dim: int | None = option(
        "the embedding's dimension (1280 for whisper-large); not given: taken from the data", None
    )
    quantizer_out_dim: int = option("N, the number of codebooks", 8, minimum=1)
    quantizer_codebook_size: int = option(
        "K, the entries per codebook; a code takes a byte up to 256", 256, minimum=2
    )
    quantizer_batch_size: int = option("frames per training step", 512, minimum=1)
    reservoir_frames: int = option(
        "frames to keep in memory and train on, a uniform sample if there are more",
        500_000,
        minimum=1,
    )
    checkpoint_seconds: float = option(
        "seconds of training between two checkpoints: the most that a stop loses", 30.0, minimum=0
    )

    required = ("save_path",)
    example = (
        "--config conf/quantizer.yaml --embedding_path exp/embedding.h5 --save_path exp/quantizer"
    )


@dataclass(frozen=True, kw_only=True)
class SaveCodebookConfig(
    TeacherOptions, AudioOptions, FileOptions, ExtractOptions, LaunchOptions, RunOptions
):
    """k2distil save_codebook: write the codes of all audio."""

    save_path: Path = option("h5 file to write")
    save_codebook: bool = option("write codes; without it, embeddings of all audio", False)
    quantizer_path: Path | None = option(
        "quantizer file or its folder, or a state dict of multi_quantization", None
    )
    num_codebooks_used: int | None = option(
        "write the codes of the first n codebooks only; not given: of all", None, minimum=1
    )
    quantizer_in_dim: int | None = option(
        "the embedding's dimension; if given, it must be the quantizer's", None
    )
    quantizer_out_dim: int | None = option(
        "N, the number of codebooks; if given, it must be the quantizer's", None
    )
    quantizer_codebook_size: int | None = option(
        "K, the entries per codebook; if given, it must be the quantizer's", None
    )

    force: bool = option(
        "start over an output made with other settings; accept a quantizer made for another layer, "
        "padding or dtype",
        False,
    )

    required = ("encoder_type", "checkpoint", "train_data", "save_path")
    example = (
        "--config conf/huggingface_whisper.yaml --checkpoint openai/whisper-large-v3 "
        "--train_data data.list --quantizer_path exp/quantizer --save_codebook "
        "--save_path exp/codes.h5"
    )


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """k2distil merge: make the h5 of a run that ended with all parts done, but not merged."""

    save_path: Path = option("--save_path of the run")
    lease_seconds: float = option("--lease_seconds of the run", 60.0, minimum=1)

    required = ("save_path",)
    example = "--save_path exp/codes.h5"


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(DataOptions):
    """k2distil verify: check that codes or embeddings are whole, right and complete."""

    codebook_path: Path | None = option("codes to check", None)
    embedding_path: Path | None = option("embeddings to check, instead of codes", None)

    required = ()
    example = "--codebook_path exp/codes.h5 --train_data data.list"


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """k2distil inspect: print what is in codes, embeddings or a quantizer."""

    path: Path = option("codes, embeddings or a quantizer")

    required = ("path",)
    example = "--path exp/codes.h5"


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """k2distil report: write an HTML page of tables and plots of codes, quantizers, students."""

    path: tuple[Path, ...] = option("codes, embeddings, quantizers, --save_path of students")
    save_path: Path = option(".html to write")

    required = ("path", "save_path")
    example = "--path exp/quantizer exp/codes.h5 exp/student --save_path exp/report.html"


@dataclass(frozen=True, kw_only=True)
class ExportConfig(DataOptions):
    """k2distil export: write a quantizer, or codes, for another toolkit."""

    to: Literal["multi_quantization", "lhotse"] = option(
        "multi_quantization: the quantizer of --quantizer_path, as a state dict for icefall; "
        "lhotse: a manifest of cuts with the codes of --codebook_path"
    )
    save_path: Path = option("file to write; of lhotse's cuts .jsonl.gz")
    quantizer_path: Path | None = option("multi_quantization: quantizer file, or its folder", None)
    codebook_path: Path | None = option("lhotse: codes of save_codebook.sh", None)
    cuts_path: Path | None = option("lhotse: cuts whose ids are the keys of the codes", None)
    train_data: tuple[Path, ...] | None = option(
        "lhotse: audio lists to make cuts of, without cuts_path", None
    )
    channel: int = option("lhotse: channel of train_data's audio, 0: the first", 0, minimum=0)
    field: str = option("lhotse: name of the codes in a cut", "codebook_indexes")
    dtype: Literal["uint8", "int16"] | None = option(
        "lhotse: dtype of the codes; int16, which cut.pad() can fill with -100, makes a copy of "
        "the h5; not given: as they are. A flag only: in a yaml, dtype is the teacher's",
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
    example = (
        "--to lhotse --codebook_path exp/codes.h5 --train_data data.list --save_path cuts.jsonl.gz"
    )


@dataclass(frozen=True, kw_only=True)
class TrainDistilConfig(StudentOptions, OptimizerOptions, ListOptions, LaunchOptions, RunOptions):
    """k2distil train_distil: train a student on text and codes.

    The student itself is the yaml section `student:`, see conf/train_distil.yaml.
    """

    save_path: Path = option("folder for the student, checkpoints and logs", in_utf8=True)
    cv_data: tuple[Path, ...] | None = option(
        "lists to validate on; not given: no validation, no best student", None
    )
    codebook_path: tuple[Path, ...] | None = option(
        "codes of save_codebook.sh, one output or several of one quantizer", None
    )
    num_codebooks: int | None = option(
        "N of the codes; if given, it must be that of their file", None, minimum=1
    )
    codebook_size: int | None = option(
        "K of the codes; if given, it must be that of their file; 256 where the file does not say",
        None,
        minimum=2,
    )
    missing_codes: Literal["error", "ignore"] = option(
        "utterances without codes: stop, or train on their text alone (ignore)", "error"
    )
    bad_utterances: Literal["error", "skip"] = option(
        "utterances whose audio cannot be read, or whose text or codes do not fit it: stop before "
        "the first step, or list them (skip) and train on what fits, text or codes alone",
        "error",
    )

    may_lose_nodes = False
    required = ("train_data", "save_path")
    example = (
        "--config conf/train_distil.yaml --train_data data.list --cv_data dev.list "
        "--codebook_path exp/codes.h5 --save_path exp/student"
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ListOptions, DeviceOptions):
    """k2distil evaluate: transcribe a list, and measure error rates where it has text."""

    student_checkpoint: Path = option("folder of a student, such as <save_path>/best", in_utf8=True)
    save_path: Path | None = option(
        "JSON file for the rates and every text, also of audio with no text to compare; not given: "
        "none",
        None,
    )
    batch_seconds: float = option(
        "seconds of audio per batch, padding included", 120.0, minimum=0.1
    )
    num_worst: int = option("how many of the worst utterances to show", 5, minimum=0)

    gpu: str | None = option(
        "a CUDA device index, or cpu; not given: 0, or the CPU where there is no GPU", None
    )

    required = ("student_checkpoint", "train_data")
    example = "--student_checkpoint exp/student/best --train_data data/test/data.list"


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """k2distil average: make one student of the mean of a training's latest checkpoints."""

    student_checkpoint: Path = option("--save_path of the training", in_utf8=True)
    num_checkpoints: int = option("how many of the latest checkpoints to average", 2, minimum=1)
    save_path: Path = option("folder for the student; it must not exist yet", in_utf8=True)

    required = ("student_checkpoint", "save_path")
    example = "--student_checkpoint exp/student --num_checkpoints 5 --save_path exp/mean"
