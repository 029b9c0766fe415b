"""bench/scale.py in its small form: every stage does its work and finds it right."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from k2distil.storage import CodebookReader

ROOT = Path(__file__).parents[2]
NUM = 1000  # utterances; the benchmark has a million


@pytest.fixture
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", ROOT / "bench" / "scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_every_stage_runs_and_a_thousand_keys_in_four_files_are_read(
    scale: ModuleType, tmp_path: Path
) -> None:
    scale.write_list(tmp_path / "data.list", NUM)
    rows = [scale.measure(stage, tmp_path, NUM) for stage in scale.STAGES]
    assert [row["stage"] for row in rows] == list(scale.STAGES)
    assert all(row["seconds"] > 0 and row["megabytes"] >= 0 for row in rows)
    reader = CodebookReader(tmp_path / "several.h5")
    assert [len(file) for file in reader.files] == [NUM // 4] * 4
    assert list(reader) == scale.keys_of(NUM)


def test_the_exponent_is_that_of_the_growth(scale: ModuleType) -> None:
    rows = [
        {"stage": stage, "utterances": num, "cpu_seconds": 3e-5 * num**1.5}
        for stage in scale.STAGES
        for num in (100, 1000, 10_000)
    ]
    assert scale.exponents(rows) == pytest.approx(dict.fromkeys(scale.STAGES, 1.5))
