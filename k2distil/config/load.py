"""Merge defaults < yaml < --override_config < flags into a checked dataclass."""

import difflib
import logging
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from k2distil.config import commands
from k2distil.config.wenet_yaml import TEACHERS_KEYS, is_wenet_yaml
from k2distil.errors import ConfigError, nearest
from k2distil.yaml_file import parse_yaml, read_yaml

logger = logging.getLogger(__name__)

WENET_KEY = "wenet_yaml"  # of a resolved config: the WeNet yaml it was made with

T = TypeVar("T")
Values = dict[str, tuple[Any, str]]  # key -> its value, and where it was given


def load_config(
    kind: type[T],
    path: Path | None = None,
    overrides: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> T:
    """Build a `kind` from the yaml at `path`, with `overrides` and then `flags` on top.

    Args:
        kind: one of the dataclasses of k2distil.config.
        path: a yaml of our keys, or WeNet's own train.yaml, which describes the teacher only.
        overrides: "key value" or, in a WeNet yaml, "section.key value".
        flags: what the user gave on the command line, by field name.

    Raises:
        ConfigError: every wrong, unknown or missing key, all at once.
    """
    hints = option_types(kind)
    known = hints.keys() | _keys_of_all_commands()
    tree = read_yaml(path) if path else {}
    if is_wenets_own := is_wenet_yaml(tree):
        tree = {WENET_KEY: tree}
    wenet = tree.pop(WENET_KEY, None)
    if not isinstance(wenet, dict | None):
        raise ConfigError(f"{path}: {WENET_KEY}: expected the content of a WeNet yaml")
    flag_only = _flag_only(kind)
    values = {key: (tree[key], f"{path}: {key}") for key in tree if key not in flag_only}
    errors = []
    for text in overrides:
        try:
            _override(text, values, wenet, hints, known)
        except (ValueError, yaml.YAMLError) as error:
            errors.append(f"--override_config {text!r}: {' '.join(str(error).split())}")
    values |= {key: (value, f"--{key}") for key, value in (flags or {}).items()}
    checked, faults = _checked(kind, values, hints, known)
    errors += faults
    for key in getattr(kind, "required", ()):
        if values.get(key, (None, ""))[0] is None:
            where = "the command or to the yaml" if wenet is None else "the command"
            errors.append(f"--{key}: missing; add it to {where}")
    if errors:
        raise ConfigError("\n".join(errors))
    if wenet is not None and not hasattr(kind, WENET_KEY):
        raise ConfigError(f"{path}: a WeNet yaml describes a teacher; this command has none")
    if wenet is not None:
        checked[WENET_KEY] = wenet
        if is_wenets_own:
            logger.info(
                "%s: a WeNet yaml; it describes the teacher, and its filter_conf what audio is "
                "dropped; the rest is ignored",
                path,
            )
        if ours := [key for key in wenet if key in known and key != "dtype"]:
            logger.warning("%s: not read from a WeNet yaml: %s; give flags", path, ", ".join(ours))
    if hasattr(kind, "given"):
        checked["given"] = frozenset(flags or ())
    return kind(**checked)


def _override(
    text: str,
    values: Values,
    wenet: dict[str, Any] | None,
    hints: Mapping[str, Any],
    known: Collection[str],
) -> None:
    """Set what one "key value" names: an option, a key of its section, or one of the WeNet yaml.

    Raises:
        ValueError, YAMLError: it names nothing, or its value is no yaml.
    """
    key, _, value = text.strip().partition(" ")
    if not value.strip():
        raise ValueError('expected "key value", with a space between them')
    parsed = parse_yaml(value)
    first, _, rest = key.partition(".")
    if rest and first in hints and is_section(hints[first]):
        section, _ = values.setdefault(first, ({}, f"--override_config {first}"))
        _set_deep({first: section}, key, parsed)  # checked by who reads it
    elif key in known:
        values[key] = (parsed, f"--override_config {key}")
    elif wenet is None:
        raise ValueError(_unknown(key, known))
    else:
        _set_nested(wenet, key, parsed, known)


def _checked(
    kind: type, values: Values, hints: Mapping[str, Any], known: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """-> (the options of a `kind`, of their types; what is wrong with the others)."""
    checked, errors = {}, []
    for key, (value, origin) in values.items():
        if key in hints:
            try:
                checked[key] = convert(hints[key], value)
                _check_value(kind, key, checked[key])
            except ValueError as error:
                errors.append(f"{origin}: {error}")
        elif key not in known:
            errors.append(f"{origin}: {_unknown(key, known)}")
    return checked, errors


def option_types(kind: type) -> dict[str, Any]:
    """Type of every option of a config dataclass, by name."""
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind) if "help" in each.metadata}


