"""What one utterance or batch suffers stays with it, is listed, and is made good later."""

import csv
import os
import shutil

import h5py
import pytest

from tests.faults.corpus import key_of


@pytest.fixture
def own_list(data_list, tmp_path):
    """A corpus to do harm to."""
    return shutil.copytree(data_list.parent, tmp_path / "data") / "data.list"


def reasons(job) -> dict[str, str]:
    path = job.save_path.with_name(f"{job.save_path.name}.failed.tsv")
    with path.open(encoding="utf-8", newline="") as file:
        return {row["key"]: row["reason"] for row in csv.DictReader(file, dialect="excel-tab")}


def test_what_fails_is_listed_and_the_same_command_does_it_later(
    own_list, start_job, undisturbed, scale, tally, tmp_path
):
    folder, last = own_list.parent, scale.utterances - 1
    deleted, hanging, replaced, twin = (key_of(each) for each in (last, last // 2, last - 1, 0))
    wav, hidden = folder / f"{hanging}.wav", tmp_path / "hidden.wav"
    wav.rename(hidden)
    os.mkfifo(wav)

    job = start_job(own_list)
    flags = ["--num_workers", 1, "--decode_timeout", 2, "--batch_seconds", 2]
    process = job.start(*flags, nan=str(tmp_path / "nan"), seconds=0.1)
    job.wait_until(lambda: job.num_done() >= 1)
    (folder / f"{deleted}.wav").rename(tmp_path / "deleted.wav")
    shutil.copy(folder / f"{twin}.wav", tmp_path / "other.wav")
    (tmp_path / "other.wav").rename(folder / f"{replaced}.wav")
    assert job.end([process]) == [1], job.log()
    failed = reasons(job)
    assert "not decoded in 2 s" in failed[hanging]
    assert "cannot be read" in failed[deleted]
    of_batch = {key for key, reason in failed.items() if "NaN or inf in the embedding" in reason}
    assert len(of_batch) > 1
    assert failed.keys() == of_batch | {hanging, deleted}
    tally.compare(job.save_path, undisturbed(), failed=failed, replaced=[replaced])

    hidden.rename(wav)
    (tmp_path / "deleted.wav").rename(folder / f"{deleted}.wav")
    process = job.start(*flags)
    assert job.end([process]) == [0], job.log()
    tally.compare(job.save_path, undisturbed(), replaced=[replaced])
    with h5py.File(job.save_path) as found, h5py.File(undisturbed()) as right:
        possible = [right[replaced][:].tobytes(), right[twin][:].tobytes()]
        assert found[replaced][:].tobytes() in possible


def test_out_of_memory_on_one_batch(start_job, undisturbed, tally, tmp_path):
    job = start_job()
    job.start("--num_workers", 0, oom=str(tmp_path / "oom"))
    assert job.end() == [0], job.log()
    assert "half of them next (injected)" in job.log()
    tally.compare(job.save_path, undisturbed())
