"""Students continued from a folder that transformers wrote: nothing random but new CTC tokens."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from k2distil.batch import SAMPLE_RATE
from k2distil.distil.student import Student, try_out, what_lacks
from k2distil.errors import CheckpointError
from k2distil.torchaudio_guard import hide_broken_torchaudio

logger = logging.getLogger(__name__)

HEADS = ("lm_head.", "ctc_head.")  # how weights of a CTC head begin
# What masked frames are in training, and a count that BatchNorm does not use.
NOT_NEEDED = ("masked_spec_embed", "num_batches_tracked")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "vocab.json")
BESIDE = ("best", "last")  # students in a --save_path
SHOWN = 3  # names of weights


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder to continue from knows its tokens.

    Raises:
        CheckpointError: it is no folder of a model.
    """
    _check_folder(folder)
    return any((folder / name).exists() for name in TOKENIZER_FILES)


def load_student(folder: Path, tokenizer: Any = None, seed: int | None = None) -> Student:
    """A student that `Student.save` or transformers saved: model, feature extractor, tokenizer.

    Args:
        folder: of it.
        tokenizer: of other tokens than the folder's, for which it gets a new CTC head; those that
            both have keep their weights.
        seed: of the weights of a new CTC head, also of a folder that has none, as after
            pretraining; None: there must be one.

    Raises:
        CheckpointError: no such folder, it is damaged, or it lacks a part of the student.
    """
    hide_broken_torchaudio()
    from transformers import AutoConfig, AutoFeatureExtractor, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading and writing a file
    _check_folder(folder)
    local = {"local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(str(folder), **local)
        extractor = AutoFeatureExtractor.from_pretrained(str(folder), **local)
        own: Any = None
        if has_tokenizer(folder):
            own = AutoTokenizer.from_pretrained(str(folder), **local)
        elif tokenizer is None:
            raise CheckpointError(
                f"{folder}: no tokenizer in it; train it with train_distil.sh --student_checkpoint"
            )
        tokens = own if tokenizer is None else tokenizer
        if getattr(config, "vocab_size", None) is None:  # as some kinds have it after pretraining
            config.vocab_size, config.pad_token_id = len(tokens), tokens.pad_token_id
        is_own = own is not None and _tokens_of(tokens) == _tokens_of(own)
        keeps_head = tokenizer is None or (is_own and _fault_of_outputs(config, own) is None)
        absent: list[str] = []
        if keeps_head:
            model, absent = _load(folder, config, seed or 0)
        if not keeps_head or (seed is not None and absent):
            head = _head_of(folder, config, own)
            model = _with_new_head(folder, config, tokens, seed or 0)
            kept = _keep_rows(model, tokens, head, own)
            logger.info(
                "%s: the student's CTC head is new, for %d tokens, of which it knew %d",
                *(folder, len(tokens), kept),
            )
    except ImportError as error:
        raise CheckpointError(f"{folder}: {what_lacks(error)}") from error
    except CheckpointError:
        raise
    except Exception as error:  # whatever transformers or safetensors make of a damaged file
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{folder}: no CTC student of transformers ({first}); give a folder with config.json, "
            "model.safetensors, preprocessor or processor_config.json and a tokenizer, such as "
            "<save_path>/best; a damaged file has to be copied again"
        ) from error
    if absent and seed is None:
        raise CheckpointError(
            f"{folder}: no weights of its CTC head ({_some(absent)}): it has not learnt to "
            "transcribe; train it with train_distil.sh --student_checkpoint"
        )
    if extractor.sampling_rate != SAMPLE_RATE:
        raise CheckpointError(f"{folder}: takes {extractor.sampling_rate} Hz; only 16 kHz is made")
    if (fault := _fault_of_outputs(model.config, tokens)) is not None:
        raise CheckpointError(
            f"{folder}: {fault}; train it with train_distil.sh --vocabulary {folder}, which gives "
            "it a new CTC head, or correct what was saved"
        )
    student = Student(model, extractor, tokens)
    try_out(student)
    return student


