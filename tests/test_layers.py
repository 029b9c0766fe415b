"""Imports go down only: bin -> pipeline -> the parts -> the floor."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOOR = {
    *("errors", "atomic", "batch", "device", "leases", "process_start", "stages"),
    *("torchaudio_guard", "workers"),
}
PARTS = {"data", "teachers", "quantizer", "storage", "distil", "report"}
ALLOWED = {
    **{name: {"errors"} for name in FLOOR},
    "atomic": {"errors", "process_start"},
    "leases": {"errors", "process_start", "atomic"},
    **{name: FLOOR | {name} for name in PARTS},  # a part never imports another part
    "config": {"errors", "config"},
    "interop": FLOOR | PARTS | {"interop"},  # joins parts for the toolkits of others
    "pipeline": FLOOR | PARTS | {"config", "interop", "pipeline"},
    "bin": {"errors", "config", "device", "pipeline", "bin"},
    "__main__": {"bin"},
}


def imported(path: Path) -> set[str]:
    """The first name under k2distil of every import in `path`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write absolute imports"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("k2distil.")}
    return found - {"__version__"}


@pytest.mark.parametrize("path", sorted(ROOT.glob("k2distil/*/**/*.py")), ids=str)
def test_packages_import_downwards(path):
    own = path.relative_to(ROOT / "k2distil").parts[0]
    assert imported(path) <= ALLOWED[own], f"{path}: {imported(path) - ALLOWED[own]} is not below"


@pytest.mark.parametrize("path", sorted(ROOT.glob("k2distil/*.py")), ids=str)
def test_modules_import_downwards(path):
    if path.stem != "__init__":
        assert imported(path) <= ALLOWED[path.stem]
