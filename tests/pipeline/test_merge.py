"""k2distil merge, behind runs that ended in their merge."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import h5py
import numpy as np
import pytest

from k2distil.config import MergeConfig, SaveEmbeddingConfig
from k2distil.errors import DataError
from k2distil.leases import Leases
from k2distil.pipeline.extraction.embed import PendingChunk
from k2distil.pipeline.extraction.make_parts import make_parts
from k2distil.pipeline.extraction.windows import Chunk
from k2distil.pipeline.merge import merge
from k2distil.pipeline.save_embedding import save_embedding
from k2distil.storage import PartFolder, remove_parts
from k2distil.storage.parts import parts_folder
from tests.pipeline.outputs import write_list

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "teachers" / "golden" / "wenet_conv1d2"


@pytest.fixture
def config(tmp_path: Path) -> SaveEmbeddingConfig:
    """Four utterances in parts of two; the teacher can be taken away."""
    shutil.copytree(GOLDEN, tmp_path / "teacher")
    return SaveEmbeddingConfig(
        encoder_type="wenet-whisper",
        checkpoint=str(tmp_path / "teacher" / "final.pt"),
        train_data=(write_list(tmp_path),),
        save_path=tmp_path / "e.h5",
        num_workers=0,
        part_utterances=2,
        gpu="cpu",
    )


class KilledError(Exception):
    """Stands for the end of the process."""


def run_until_its_merge(config: SaveEmbeddingConfig) -> None:
    with pytest.MonkeyPatch.context() as patch:

        def dying(*args: object, **options: object) -> None:
            raise KilledError

        patch.setattr(PartFolder, "merge", dying)
        with pytest.raises(KilledError):
            save_embedding(config)


def content(path: Path) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    with h5py.File(path) as file:
        return {key: file[key][:] for key in file}, dict(file.attrs)


def assert_same(path: Path, other: Path) -> None:
    (arrays, attributes), (others, other_attributes) = content(path), content(other)
    assert list(arrays) == list(others)
    assert all(np.array_equal(arrays[key], others[key]) for key in arrays)
    assert attributes == other_attributes


def test_merged_alone_the_output_is_the_same_and_needs_no_teacher(
    config: SaveEmbeddingConfig, tmp_path: Path
) -> None:
    save_embedding(config)
    undisturbed = config.save_path.rename(tmp_path / "undisturbed.h5")
    summary_path = tmp_path / "e.h5.summary.json"
    written = json.loads(summary_path.read_text())["written"]
    summary_path.unlink()
    run_until_its_merge(config)
    assert not config.save_path.exists()
    summary_path.unlink()  # killed a little earlier
    shutil.rmtree(tmp_path / "teacher")
    command = [sys.executable, "-m", "k2distil", "merge", "--save_path", str(config.save_path)]
    for words in (f"{config.save_path}: merging\n", f"{config.save_path}: merged already\n"):
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0
        assert words in done.stderr
        assert f"{written} written" in done.stderr
    assert_same(config.save_path, undisturbed)
    assert not parts_folder(config.save_path).exists()
    assert json.loads(summary_path.read_text())["written"] == written == 4


def test_a_retry_of_failed_utterances_is_merged_onto_the_others_in_list_order(
    config: SaveEmbeddingConfig, tmp_path: Path
) -> None:
    save_embedding(config)
    undisturbed = config.save_path.rename(tmp_path / "undisturbed.h5")
    (tmp_path / "b.wav").rename(tmp_path / "hidden.wav")
    assert save_embedding(config).num_failed == 1
    (tmp_path / "hidden.wav").rename(tmp_path / "b.wav")
    run_until_its_merge(config)
    assert list(content(config.save_path)[0]) == ["a", "c", "d"]
    assert merge(MergeConfig(save_path=config.save_path)).num_failed == 0
    found, expected = content(config.save_path)[0], content(undisturbed)[0]
    assert list(found) == list(expected) == ["a", "b", "c", "d"]
    for key in expected:  # other batches round otherwise
        np.testing.assert_allclose(found[key], expected[key], atol=0.01)


def test_what_failed_still_counts(config: SaveEmbeddingConfig, tmp_path: Path) -> None:
    (tmp_path / "b.wav").unlink()
    run_until_its_merge(config)
    summary = merge(MergeConfig(save_path=config.save_path))
    assert (summary.num_failed, summary.figures["written"]) == (1, 3)
    assert (tmp_path / "e.h5.failed.tsv").exists()


def test_parts_left_behind_a_merge_are_removed(config: SaveEmbeddingConfig, tmp_path: Path) -> None:
    run_until_its_merge(config)
    shutil.copytree(parts_folder(config.save_path), tmp_path / "kept")
    merge(MergeConfig(save_path=config.save_path))
    merged = config.save_path.read_bytes()
    (index := tmp_path / "e.h5.idx.npz").unlink()
    (tmp_path / "kept").rename(parts_folder(config.save_path))
    assert merge(MergeConfig(save_path=config.save_path)).num_failed == 0
    assert not parts_folder(config.save_path).exists()
    assert config.save_path.read_bytes() == merged
    assert index.exists()


def test_missing_parts_foreign_files_and_nothing_at_all_are_errors(
    config: SaveEmbeddingConfig, tmp_path: Path
) -> None:
    of_it = MergeConfig(save_path=config.save_path)
    with pytest.raises(DataError, match=r"e\.h5: no parts of it to merge"):
        merge(of_it)
    run_until_its_merge(config)
    folder = parts_folder(config.save_path)
    with h5py.File(config.save_path, "w") as file:
        file["a"] = [1]
    with pytest.raises(DataError, match="not made by k2distil"):
        merge(of_it)
    config.save_path.unlink()
    (folder / "part-000001.json").unlink()
    (tmp_path / "e.h5.summary.json").unlink()
    with pytest.raises(DataError, match=r"1 of 2 parts are missing \(1\)"):
        merge(of_it)
    assert not (tmp_path / "e.h5.summary.json").exists()
    (folder / "merge.json").unlink()
    with pytest.raises(DataError, match=r"cannot be merged alone .* run the command again"):
        merge(of_it)
    assert save_embedding(config).num_failed == 0  # as it says
    assert len(content(config.save_path)[0]) == 4


def test_a_retry_that_is_running_keeps_its_parts(
    config: SaveEmbeddingConfig, tmp_path: Path
) -> None:
    (tmp_path / "b.wav").rename(tmp_path / "hidden.wav")
    assert save_embedding(config).num_failed == 1
    (tmp_path / "hidden.wav").rename(tmp_path / "b.wav")
    with pytest.MonkeyPatch.context() as patch:

        def merge_meanwhile(parts: PartFolder, *args: object) -> None:
            with pytest.raises(DataError, match=r"1 of 1 parts are missing \(0\); run the"):
                merge(MergeConfig(save_path=config.save_path))
            patch.undo()
            parts.write(*args)  # type: ignore[arg-type]

        patch.setattr(PartFolder, "write", merge_meanwhile)
        assert save_embedding(config).figures["written"] == 4
    assert list(content(config.save_path)[0]) == ["a", "b", "c", "d"]


def test_who_waits_for_parts_of_a_folder_that_others_made_anew_ends(tmp_path: Path) -> None:
    save_path = tmp_path / "e.h5"
    parts = PartFolder(save_path, {"list": "long"}, 30, 10)
    remove_parts(save_path)  # merged by another, which a retry of fewer followed
    PartFolder(save_path, {"list": "retry"}, 10, 10)

    def wait() -> None:
        with Leases(60) as leases:
            make_parts(parts, [Chunk(index, []) for index in range(3)], never, leases)

    def never(chunks: object) -> Generator[PendingChunk]:
        raise AssertionError(chunks)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(10)
    assert not waiting.is_alive()


def test_what_is_no_output_is_not_merged_already(tmp_path: Path) -> None:
    (tmp_path / "a.list").write_text("words")
    (tmp_path / "folder").mkdir()
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["a"] = np.zeros((3, 2))
    for name in ("a.list", "folder", "foreign.h5"):
        with pytest.raises(DataError, match=name):
            merge(MergeConfig(save_path=tmp_path / name))
