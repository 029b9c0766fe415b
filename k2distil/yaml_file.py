"""yaml as users write it: 1e-3 is a number, 1:4 is none, and a key that comes twice is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from k2distil.errors import NOT_UTF8, ConfigError

YAML_HINT = "lines are `key: value`, with a space after the colon, and indented by spaces, not tabs"
MERGE_TAG = "tag:yaml.org,2002:merge"  # of `<<: *section`
LINE_BREAKS = "\x85\u2028\u2029"  # of YAML 1.1, beside "\n"; PyYAML escapes them in quotes only
FLOAT = (  # as YAML 1.2 has it; PyYAML wants a dot in it
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)
INT_TAG = "tag:yaml.org,2002:int"
INT = (  # as YAML 1.2 has it; to PyYAML 1:4 is 64, and 010 is 8
    INT_TAG,
    re.compile(r"([-+]?\d[\d_]*|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    list("-+0123456789"),
)


class _Loader(yaml.SafeLoader):
    """Reads such yaml."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in found if tag != INT_TAG]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

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


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    bases = {"0o": 8, "0x": 16}
    return int(node.value, bases.get(node.value[:2], 10))


_Loader.add_implicit_resolver(*FLOAT)
_Loader.add_implicit_resolver(*INT)
_Loader.add_constructor(INT_TAG, _int)
_Dumper.add_representer(str, _text)
_Dumper.add_implicit_resolver(*FLOAT)
_Dumper.add_implicit_resolver(*INT)


def parse_yaml(text: str) -> Any:
    """The content of a yaml.

    Raises:
        yaml.YAMLError: no yaml of plain values, or a key comes twice, which yaml would pass over.
    """
    return yaml.load(text, _Loader)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a yaml file; {} of an empty one.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; see conf/ for examples") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: {NOT_UTF8}") from error
    except yaml.YAMLError as error:
        what = " ".join(str(error).replace('"<unicode string>"', "it").split())
        raise ConfigError(f"{path}: not a yaml of plain values: {what}; {YAML_HINT}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(f"{path}: expected `key: value` lines")
    return tree


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
        keys: set[str] = set()
        for key, _ in node.value:
            if key.tag != MERGE_TAG and key.value in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} comes twice", key.start_mark
                )
            keys.add(key.value)