def convert(hint: Any, value: Any) -> Any:
    """Check `value` against a field's type; ints become floats, texts become paths.

    >>> convert(float | None, 3), convert(Literal["a", "b"], "a")
    (3.0, 'a')

    Raises:
        ValueError: another type, or not one of the choices.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for kind in kinds:
        if get_origin(kind) is tuple:  # of one type; one value stands for a tuple of it
            values = value if isinstance(value, list | tuple) else [value]
            if values and value is not None:
                return tuple(convert(get_args(kind)[0], each) for each in values)
        elif get_origin(kind) is Literal:
            choices = get_args(kind)
            if value in choices:
                return value
            if isinstance(value, str):
                near = nearest(value, choices, else_see="")
                raise ValueError(f"expected {', '.join(choices)}, got {value!r}{near}")
        elif type(value) is (get_origin(kind) or kind):
            return value
        elif kind is Path and isinstance(value, str | Path) and str(value):
            return Path(value)
        elif kind is float and type(value) is int:
            return float(value)
        elif kind is str and type(value) is int:  # gpu: 0 in a yaml
            return str(value)
    names = [_type_name(kind) for kind in kinds if kind is not NoneType]
    raise ValueError(f"expected {' or '.join(names)}, got {value!r}")


def _flag_only(kind: type) -> set[str]:
    return {each.name for each in fields(kind) if each.metadata.get("flag_only")}


def _check_value(kind: type, key: str, value: Any) -> None:
    """Raise ValueError where a value is of the right type, but nothing can be done with it."""
    (metadata,) = [each.metadata for each in fields(kind) if each.name == key]
    minimum, maximum = metadata["minimum"], metadata["maximum"]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    if minimum is not None and value is not None and value < minimum:
        raise ValueError(f"expected at least {minimum}, got {value}")
    if maximum is not None and value is not None and value > maximum:
        raise ValueError(f"expected at most {maximum}, got {value}")
    name = str(value)
    if metadata["in_utf8"] and name != name.encode(errors="ignore").decode():
        raise ValueError(
            "expected a name in UTF-8, since TensorBoard and safetensors take no other, got "
            f"{name}; rename the folder or link to it"
        )


def _unknown(key: str, known: Iterable[str]) -> str:
    return f"unknown key{nearest(key, known)}"


def _type_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    if get_origin(kind) is dict:
        return "a section"
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return f"{_type_name(get_args(kind)[0])}, or several"
    return names.get(kind, "a text")


def _keys_of_all_commands() -> set[str]:
    """One yaml may serve the whole chain, so another command's key is no typo."""
    kinds = [each for each in vars(commands).values() if hasattr(each, "required")]
    return {key for kind in kinds for key in option_types(kind)}


def _set_deep(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set tree[a][b] for "a.b", where that is a value or a section still to be made."""
    *sections, last = dotted.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ValueError(f"{section}: a value, not a section")
    tree[last] = value


def is_section(hint: Any) -> bool:
    """Whether an option takes a mapping."""
    return any(get_origin(kind) is dict for kind in get_args(hint))


def _set_nested(tree: dict[str, Any], dotted: str, value: Any, known: Iterable[str]) -> None:
    """Set tree[a][b] for "a.b"; what looks like a slip of a name in the tree is refused."""
    *sections, last = dotted.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            raise ValueError(_unknown(section, [*tree, *known]))
        tree = tree[section]
    there = [*tree, *(TEACHERS_KEYS if sections else ())]
    slip = difflib.get_close_matches(last, there, 1, cutoff=0.8)
    if last not in there and (slip or not sections):
        raise ValueError(_unknown(last, slip or [*tree, *known]))
    tree[last] = value
