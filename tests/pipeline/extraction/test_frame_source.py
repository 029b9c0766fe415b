"""Frames drawn from a file: of what is larger than memory, what is kept is bounded."""

import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from k2distil.config import TrainQuantizerConfig, load_config
from k2distil.errors import DataError
from k2distil.pipeline.extraction.frame_source import fill, open_source
from k2distil.pipeline.run.processes import joined

NUM_FRAMES, DIM, NUM_UTTERANCES = 2000, 1280, 50  # 244 MiB, nearly all of it a hole
KEPT = 4000  # frames, 9.8 MiB


def peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of memory")
def test_a_file_is_read_in_the_memory_of_the_frames_that_are_kept(tmp_path):
    path = tmp_path / "e.h5"
    with h5py.File(path, "w") as file:
        for index in range(NUM_UTTERANCES):
            file.create_dataset(f"utt{index:02}", (NUM_FRAMES, DIM), "float16")
            file[f"utt{index:02}"][:5] = index
    config = TrainQuantizerConfig(embedding_path=path, save_path=tmp_path / "q.pt")
    with joined("cpu") as alone:
        source = open_source(config, alone)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, ticks = peak_mib(), []
    training, held_out = fill(source, KEPT, 0, lambda: ticks.append(1))
    grown = peak_mib() - before
    assert len(ticks) == NUM_UTTERANCES
    assert training.num_seen + held_out.num_seen == NUM_UTTERANCES * NUM_FRAMES
    assert len(training) == KEPT
    # Beside the sample: 20,000 frames held out (49 MiB), the first ten utterances (49 MiB), and a
    # few copies of one (5 MiB).
    assert grown < 130


def test_a_big_endian_file_of_others_gives_the_same_frames(tmp_path):
    path, values = tmp_path / "e.h5", np.random.default_rng(0).random((12, 50, 4), "float32")
    with h5py.File(path, "w") as file:
        for index, frames in enumerate(values):
            file[f"utt{index:02}"] = frames.astype(">f4")
    with joined("cpu") as alone:
        source = open_source(
            TrainQuantizerConfig(embedding_path=path, save_path=tmp_path / "q.pt"), alone
        )
    for drawn, frames in zip(source.frames(), values, strict=True):
        assert np.array_equal(drawn, frames)


@pytest.mark.parametrize("index", [0, 1, 11])  # the second is held out
@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e39, -1e300])
def test_what_float32_does_not_hold_is_named_with_its_key(tmp_path, index, value):
    path = tmp_path / "e.h5"
    with h5py.File(path, "w") as file:
        for number in range(12):
            file[f"utt{number:02}"] = np.ones((50, 4), "float64")
        file[f"utt{index:02}"][49, 3] = value
    with joined("cpu") as alone:
        source = open_source(
            TrainQuantizerConfig(embedding_path=path, save_path=tmp_path / "q.pt"), alone
        )
    message = rf"e\.h5\[utt{index:02}\]: NaN, inf or values beyond float32; correct or remove it"
    with pytest.raises(DataError, match=message):
        fill(source, 100, 0, lambda: None)


def test_flags_of_audio_that_an_h5_makes_no_use_of_are_named(tmp_path, caplog):
    path, yaml = tmp_path / "e.h5", tmp_path / "all.yaml"
    with h5py.File(path, "w") as file:
        file["utt"] = np.ones((3, 4), "float16")
    yaml.write_text("checkpoint: teacher.pt\nnum_audio: 5\n")  # of the whole chain
    flags = {"embedding_path": path, "save_path": tmp_path / "q.pt", "middle_layer": 1}
    with joined("cpu") as alone:
        open_source(load_config(TrainQuantizerConfig, yaml, [], flags), alone)
    assert "not used: --middle_layer; the frames come from --embedding_path" in caplog.text
