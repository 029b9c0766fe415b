"""yaml as users write it: 1e-3 is a number, and a key that comes twice is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

MERGE_TAG = "tag:yaml.org,2002:merge"  # of `<<: *section`
LINE_BREAKS = "\x85\u2028\u2029"  # of YAML 1.1, beside "\n"; PyYAML escapes them in quotes only
FLOAT = (  # as YAML 1.2 has it; PyYAML wants a dot in it
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


class _Loader(yaml.SafeLoader):
    """Of such yaml."""

    def get_single_node(self) -> Any:
        """The tree, before anchors and merges are resolved in it."""
        node = super().get_single_node()
        _refuse_twice(node)
        return node


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads as the same again."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    quotes = '"' if any(each in text for each in LINE_BREAKS) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, quotes)


_Loader.add_implicit_resolver(*FLOAT)
_Dumper.add_representer(str, _text)
_Dumper.add_implicit_resolver(*FLOAT)


def parse_yaml(text: str) -> Any:
    """The content of a yaml.

    Raises:
        yaml.YAMLError: no yaml of plain values, or a key comes twice, which yaml would pass over.
    """
    return yaml.load(text, _Loader)


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """Plain values as yaml, in their order."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _refuse_twice(root: Any) -> None:
    left, seen = [root], set()  # an anchor may lead back to where it is
    while left:
        node = left.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            left += node.value
            continue
        left += [value for _, value in node.value]
        keys = [key.value for key, _ in node.value if key.tag != MERGE_TAG]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {twice[0]!r} comes twice", node.start_mark
            )
