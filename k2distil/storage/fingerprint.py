"""What decides the content of an output, and how two of them differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from k2distil.errors import DataError

ABSENT = "nothing"


def as_json(fingerprint: Mapping[str, Any]) -> str:
    """The same text for the same content; fields are of JSON's types."""
    return json.dumps(fingerprint, sort_keys=True, ensure_ascii=False)


def describe_differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Each field that differs with both its values; empty: none does.

    >>> describe_differences({"layer": 6, "a": {"dim": 8}}, {"layer": 6, "a": {"dim": 9}})
    'a.dim: 8 there, 9 now'
    """
    found, wanted = _flat(json.loads(as_json(found))), _flat(json.loads(as_json(wanted)))
    return "; ".join(
        f"{name}: {_shown(found, name)} there, {_shown(wanted, name)} now"
        for name in sorted(found.keys() | wanted.keys())
        if _shown(found, name) != _shown(wanted, name)
    )


def refuse_other_settings(
    path: Path,
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    remedy: str = "give the same settings",
) -> None:
    """Refuse to take what other settings made for what is wanted.

    Raises:
        DataError: they differ.
    """
    if differences := describe_differences(found, wanted):
        raise DataError(
            f"{path}: made with other settings ({differences}); {remedy}, another --save_path, or "
            "--force to start over"
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields of fields by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        is_section = isinstance(value, dict) and value
        flat |= _flat(value, f"{prefix}{name}.") if is_section else {prefix + name: value}
    return flat


def _shown(fingerprint: Mapping[str, Any], name: str) -> str:
    return as_json(fingerprint[name]) if name in fingerprint else ABSENT
