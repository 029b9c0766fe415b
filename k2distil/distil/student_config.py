"""A student's config as users write it -> transformers' own, with every key checked."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from k2distil.errors import ConfigError, nearest
from k2distil.torchaudio_guard import hide_broken_torchaudio

DEFAULT_STUDENT: dict[str, Any] = {  # 20 M parameters; conf/train_distil.yaml has the same
    "model_type": "parakeet_ctc",
    "encoder_config": {
        "hidden_size": 256,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "conv_kernel_size": 9,
        "subsampling_factor": 4,
        "layerdrop": 0.0,
        "initializer_range": 0.05,
        "scale_input": False,
    },
}
FROM_TOKENIZER = ("vocab_size", "pad_token_id")


def whole_tree(tree: dict[str, Any] | None) -> dict[str, Any]:
    """The yaml's `student`; what names no model_type changes keys of the default student.

    >>> whole_tree({"encoder_config": {"hidden_size": 96}})["encoder_config"]["num_hidden_layers"]
    12
    """
    return tree if tree and "model_type" in tree else _merged(DEFAULT_STUDENT, tree or {})


def _merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of `tree` with values, and values of its sections, replaced."""
    result = dict(tree)
    for key, value in changes.items():
        inner = tree.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            value = _merged(inner, value)
        elif isinstance(inner, dict) and value is None:  # a section without a key
            value = inner
        result[key] = value
    return result


def student_config(tree: dict[str, Any], vocab_size: int, blank: int) -> Any:
    """Make transformers' config of a CTC model.

    Args:
        tree: the yaml's `student`: model_type and that config's keys, nested as there.
        vocab_size, blank: of the tokenizer.

    Raises:
        ConfigError: no or an unknown model_type, one that has no CTC model, an unknown key (with
            the nearest known one), or a value that the config refuses.
    """
    hide_broken_torchaudio()
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES

    kind = str(tree.get("model_type"))
    if kind not in MODEL_FOR_CTC_MAPPING_NAMES:
        raise ConfigError(
            f"student: model_type {kind}: expected one with a CTC model in this transformers: "
            f"{', '.join(sorted(MODEL_FOR_CTC_MAPPING_NAMES))}"
        )
    if given := [key for key in FROM_TOKENIZER if key in tree]:
        raise ConfigError(f"student: {', '.join(given)}: the tokenizer decides; leave it out")
    defaults = AutoConfig.for_model(kind)
    _check_keys(tree, defaults, "student")
    _check_subsampling(tree)
    values = {key: value for key, value in tree.items() if key != "model_type"}
    try:
        return AutoConfig.for_model(kind, **values, vocab_size=vocab_size, pad_token_id=blank)
    except Exception as error:  # transformers raises many kinds for a value it does not like
        raise refusal(kind, error) from error


def _check_subsampling(tree: dict[str, Any]) -> None:
    """Parakeet halves the frames as often as they can be halved, whatever the factor says."""
    factor = (tree.get("encoder_config") or {}).get("subsampling_factor", 1)
    if isinstance(factor, int) and (factor < 1 or factor & (factor - 1)):
        raise ConfigError(
            f"student.encoder_config.subsampling_factor: expected a power of 2, got {factor}"
        )


def refusal(kind: str, error: Exception) -> ConfigError:
    """What transformers says of a student's values."""
    reason = " ".join(str(error).split())
    return ConfigError(
        f"student: {kind} does not take these values ({type(error).__name__}: {reason}); see "
        "transformers' documentation of its config"
    )


def _check_keys(tree: dict[str, Any], defaults: Any, where: str) -> None:
    known = vars(defaults).keys() | {"model_type"}
    for key, value in tree.items():
        if key not in known:
            raise ConfigError(
                f"{where}.{key}: unknown key of {defaults.model_type}"
                f"{_meant(key, known, defaults, where)}"
            )
        inner = getattr(defaults, key, None)
        if hasattr(inner, "model_type") and value is not None:  # None: a section without a key
            if not isinstance(value, dict):
                raise ConfigError(f"{where}.{key}: expected a section of keys, got {value!r}")
            _check_keys(value, inner, f"{where}.{key}")


def _meant(key: str, known: Collection[str], defaults: Any, where: str) -> str:
    """A section that has the key, or a key of this one; or that others are of another model."""
    for name, inner in vars(defaults).items():
        if hasattr(inner, "model_type") and key in vars(inner):
            return f"; did you mean {where}.{name}.{key}?"
    if key in DEFAULT_STUDENT:
        return (
            f"; `student:` has keys of another model_type ({DEFAULT_STUDENT['model_type']}, it "
            "seems): give a yaml that has those of this one alone"
        )
    return nearest(str(key), known, else_see="")
