"""Fixtures of all tests. Nothing here needs the network."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real speech and real teachers; tests that use it skip where it is absent."""
    path = Path(os.environ.get("K2DISTIL_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no {path}: set K2DISTIL_DATA")
    return path
