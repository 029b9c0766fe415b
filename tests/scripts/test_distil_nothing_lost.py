"""train_distil.sh: what it may not lose, whatever happens before or within a training."""

import json
import shutil

import numpy as np
import soundfile

from tests.scripts.conftest import run, succeed
from tests.scripts.student_material import flags


def test_force_removes_nothing_before_the_new_training_can_begin(material, tmp_path):
    succeed("train_distil.sh", *flags(material, "--max_steps", 4))
    student = tmp_path / "student"
    before = sorted(str(path) for path in student.rglob("*"))
    more = flags(material, "--max_steps", 5, "--force")
    good = (tmp_path / "cv.list").rename(tmp_path / "hidden.list")
    done = run("train_distil.sh", *more)
    assert done.returncode == 2, done.stderr
    assert "cv.list: cannot be read (No such file or directory); correct its path" in done.stderr
    good.rename(tmp_path / "cv.list")
    lines = material.path.read_text()
    long = {**json.loads(material.lines[0]), "txt": "one two three " * 20}
    material.path.write_text(lines.replace(material.lines[0], json.dumps(long)))
    done = run("train_distil.sh", *more)
    assert done.returncode == 2, done.stderr
    assert "utt00" in done.stderr
    assert sorted(str(path) for path in student.rglob("*")) == before
    material.path.write_text(lines)
    succeed("train_distil.sh", *more)
    assert json.loads((student / "train_distil.summary.json").read_text())["steps"] == 5


def test_what_could_not_be_decoded_is_told_by_the_run_that_goes_on_too(material, tmp_path):
    path = material.folder / "utt17.wav"  # of no test
    samples, rate = soundfile.read(path, dtype="float32")
    samples[100] = np.nan
    soundfile.write(path, samples, rate, subtype="FLOAT")
    assert run("train_distil.sh", *flags(material)).returncode == 1
    student = tmp_path / "student"
    listed = (student / "train_distil.failed.tsv").read_text()
    assert "utt17" in listed
    shutil.rmtree(student / "last")  # killed just before its end
    (student / "train_distil.summary.json").unlink()
    done = run("train_distil.sh", *flags(material))
    assert done.returncode == 1, done.stderr
    assert "going on from" in done.stderr
    assert (student / "train_distil.failed.tsv").read_text() == listed
    assert json.loads((student / "train_distil.summary.json").read_text())["failed"] == 1
