"""The folder of a student: what is the best in it, and what may be replaced."""

import functools
import json
import os

import pytest

from k2distil.errors import ConfigError, DataError
from k2distil.leases import held_alone
from k2distil.pipeline.student.folder import StudentFolder
from tests.distil.checkpoint import write_checkpoint


class Saved:
    """In the place of a student: its folder has a mark of it."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def save(self, folder, extra):
        folder.mkdir(exist_ok=True)
        (folder / "mark").write_text(self.mark)
        for name, content in extra.items():
            (folder / name).write_bytes(content)


def begin(path, *arguments, **options):
    with StudentFolder(path) as folder:
        return folder.begin(*arguments, **options)


def begun(path, fingerprint, force=False) -> StudentFolder:
    with StudentFolder(path) as folder:
        assert folder.begin(fingerprint, force) is None
        folder.start()
    return folder


def test_the_best_is_the_best_on_the_same_test(tmp_path):
    folder = begun(tmp_path, {"learning_rate": 1})
    for mark, test, step, rate in [
        ("first", "easy", 1, 0.5),
        ("worse", "easy", 2, 0.6),
        ("again", "easy", 1, 0.55),  # the step of the best, done again
        ("other", "hard", 3, 0.9),
        ("tie", "hard", 4, 0.9),  # as good, and trained longer
    ]:
        folder.offer(Saved(mark), None, test, "wer", step, {"wer": rate, "cer": 0.2})
        best = json.loads((tmp_path / "best" / "metrics.json").read_text())
        assert (tmp_path / "best" / "mark").read_text() == ("first" if mark == "worse" else mark)
        assert best["test"] == test
    assert folder.best()["step"] == 4
    folder.offer(Saved("letters"), None, "hard", "wer", 5, {"wer": 0.9, "cer": 0.1})
    assert folder.best()["step"] == 5


def test_a_run_that_ended_before_its_first_step_holds_no_folder(tmp_path):
    begun(tmp_path, {"learning_rate": 1})
    folder = begun(tmp_path, {"learning_rate": 2})
    folder.offer(Saved("one"), None, "test", "wer", 1, {"wer": 0.5, "cer": 0.5})
    with pytest.raises(DataError, match="learning_rate: 2 there, 3 now"):
        begin(tmp_path, {"learning_rate": 3}, force=False)


def test_a_student_that_was_being_replaced_counts_as_one(tmp_path):
    folder = begun(tmp_path, {"learning_rate": 1})
    folder.offer(Saved("only"), None, "test", "wer", 1, {"wer": 0.5, "cer": 0.5})
    (tmp_path / "best").rename(tmp_path / ".best.old")  # killed while it was replaced
    with pytest.raises(DataError, match="learning_rate: 1 there, 2 now"):
        begin(tmp_path, {"learning_rate": 2}, force=False)
    assert (tmp_path / "best" / "mark").read_text() == "only"


def test_force_leaves_nothing_of_the_old_student(tmp_path):
    folder = begun(tmp_path, {"learning_rate": 1})
    folder.offer(Saved("old"), None, "test", "wer", 1, {"wer": 0.5, "cer": 0.5})
    (tmp_path / "best").rename(tmp_path / ".best.old")  # killed while it was replaced
    (tmp_path / "last").mkdir()
    begun(tmp_path, {"learning_rate": 2}, force=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["train_distil.json"]


def test_it_goes_on_from_the_last_checkpoint_that_is_whole(tmp_path):
    folder = StudentFolder(tmp_path)
    assert folder.checkpoint() is None
    for step in (8, 12, 100):
        new = write_checkpoint(tmp_path, step)
    (new / "trainer_state.json").write_text('{"global_')
    assert folder.checkpoint() == tmp_path / "checkpoint-12"


def test_until_it_starts_nothing_is_removed_and_nothing_old_is_gone_on_with(tmp_path):
    old = begun(tmp_path, {"learning_rate": 1})
    old.offer(Saved("old"), None, "test", "wer", 1, {"wer": 0.5, "cer": 0.5})
    write_checkpoint(tmp_path, 8)
    before = sorted(each.name for each in tmp_path.iterdir())
    with StudentFolder(tmp_path) as folder:  # which ends before it starts: of a list that is bad
        assert folder.begin({"learning_rate": 2}, force=True) is None
        assert folder.checkpoint() is None
    assert sorted(each.name for each in tmp_path.iterdir()) == before
    with StudentFolder(tmp_path) as again:
        assert again.begin({"learning_rate": 1}, force=False) is None
        assert again.checkpoint() == tmp_path / "checkpoint-8"


def test_two_that_begin_at_the_same_time_do_not_both_succeed(tmp_path, monkeypatch):
    soon = functools.partial(held_alone, seconds=1.0)
    monkeypatch.setattr("k2distil.pipeline.student.folder.held_alone", soon)
    words = rf"{tmp_path}: process {os.getpid()} on .* is writing this output; wait for it to end"
    with StudentFolder(tmp_path) as first, StudentFolder(tmp_path) as second:
        assert first.begin({"learning_rate": 1}, force=False) is None
        with pytest.raises(DataError, match=words):
            second.begin({"learning_rate": 1}, force=False)
        first.start()
        with pytest.raises(DataError, match=words):
            second.begin({"learning_rate": 1}, force=False)
    assert not (tmp_path / ".lease").exists()


def test_what_the_device_decides_does_not_count_when_all_is_done(tmp_path):
    folder = begun(tmp_path, {"learning_rate": 1, "dtype": "bfloat16"})
    here = {"learning_rate": 1, "dtype": "float32"}
    folder.offer(Saved("best"), None, "test", "wer", 1, {"wer": 0.5, "cer": 0.5})
    with pytest.raises(DataError, match='dtype: "bfloat16" there, "float32" now'):
        begin(tmp_path, here, False, ("dtype",))
    folder.finish(Saved("last"), None, {"steps": 3}, 0)
    assert begin(tmp_path, here, False, ("dtype",)).figures["steps"] == 3
    with pytest.raises(DataError, match='dtype: "bfloat16" there, "float32" now'):  # asked for
        begin(tmp_path, here, False)


def test_what_a_kill_left_of_a_lease_does_not_make_a_folder_anothers(tmp_path):
    (tmp_path / "..lease.0123").write_text("{}")
    assert begin(tmp_path, {"learning_rate": 1}, False) is None
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="not empty, and not made by train_distil"):
        begin(tmp_path, {"learning_rate": 1}, False)


def test_a_complete_student_is_not_held(tmp_path, monkeypatch):
    folder = begun(tmp_path, {"learning_rate": 1})
    folder.finish(Saved("last"), None, {"steps": 3}, 0)
    monkeypatch.setattr("k2distil.pipeline.student.folder.held_alone", None)  # no right to write
    assert begin(tmp_path, {"learning_rate": 1}, False).figures["steps"] == 3