def _check_folder(folder: Path) -> None:
    """Raise CheckpointError where there is no config.json, and name what may be meant."""
    if (folder / "config.json").is_file():
        return
    if not folder.is_dir():
        remedy = "check the path"
        if HUB_ID.fullmatch(str(folder)):
            remedy += f", or make it from a model hub by: hf download {folder} --local-dir FOLDER"
        raise CheckpointError(f"{folder}: no such folder; {remedy}")
    near = [where / name for where in (folder, folder.parent) for name in BESIDE]
    found = [str(each) for each in near if (each / "config.json").is_file()]
    raise CheckpointError(
        f"{folder}: no config.json in it; give "
        + (" or ".join(found) or "the folder of a student, such as <save_path>/best")
    )


def _load(folder: Path, config: Any, seed: int) -> tuple[Any, list[str]]:
    """-> the model, and which weights of its head the folder lacks, or has in other sizes.

    seed: of what it lacks.

    Raises:
        CheckpointError: others are missing, or of other sizes.
    """
    from transformers import AutoModelForCTC
    from transformers.utils import logging as hub_logging

    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()  # what is missing is said below
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, info = AutoModelForCTC.from_pretrained(
                str(folder),
                config=config,
                local_files_only=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    finally:
        hub_logging.set_verbosity(before)
    missing = {name for name in info["missing_keys"] if not name.endswith(NOT_NEEDED)}
    other = {name: sizes for name, *sizes in info["mismatched_keys"]}
    if body := sorted(name for name in missing if not name.startswith(HEADS)):
        raise CheckpointError(
            f"{folder}: no weights for {_some(body)}: they are not those of its config.json, or of "
            "another tool's names; copy the folder again, or save it with save_pretrained"
        )
    for name, sizes in sorted(other.items()):
        if not name.startswith(HEADS):
            there, wanted = (tuple(each) for each in sizes)
            raise CheckpointError(
                f"{folder}: {name} is {there} in its weights, {wanted} by its config.json; copy "
                "the folder again"
            )
    return model, sorted({*missing, *other})


def _with_new_head(folder: Path, config: Any, tokenizer: Any, seed: int) -> Any:
    """The folder's model with a CTC head for other tokens, the same for the same seed."""
    from transformers import AutoModelForCTC

    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    model, _ = _load(folder, config, seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        fresh: dict[str, Tensor] = AutoModelForCTC.from_config(config).state_dict()
        for name, weight in model.state_dict().items():
            if name.startswith(HEADS):
                weight.copy_(fresh[name])
    return model


def _head_of(folder: Path, config: Any, tokenizer: Any) -> dict[str, Tensor]:
    """The weights of the folder's own CTC head; empty: it has none of these tokens."""
    if tokenizer is None or _fault_of_outputs(config, tokenizer) is not None:
        return {}
    model, absent = _load(folder, config, seed=0)
    if absent:
        return {}
    return {name: each for name, each in model.state_dict().items() if name.startswith(HEADS)}


def _keep_rows(model: Any, tokenizer: Any, head: dict[str, Tensor], own: Any) -> int:
    """Give tokens that both have, and the blank, the rows they had; -> how many."""
    if not head:
        return 0
    before = own.get_vocab() | {tokenizer.pad_token: own.pad_token_id}
    now = tokenizer.get_vocab()
    known = [token for token in now if token in before]
    new, old = [now[token] for token in known], [before[token] for token in known]
    for name, weight in model.state_dict().items():
        if name in head:
            weight[new] = head[name][old]
    return len(known)


def _tokens_of(tokenizer: Any) -> tuple[Any, ...]:
    return tokenizer.get_vocab(), tokenizer.pad_token_id


def _some(names: Iterable[str]) -> str:
    """
    >>> _some("abcde")
    'a, b, c and 2 more'
    """
    names = list(names)
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def _fault_of_outputs(config: Any, tokenizer: Any) -> str | None:
    """Why a tokenizer is not that of a model's head; None: it may be."""
    # Special ones that nobody says, such as <s>, may well be added after the outputs.
    said = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    blank = tokenizer.pad_token_id
    if max(said, default=0) >= config.vocab_size:
        return f"its tokenizer has {len(tokenizer)} tokens, its model {config.vocab_size} outputs"
    if blank != config.pad_token_id:
        return f"the blank is {blank} in its tokenizer, {config.pad_token_id} in its model"
    return None
