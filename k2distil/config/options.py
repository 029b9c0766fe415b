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
        "kind of teacher; an openai-whisper .pt works as either whisper kind", None
    )
    checkpoint: str | None = option(
        "teacher: a WeNet or openai .pt, a Hugging Face folder or hub id, a fairseq .pt", None
    )
    middle_layer: int = option(
        "layer to take, 1 to L, the number of layers; -1: the last, final norm included", -1
    )
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
        "what the teacher computes in; auto: float32 on the CPU, float16 on a GPU", "auto"
    )
    wenet_yaml: dict[str, Any] | None = None  # no option: `load_config` sets it


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which audio."""

    train_data: tuple[Path, ...] | None = option(
        "audio lists: data.list, list of shards, Kaldi folder or lhotse cuts; one or several", None
    )
    data_type: Literal["auto", "raw", "shard", "kaldi", "lhotse"] = option(
        "kind of all lists; auto: found out list by list", "auto"
    )
    allow_pipes: bool = option("run the commands (`... |`) of a Kaldi wav.scp", False)
    cache_dir: Path | None = option(
        "folder for shards given by URL; not given: shards_cache beside what the command writes "
        "(or, if it writes nothing, reads)",
        None,
    )


@dataclass(frozen=True, kw_only=True)
class ListOptions(DataOptions):
    """How it is read."""

    channel: int = option(
        "audio channel to take, where the list names none; 0: the first", 0, minimum=0
    )
    num_workers: int | None = option(
        "decoding processes; 0: none; not given: one per core but one, at most 8", None, minimum=0
    )
    decode_timeout: float = option(
        "seconds to wait for an utterance's audio before it counts as failed; train_distil, "
        "evaluate and --num_workers 0 limit only commands (`... |`) so",
        300.0,
        minimum=1,
    )


@dataclass(frozen=True, kw_only=True)
class AudioOptions(ListOptions):
    """How much of it goes through the teacher, and in which pieces."""

    num_audio: int | None = option("number of utterances; not given: all", None, minimum=1)
    num_audio_from: Literal["random", "first"] = option(
        "which --num_audio utterances: a seeded random sample, or the first of the list", "random"
    )
    long_audio: Literal["error", "skip", "chunk"] = option(
        "audio longer than 30 s, for Whisper: fail the utterance, drop it (skip), or embed 30 s "
        "pieces (chunk)",
        "error",
    )
    batch_seconds: float = option(
        "seconds of audio per batch, padding included", 120.0, minimum=0.1
    )
    part_utterances: int = option(
        "utterances per part; a process that dies loses only the few parts it works on",
        256,
        minimum=1,
    )


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """What an extraction writes."""

    embedding_dtype: Literal["float16", "float32"] = option(
        "dtype of embeddings in the h5", "float16"
    )
    shard_output: float | None = option(
        "hours of audio per h5: several files, numbered, which --save_path lists; not given: "
        "one h5",
        None,
        minimum=1e-6,
    )


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """How an extraction runs."""

    lease_seconds: float = option(
        "seconds without a sign of life after which a process of another host counts as dead, and "
        "others make its parts",
        60.0,
        minimum=1,
    )
    profile: bool = option("show where the time goes, and write a trace", False)


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """How torchrun starts the processes of `--gpu 0,1,...`."""

    nnodes: str | None = option(
        "torchrun's: number of nodes, or MIN:MAX (not for a student); run the same command on each",
        None,
    )
    rdzv_endpoint: str | None = option("torchrun's: host:port of one of the nodes", None)
    max_restarts: int = option(
        "torchrun's: how often to start all processes again when one dies", 0, minimum=0
    )

    may_lose_nodes = True  # whether the work can go on with fewer of them


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where to run."""

    gpu: str | None = option(
        "CUDA device indexes, one process each (0 or 0,1,2,3), or cpu; not given: 0, or the CPU "
        "where there is no GPU",
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
        "folder of a student, or of a pretrained model of transformers, to start from instead of "
        "a new one; a CTC head it lacks is made",
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
        "weight of the codebook loss at the first step, CTC's being 1; it changes in a straight "
        "line to --codebook_weight_end; 0: train on text alone",
        5.0,
        minimum=0,
    )
    codebook_weight_end: float = option(
        "weight of the codebook loss after the last step", 0.0, minimum=0
    )
    codebook_head: Literal["linear", "autoregressive"] = option(
        "linear: predict each code by itself; autoregressive: from the codes of the codebooks "
        "before it too, slower",
        "linear",
    )
    frames_ratio: int | None = option(
        "teacher frames per student frame; not given: taken from both frame shifts",
        None,
        minimum=1,
    )
    codebook_offset: int = option("teacher frames to skip before the student's first", 0)
    chunk_frames: int | None = option(
        "predict the codes of this many frames at a time, for less memory; not given: of all",
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
        "leave longer audio out of the training, and list it; not given: use all",
        None,
        minimum=0.1,
    )
    accumulate_batches: int = option("batches per optimizer step", 1, minimum=1)
    labelled_share: float | None = option(
        "share of every batch's seconds for utterances with text, where some have none; not given: "
        "0.5, or the share of all audio that has text, whichever is larger",
        None,
        minimum=0.01,
        maximum=0.99,
    )
    learning_rate: float = option("AdamW: the peak learning rate", 1e-3, minimum=0)
    warmup_steps: int = option(
        "steps in which the learning rate rises to its peak; then it falls to 0 along a cosine",
        2_000,
        minimum=0,
    )
    weight_decay: float = option("AdamW: weight decay", 0.01, minimum=0)
    max_grad_norm: float = option("clip the gradient to this norm; 0: do not clip", 5.0, minimum=0)
    num_time_masks: int = option("SpecAugment: number of time masks", 2, minimum=0)
    time_mask_frames: int = option(
        "SpecAugment: longest time mask, in frames of 10 ms", 50, minimum=0
    )
    num_freq_masks: int = option("SpecAugment: number of frequency masks", 2, minimum=0)
    freq_mask_bins: int = option("SpecAugment: widest frequency mask, in mel bins", 10, minimum=0)
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = option(
        "mixed precision; auto: float32 on the CPU, bfloat16 on a GPU (float16 on one without it)",
        "auto",
    )
    eval_steps: int = option("steps between validations on --cv_data", 1_000, minimum=1)
    save_steps: int = option("steps between checkpoints: what a crash can lose", 1_000, minimum=1)
    keep_checkpoints: int = option(
        "how many of the latest checkpoints to keep, for k2distil average", 2, minimum=1
    )
    logging_steps: int = option("steps between lines in the log and TensorBoard", 50, minimum=1)
