"""Imports go down only: bin -> pipeline -> the parts -> the floor."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOOR = {
    *("errors", "atomic", "batch", "device", "leases", "process_start", "stages"),
    *("torchaudio_guard", "workers", "yaml_file"),
}
PARTS = {"data", "teachers", "quantizer", "storage", "distil", "report"}
ALLOWED = {
    **{name: {"errors"} for name in FLOOR},
    "atomic": {"errors", "process_start"},
    "leases": {"errors", "process_start", "atomic"},
    **{name: FLOOR | {name} for name in PARTS},  # a part never imports another part
    "config": {"errors", "yaml_file", "config"},
    "interop": FLOOR | PARTS | {"interop"},  # joins parts for the toolkits of others
    "pipeline": FLOOR | PARTS | {"config", "interop", "pipeline"},
    "bin": {"errors", "config", "device", "pipeline", "bin"},
    "__main__": {"bin"},
}


# Of pipeline/; its own modules join them.
STEPS = {"extraction", "quantizer", "student", "exports", "outputs"}


def imported(path: Path, package: str = "k2distil") -> set[str]:
    """The first name under `package` of every import in `path`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write absolute imports"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        inner = [name.removeprefix(f"{package}.") for name in names if name.startswith(package)]
        found |= {name.split(".")[0] for name in inner if name != package}
    return found - {"__version__"}


@pytest.mark.parametrize("path", sorted(ROOT.glob("k2distil/*/**/*.py")), ids=str)
def test_packages_import_downwards(path):
    own = path.relative_to(ROOT / "k2distil").parts[0]
    assert imported(path) <= ALLOWED[own], f"{path}: {imported(path) - ALLOWED[own]} is not below"


@pytest.mark.parametrize("path", sorted(ROOT.glob("k2distil/*.py")), ids=str)
def test_modules_import_downwards(path):
    if path.stem != "__init__":
        assert imported(path) <= ALLOWED[path.stem]


@pytest.mark.parametrize("path", sorted(ROOT.glob("k2distil/pipeline/*/*.py")), ids=str)
def test_a_step_of_the_pipeline_knows_no_command_and_no_other_step(path):
    own = path.parent.name
    assert own in STEPS | {"run"}
    assert imported(path, "k2distil.pipeline") <= {"run", own}
