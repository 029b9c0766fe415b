import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from k2distil.torchaudio_guard import hide_broken_torchaudio
from tests.teachers.tiny import make_hf_hubert, make_hf_whisper

ROOT = Path(__file__).parents[2]
BROKEN = "from . import version, _extension\n"
EXTENSION = "raise OSError('libcudart.so.13: cannot open shared object file')\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a torchaudio before the one that may be installed."""

    def with_files(**files: str) -> Path:
        package = tmp_path / "site" / "torchaudio"
        package.mkdir(parents=True)
        for name, text in files.items():
            (package / f"{name}.py").write_text(text)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "torchaudio", None)  # so that it is restored
        del sys.modules["torchaudio"]
        monkeypatch.syspath_prepend(tmp_path / "site")
        return tmp_path / "site"

    return with_files


@pytest.mark.parametrize("error", [EXTENSION, "import not_installed_either\n"])
def test_a_torchaudio_that_cannot_be_imported_looks_absent(install, error):
    install(__init__=BROKEN, version="", _extension=error)
    hide_broken_torchaudio()
    assert importlib.util.find_spec("torchaudio") is None
    assert [name for name in sys.modules if name.startswith("torchaudio")] == ["torchaudio"]
    with pytest.raises(ModuleNotFoundError):
        import torchaudio  # noqa: F401
    hide_broken_torchaudio()  # a second call changes nothing
    assert sys.modules["torchaudio"] is None


def test_a_torchaudio_that_works_is_left_alone(install):
    install(__init__="__version__ = '2.13.0'\n")
    hide_broken_torchaudio()
    assert sys.modules["torchaudio"].__version__ == "2.13.0"


def test_an_absent_torchaudio_stays_absent(install, monkeypatch):
    install(__init__="")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [importlib.machinery.BuiltinImporter])
    hide_broken_torchaudio()
    assert "torchaudio" not in sys.modules


def test_teachers_load_beside_a_broken_torchaudio(install, tmp_path):
    checkpoints = {
        "hubert": make_hf_hubert(tmp_path / "hubert"),
        "huggingface-whisper": make_hf_whisper(tmp_path / "whisper"),
    }
    site = install(__init__=BROKEN, version="", _extension=EXTENSION)
    script = (
        "import sys\n"
        "from k2distil.teachers import build_teacher\n"
        f"for encoder_type, checkpoint in {checkpoints!r}.items():\n"
        "    build_teacher(encoder_type, checkpoint)\n"
        "assert sys.modules['torchaudio'] is None\n"
    )
    path = os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
