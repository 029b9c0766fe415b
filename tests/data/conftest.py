"""Fixtures of the tests that decode."""

import sys

import pytest

from k2distil.data import other_formats


@pytest.fixture
def no_torchaudio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    other_formats._torchaudio.cache_clear()
    yield
    other_formats._torchaudio.cache_clear()
