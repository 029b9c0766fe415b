"""What options commands share: yaml key = --flag = field, its type, default and help."""

from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Literal

MAX_SEED = 2**32 - 1  # numpy's, which transformers seeds too

EncoderType = Literal["wenet-whisper", "huggingface-whisper", "hubert", "wav2vec2", "wavlm"]


def option(
    help: str,
    default: Any = MISSING,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    flag_only: bool = False,
    in_utf8: bool = False,
) -> Any:
    """A field of a config.

    Args:
        help: the text that --help shows.
        default: none: it is required.
        minimum, maximum: the least and the greatest value.
        flag_only: a yaml has another meaning for the key, and is not asked.
        in_utf8: a path that TensorBoard or safetensors opens, which take no other names.
    """
    limits = {"minimum": minimum, "maximum": maximum, "in_utf8": in_utf8}
    return field(default=default, metadata={"help": help, "flag_only": flag_only, **limits})


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """Which teacher, and which of its outputs."""

    encoder_type: EncoderType | None = option(
        "kind of teacher; an openai-whisper .pt serves as either whisper kind", None
    )
    checkpoint: str | None = option(
        "teacher: a WeNet or openai .pt, a Hugging Face folder or hub id, a fairseq .pt", None
    )
    middle_layer: int = option("layer to take, 1 to L; -1: the last, final norm included", -1)
    middle_layer_norm: Literal["none", "final"] = option(
        "final: apply the encoder's final norm after a middle layer too", "none"
    )
    whisper_padding: Literal["none", "30s"] | None = option(
        "whisper input: as long as the audio (none) or padded to 30 s as in pretraining; "
        "not given: wenet-whisper as its yaml says, else none",
        None,
    )
    do_normalize: bool | None = option(
        "hubert, wav2vec2, wavlm: scale each waveform to zero mean and unit variance; "
        "not given: as preprocessor_config.json says",
        None,
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = option(
        "the teacher computes in this; auto: float32 on the CPU, float16 on a GPU", "auto"
    )
    wenet_yaml: dict[str, Any] | None = None  # no option: `load_config` sets it


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which audio."""

    train_data: tuple[Path, ...] | None = option(
        "audio lists: data.list, list of shards, Kaldi folder or lhotse cuts; one or several", None
    )
    data_type: Literal["auto", "raw", "shard", "kaldi", "lhotse"] = option(
        "kind of all lists; auto: told from each", "auto"
    )
    allow_pipes: bool = option("run the commands (`... |`) of a Kaldi wav.scp", False)
    cache_dir: Path | None = option(
        "folder for shards given by URL; not given: shards_cache beside the output", None
    )


@dataclass(frozen=True, kw_only=True)
class ListOptions(DataOptions):
    """How it is read."""

    channel: int = option("audio channel, 0: the first", 0, minimum=0)
    num_workers: int | None = option(
        "decoding processes; 0: none; not given: one per core but one, at most 8", None, minimum=0
    )
    decode_timeout: float = option(
        "seconds after which an utterance whose audio does not come counts as failed; in a "
        "training or a test, and with --num_workers 0, of commands (`... |`) alone",
        300.0,
        minimum=1,
    )


@dataclass(frozen=True, kw_only=True)
class AudioOptions(ListOptions):
    """How much of it goes through the teacher, and in which pieces."""

    num_audio: int | None = option("number of utterances; not given: all", None, minimum=1)
    num_audio_from: Literal["random", "first"] = option(
        "num_audio are a seeded random sample, or the first of the list", "random"
    )
    long_audio: Literal["error", "skip", "chunk"] = option(
        "audio longer than 30 s, for Whisper: fail the utterance, drop it, or embed pieces", "error"
    )
    batch_seconds: float = option(
        "seconds of audio per batch, padding included", 120.0, minimum=0.1
    )
    part_utterances: int = option(
        "utterances per part; a process that dies loses the few parts in its work", 256, minimum=1
    )


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """How extraction runs, and what it writes."""

    embedding_dtype: Literal["float16", "float32"] = option(
        "dtype of embeddings in the h5", "float16"
    )
    shard_output: float | None = option(
        "hours of audio per h5, numbered beside save_path, which lists them; not given: one h5",
        None,
        minimum=1e-6,
    )
    lease_seconds: float = option(
        "a process of another host that gives no sign for so long is taken for dead, and its "
        "parts are made by others",
        60.0,
        minimum=1,
    )
    profile: bool = option("show where the time goes, and write a trace", False)


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """How torchrun starts the processes of `--gpu 0,1,...`."""

    nnodes: str | None = option(
        "number of nodes, or MIN:MAX; run the same command on each (torchrun's)", None
    )
    rdzv_endpoint: str | None = option("host:port of one of the nodes (torchrun's)", None)
    max_restarts: int = option(
        "how often all processes are started again when one dies (torchrun's)", 0, minimum=0
    )


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where to run."""

    gpu: str | None = option(
        "CUDA device indexes, one process each (0 or 0,1,2,3), or cpu; not given: 0, or the CPU "
        "without one",
        None,
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions(DeviceOptions):
    """How to run."""

    seed: int = option("random seed", 0, minimum=0, maximum=MAX_SEED)
    force: bool = option("start over an output made with other settings", False)
    given: frozenset[str] = frozenset()  # no option: `load_config` sets it to the flags there are


@dataclass(frozen=True, kw_only=True)
class StudentOptions:
    """Which student, and what it learns from the codes."""

    student: dict[str, Any] | None = option(
        "config of a CTC model of transformers: model_type and its keys; without model_type, "
        "changes of the default one; no flag",
        None,
    )
    student_checkpoint: Path | None = option(
        "folder of a student, or of a model of transformers after pretraining, to go on with "
        "instead of a new one; a CTC head it lacks is new",
        None,
        in_utf8=True,
    )
    vocabulary: Path | None = option(
        "WeNet's units.txt of characters, or a folder of a transformers tokenizer; not given: "
        "the characters of the training text, or the tokens of --student_checkpoint",
        None,
    )
    student_layer: int = option("encoder layer that predicts the codes; -1: the last", -1)
    codebook_weight: float = option(
        "of the codebook loss beside CTC's, at the first step; 0: text alone", 5.0, minimum=0
    )
    codebook_weight_end: float = option(
        "what it has become behind the last step, in a straight line", 0.0, minimum=0
    )
    codebook_head: Literal["linear", "autoregressive"] = option(
        "linear: each code alone; autoregressive: from those before it too, slower", "linear"
    )
    frames_ratio: int | None = option(
        "teacher frames per student frame; not given: taken from both frame shifts",
        None,
        minimum=1,
    )
    codebook_offset: int = option("teacher frames to skip before the student's first", 0)
    chunk_frames: int | None = option(
        "predict codes of so many frames at a time, for less memory; not given: all",
        None,
        minimum=1,
    )


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """How the student is trained."""

    max_steps: int = option("optimizer steps", 40_000, minimum=1)
    batch_seconds: float = option(
        "seconds of audio per batch and device, padding included", 120.0, minimum=0.1
    )
    max_seconds: float | None = option(
        "longer audio is left out of the training and listed; not given: none is", None, minimum=0.1
    )
    accumulate_batches: int = option("batches per optimizer step", 1, minimum=1)
    labelled_share: float | None = option(
        "of a batch's seconds, for utterances with text, where some have none; not given: half, "
        "or as all of the audio has it, where that is more",
        None,
        minimum=0.01,
        maximum=0.99,
    )
    learning_rate: float = option("AdamW, the highest", 1e-3, minimum=0)
    warmup_steps: int = option("steps up to it; then a cosine down to 0", 2_000, minimum=0)
    weight_decay: float = option("AdamW", 0.01, minimum=0)
    max_grad_norm: float = option("the gradient is clipped to this; 0: not at all", 5.0, minimum=0)
    num_time_masks: int = option("SpecAugment: time masks; 0: none", 2, minimum=0)
    time_mask_frames: int = option("SpecAugment: widest, 10 ms frames", 50, minimum=0)
    num_freq_masks: int = option("SpecAugment: frequency masks; 0: none", 2, minimum=0)
    freq_mask_bins: int = option("SpecAugment: widest, mel bins", 10, minimum=0)
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = option(
        "of mixed precision; auto: float32 on the CPU, bfloat16 on a GPU that has it, else float16",
        "auto",
    )
    eval_steps: int = option("steps between tests on cv_data", 1_000, minimum=1)
    save_steps: int = option("steps between checkpoints: what a crash can lose", 1_000, minimum=1)
    keep_checkpoints: int = option(
        "checkpoints that are kept, the latest; k2distil average takes them", 2, minimum=1
    )
    logging_steps: int = option("steps between lines in the log and TensorBoard", 50, minimum=1)
