"""What happens to the folder of parts behind the back of a run: bits that flip, and other runs."""

import random
import shutil
from pathlib import Path

import pytest

from k2distil.errors import DataError
from k2distil.leases import Leases
from k2distil.storage import DamagedPartError, PartFolder, remove_parts
from tests.storage.arrays import ATTRIBUTES, FINGERPRINT, in_chunks, make_h5, some_arrays, write_all

ARRAYS = some_arrays(10)
OTHER = {**FINGERPRINT, "layer": 7}


def damaged_part(parts: PartFolder) -> Path | None:
    """Merge; -> the part that is in the way."""
    try:
        parts.merge(list(ARRAYS), ATTRIBUTES)
    except DamagedPartError as error:
        return error.part
    return None


@pytest.mark.parametrize("suffix", ["h5", "json"])
def test_a_bit_that_flips_in_a_part_is_found_or_of_no_account(tmp_path, suffix):
    right = make_h5(tmp_path / "right.h5", ARRAYS).read_bytes()
    write_all(tmp_path / "whole.h5", ARRAYS)
    choose, num_found = random.Random(0), 0
    for number in range(120):
        path = tmp_path / f"{number}.h5"
        folder = shutil.copytree(tmp_path / "whole.h5.parts", tmp_path / f"{number}.h5.parts")
        part = folder / f"part-000001.{suffix}"
        content = bytearray(part.read_bytes())
        content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
        part.write_bytes(content)
        parts = PartFolder(path, FINGERPRINT, 10, 4)
        if (found := damaged_part(parts)) is not None:
            assert found == folder / "part-000001.h5"
            assert parts.done() == {0, 2}
            num_found += 1
            parts.write(1, list(in_chunks(ARRAYS, 4))[1], {})
            assert damaged_part(parts) is None
        assert path.read_bytes() == right
    assert num_found >= (120 if suffix == "json" else 60)  # HDF5 leaves bytes unused


def test_a_damaged_plan_names_the_file_and_the_remedy(tmp_path):
    write_all(tmp_path / "exp.h5", ARRAYS)
    plan = tmp_path / "exp.h5.parts" / "plan.json"
    plan.write_text(plan.read_text()[:-5])
    with pytest.raises(DataError, match=r"plan\.json: damaged .* start over with --force"):
        PartFolder(tmp_path / "exp.h5", FINGERPRINT, 10, 4)


def test_nothing_is_claimed_once_another_process_has_merged(tmp_path):
    parts = PartFolder(tmp_path / "exp.h5", FINGERPRINT, 10, 4)
    with Leases(60) as leases:
        claims = parts.claim(leases)
        assert next(claims) == 0
        remove_parts(tmp_path / "exp.h5")
        assert list(claims) == []


def test_nothing_is_claimed_or_written_in_a_folder_that_another_run_has_begun(tmp_path):
    parts = PartFolder(tmp_path / "exp.h5", FINGERPRINT, 10, 4)
    with Leases(60) as leases:
        claims = parts.claim(leases)
        assert next(claims) == 0
        remove_parts(tmp_path / "exp.h5")
        other = PartFolder(tmp_path / "exp.h5", OTHER, 10, 4)
        assert list(claims) == []
        with pytest.raises(DataError, match=r"exp\.h5\.parts: merged and removed"):
            parts.write(0, next(in_chunks(ARRAYS, 4)), {})
        with Leases(60) as leases_of_other:
            assert list(other.claim(leases_of_other)) == [0, 1, 2]
