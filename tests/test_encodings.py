"""What is read or written does not depend on the locale, which is GB18030 on some machines."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
POSITIONAL = {"read_text": 1, "write_text": 2}  # with so many arguments the encoding is given


@pytest.mark.parametrize("path", sorted(ROOT.glob("k2distil/**/*.py")), ids=str)
def test_every_text_file_has_its_encoding_named(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            least = POSITIONAL.get(node.func.attr)
            named = any(each.arg == "encoding" for each in node.keywords)
            assert least is None or named or len(node.args) >= least, f"{path}:{node.lineno}"
