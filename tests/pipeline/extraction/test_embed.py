"""Audio through a stub teacher whose output is known."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from k2distil.batch import SAMPLE_RATE, EmbeddingBatch, Utterance
from k2distil.config import EvaluateConfig, SaveEmbeddingConfig
from k2distil.pipeline.extraction import windows
from k2distil.pipeline.extraction.embed import ChunkValues, as_dtype, embed
from k2distil.pipeline.extraction.teacher import embed_options
from k2distil.pipeline.extraction.teacher import num_workers as workers_of
from k2distil.pipeline.extraction.windows import Chunk, EmbedOptions
from k2distil.quantizer import ProductQuantizer
from k2distil.teachers import build_teacher
from k2distil.teachers.whisper_encoder import CONV1D2, CONV2D
from tests.teachers.tiny import DIMS, make_wenet, wenet_config


class StubTeacher:
    """One frame of one float per 100 samples: their sum. A sample of 7 makes NaN, of 9 too much."""

    name, dim, num_layers, layer, frame_shift, digest = "stub", 1, 1, 1, 0.00625, "0"
    padding, min_samples, max_samples = "none", 100, 30 * SAMPLE_RATE

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def num_frames(self, num_samples):
        return num_samples // 100

    def embed(self, batch):
        self.batches.append(batch.num_samples.tolist())
        num_frames = batch.num_samples // 100
        sums = batch.samples[:, : int(num_frames.max()) * 100].unflatten(1, (-1, 100)).sum(-1)
        sums = sums.masked_fill((batch.samples == 7).any(1, keepdim=True), float("nan"))
        sums = sums.masked_fill((batch.samples == 9).any(1, keepdim=True), 1e6)
        for row, frames in zip(sums, num_frames.tolist(), strict=True):
            row[frames:] = 0
        return EmbeddingBatch(batch.keys, sums[..., None], num_frames)


@pytest.mark.parametrize(
    ("cores", "processes", "expected"), [(4, 1, 3), (64, 1, 8), (16, 4, 3), (1, 1, 1), (8, 8, 1)]
)
def test_every_process_of_a_host_leaves_itself_a_core(cores, processes, expected, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert workers_of(EvaluateConfig(student_checkpoint=Path())) == expected


@pytest.fixture
def run(tmp_path):
    """Audio by key -> wav files -> what becomes of them."""

    def embed_one(audio, teacher, dtype="float32", **options) -> ChunkValues:
        [only] = run_chunks([audio], teacher, dtype, **options)
        return only

    def run_chunks(chunks, teacher, dtype="float32", **options) -> list[ChunkValues]:
        listed = []
        for index, audio in enumerate(chunks):
            for key, samples in audio.items():
                soundfile.write(tmp_path / f"{key}.wav", samples, SAMPLE_RATE, subtype="FLOAT")
            keys = [Utterance(key, str(tmp_path / f"{key}.wav")) for key in audio]
            listed.append(Chunk(index, keys))
        options = {"batch_seconds": 60.0, **options}
        found = list(embed(iter(listed), teacher, as_dtype(dtype), EmbedOptions(**options)))
        assert [each.chunk for each in found] == listed
        return [each.result() for each in found]

    embed_one.chunks = run_chunks
    return embed_one


def sines(*lengths):
    return {f"u{n}": torch.sin(torch.arange(float(length))) for n, length in enumerate(lengths)}


def sums(samples):
    return samples[: len(samples) // 100 * 100].view(-1, 100).sum(1)


def test_values_come_in_list_order_whatever_the_batches_and_windows(run, monkeypatch):
    audio = sines(1000, 300, 2500, 100, 700, 999)
    expected = None
    for window, seconds, num_workers in [(10**9, 1.0, 0), (1500, 0.1, 2), (1, 60.0, 1)]:
        monkeypatch.setattr(windows, "WINDOW", window)
        result = run(audio, StubTeacher(), batch_seconds=seconds, num_workers=num_workers)
        assert list(result.values) == list(audio)
        assert result.audio_seconds == pytest.approx(5599 / SAMPLE_RATE)
        for key, values in result.values.items():
            assert values.shape == (len(audio[key]) // 100, 1)
            assert torch.allclose(torch.from_numpy(values[:, 0]), sums(audio[key]), atol=1e-5)
        expected = expected or result.values
        assert all((expected[key] == result.values[key]).all() for key in expected)


def test_chunks_are_drawn_one_after_another_and_never_share_a_batch(run):
    teacher = StubTeacher()
    first, second = sines(600, 500), {"x": sines(400)["u0"], "y": sines(100)["u0"]}
    results = run.chunks([first, second], teacher)
    assert [list(each.values) for each in results] == [["u0", "u1"], ["x", "y"]]
    assert teacher.batches == [[600, 500], [400, 100]]


def test_a_window_bounds_what_is_sorted_together(run, monkeypatch):
    monkeypatch.setattr(windows, "WINDOW", 1000)
    teacher = StubTeacher()
    run(sines(600, 500, 400, 100), teacher)
    assert teacher.batches == [[600, 500], [400, 100]]


def test_what_cannot_be_done_is_named_and_its_neighbours_are_done(run, tmp_path):
    audio = sines(500, 500, 500, 500, 50)
    audio["u1"][3], audio["u2"][3] = 7, 9
    for dtype, done in [("float16", ["u0", "u3"]), ("float32", ["u0", "u2", "u3"])]:
        gone = Utterance("gone", str(tmp_path / "gone.wav"))
        run(audio, StubTeacher())  # writes the files
        listed = [Utterance(key, str(tmp_path / f"{key}.wav")) for key in audio]
        chunks = [Chunk(0, [gone, *listed])]
        [only] = embed(chunks, StubTeacher(), as_dtype(dtype), EmbedOptions(60.0))
        result = only.result()
        assert list(result.values) == done
        reasons = {row["key"]: row["reason"] for row in result.failed}
        assert reasons.keys() == {"gone", *audio} - {*done}
        assert "u1.wav: utterance u1: NaN or inf in the embedding" in reasons["u1"]
        assert "too short" in reasons["u4"]
        assert dtype == "float32" or "use --embedding_dtype float32" in reasons["u2"]
        assert "gone.wav" in reasons["gone"]


def test_a_quantizer_that_refuses_nan_codes_the_neighbours_of_an_utterance_that_has_it(
    run, tmp_path
):
    audio = sines(500, 500)
    audio["u1"][3] = 7
    run(audio, StubTeacher())  # writes the files
    listed = [Utterance(key, str(tmp_path / f"{key}.wav")) for key in audio]
    quantizer = ProductQuantizer(torch.tensor([[[-1.0], [1.0]]]), torch.zeros(1), torch.ones(()))
    [only] = embed([Chunk(0, listed)], StubTeacher(), quantizer.encode, EmbedOptions(60.0))
    assert list(only.result().values) == ["u0"]


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 MiB\nmore"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    RuntimeError("std::bad_alloc"),
    MemoryError(),
]


class SmallDevice(StubTeacher):
    """Has memory for so many samples at once."""

    def __init__(self, room, error=OUT_OF_MEMORY[0]):
        super().__init__()
        self.room, self.error = room, error

    def embed(self, batch):
        if batch.samples.numel() > self.room:
            raise self.error
        return super().embed(batch)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_batch_and_goes_on(run, caplog, error):
    audio = sines(500, 600, 700, 800, 900)
    teacher = SmallDevice(1500, error)
    result = run(audio, teacher)
    assert not result.failed
    for key, values in result.values.items():
        assert torch.allclose(torch.from_numpy(values[:, 0]), sums(audio[key]), atol=1e-5)
    lengths = sorted(length for batch in teacher.batches for length in batch)
    assert lengths == [500, 600, 700, 800, 900]
    assert "out of memory with 5 utterances" in caplog.text


def test_an_utterance_too_big_for_the_memory_fails_alone(run):
    result = run(sines(500, 2000, 600), SmallDevice(1500))
    assert list(result.values) == ["u0", "u2"]
    [failed] = result.failed
    assert "utterance u1: out of memory even alone; split the audio" in failed["reason"]


def test_more_than_a_cpu_has_fails_alone(run):
    class Greedy(StubTeacher):
        def embed(self, batch):
            if batch.samples.shape[1] >= 2000:
                torch.empty(1 << 50)  # by torch's own allocator, whatever its words are
            return super().embed(batch)

    result = run(sines(500, 2000, 600), Greedy())
    assert list(result.values) == ["u0", "u2"]
    assert "utterance u1: out of memory even alone" in result.failed[0]["reason"]


def test_pieces_of_long_audio_are_joined_and_an_end_too_short_is_left_out(run):
    most = StubTeacher.max_samples
    audio = sines(2 * most + 50, 300)
    result = run(audio, StubTeacher(), long_audio="chunk")
    assert len(result.values["u0"]) == 2 * most // 100
    assert len(result.values["u1"]) == 3


@pytest.mark.parametrize(("subsampling", "most"), [(CONV1D2, 100), (CONV2D, 49)])
def test_pieces_have_the_frames_of_one_long_audio(run, tmp_path, subsampling, most):
    dims = replace(DIMS, subsampling=subsampling, num_positions=100)  # 2 s
    teacher = build_teacher("wenet-whisper", make_wenet(tmp_path, dims))
    per_frame = round(teacher.frame_shift * SAMPLE_RATE)
    audio = {
        f"u{n}": torch.randn(n, generator=torch.Generator().manual_seed(n))
        for n in (32_000, 32_001, 336_000, 340_000)
    }
    found = run(audio, teacher, long_audio="chunk").values
    for key, samples in audio.items():
        assert abs(len(found[key]) - teacher.num_frames(len(samples))) <= 1
        starts = range(0, len(found[key]), most)
        pieces = {f"{n}": samples[n * per_frame :][:32_000] for n in starts}
        for start, frames in run(pieces, teacher).values.items():
            part = found[key][int(start) :][:most]
            assert len(part) == len(frames)
            assert np.abs(part - frames).max() < 0.05


@pytest.mark.parametrize(("subsampling", "least"), [(CONV1D2, 320), (CONV2D, 1120)])
def test_pieces_of_one_frame_are_joined(run, tmp_path, subsampling, least):
    config = wenet_config(replace(DIMS, subsampling=subsampling))
    config["dataset_conf"]["log_mel_spectrogram_conf"]["padding"] = 480_000 - least
    checkpoint = make_wenet(tmp_path, replace(DIMS, subsampling=subsampling))
    teacher = build_teacher("wenet-whisper", checkpoint, wenet_config=config)
    found = run(sines(3 * least), teacher, long_audio="chunk").values["u0"]
    assert len(found) == teacher.num_frames(3 * least)


@pytest.mark.parametrize("over", [1, 80])
def test_a_length_just_beyond_the_limit_is_told_to_the_sample(run, over):
    [failed] = run(sines(30 * SAMPLE_RATE + over), StubTeacher()).failed
    seconds = 30 + over / SAMPLE_RATE
    assert f"utterance u0: {seconds} s is longer than the teacher's 30 s; use" in failed["reason"]


@pytest.mark.parametrize("long_audio", ["error", "skip", "chunk"])
def test_a_teacher_without_a_limit_never_cuts_which_a_warning_says(run, caplog, long_audio):
    teacher = StubTeacher()
    config = SaveEmbeddingConfig(save_path=Path("e.h5"), long_audio=long_audio)
    embed_options(config, teacher)
    assert not caplog.text
    teacher.max_samples = None
    embed_options(config, teacher)
    warning = f"--long_audio {long_audio}: nothing is too long for the teacher stub"
    assert (warning in caplog.text) == (long_audio != "error")
    result = run(sines(31 * SAMPLE_RATE), teacher, long_audio=long_audio)
    assert len(result.values["u0"]) == 31 * SAMPLE_RATE // 100
    assert teacher.batches == [[31 * SAMPLE_RATE]]


def test_an_error_in_the_teacher_ends_the_workers(run):
    class Broken(StubTeacher):
        def embed(self, batch):
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run(sines(500, 600), Broken(), num_workers=2)
    assert not multiprocessing.active_children()
