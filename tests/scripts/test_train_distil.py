"""train_distil.sh on real audio files and real codes: trains, resumes, shares work, transcribes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from k2distil.distil.codebook_head import HEAD_FILE
from k2distil.distil.trainer import last_checkpoint
from tests.scripts.conftest import (
    ROOT,
    command,
    environment,
    interrupt,
    k2distil,
    run,
    succeed,
)
from tests.scripts.student_material import WAV2VEC2, YAML, flags, losses


def test_a_student_trains_and_loads_in_transformers_without_k2distil(material, tmp_path):
    log = succeed("train_distil.sh", *flags(material), by_script=True)
    assert "2 codebooks of 16, 2 teacher frames per student frame" in log
    assert "20 utterances" in log
    figures = losses(log)
    assert len(figures) == 12
    assert figures[-1][1] < figures[0][1]
    summary = json.loads((tmp_path / "student" / "train_distil.summary.json").read_text())
    assert (summary["steps"], summary["labelled"], summary["failed"]) == (12, 12, 0)
    assert summary["last"].keys() >= {"wer", "cer", "codebook_cross_entropy", "codebook_entropy"}
    assert summary["best"]["step"] in {6, 12}
    assert list((tmp_path / "student" / "runs").rglob("events.*"))
    assert "complete already" in succeed("train_distil.sh", *flags(material))

    page = tmp_path / "report.html"
    outputs = [tmp_path / "codes.h5", tmp_path / "student"]
    k2distil("report", "--path", *outputs, "--save_path", page)
    html = page.read_text()
    assert "<td>steps</td><td>12</td>" in html
    assert "hardly anything of the codes" in html  # these are random
    assert html.count("<svg") == 3 + 4

    for name in ("best", "last"):
        folder = tmp_path / "student" / name
        assert not [key for key in load_file(folder / "model.safetensors") if "codebook" in key]
        script = f"""
import sys
sys.modules["torchaudio"] = None  # one that does not load takes transformers down with it
import soundfile, torch, transformers
assert not any(name.startswith("k2distil") for name in sys.modules)
folder, wav = {str(folder)!r}, {str(material.folder / "utt00.wav")!r}
samples, rate = soundfile.read(wav, dtype="float32")
model = transformers.AutoModelForCTC.from_pretrained(folder).eval()
processor = transformers.AutoProcessor.from_pretrained(folder)
with torch.inference_mode():
    logits = model(**processor(samples, sampling_rate=rate, return_tensors="pt")).logits
decoded = processor.batch_decode(logits.argmax(-1))[0]
pipe = transformers.pipeline("automatic-speech-recognition", folder)
assert pipe({{"raw": samples, "sampling_rate": rate}})["text"] == decoded
print(logits.shape[-1])
"""
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) == 2 + 1 + len(set("onetwothree"))


def test_text_alone_is_one_flag_away(material):
    log = succeed("train_distil.sh", *flags(material, "--codebook_weight", 0))
    assert "12 utterances" in log
    assert "8 utterances have neither text nor codes and are not used" in log
    figures = re.findall(r"step \d+ of 12: loss ([^,\s]+),.*ctc_loss ([^,\s]+)", log)
    assert len(figures) == 12
    assert all(loss == ctc for loss, ctc in figures)
    assert "codebook_loss" not in log


@pytest.mark.parametrize(("begin", "end"), [(6, 0), (3, 3)])
def test_the_weight_of_the_codes_changes_in_a_straight_line(begin, end, material):
    more = ["--codebook_weight", begin, "--codebook_weight_end", end]
    log = succeed("train_distil.sh", *flags(material, *more))
    figure = r"([^,\s]+)"
    names = rf"loss {figure},.*ctc_loss {figure}, codebook_loss {figure}, codebook_weight {figure}"
    lines = re.findall(rf"step (\d+) of 12: {names}", log)
    assert len(lines) == 12
    for step, *figures in lines:
        loss, ctc, codebook, weight = map(float, figures)  # 4 digits each
        assert weight == pytest.approx(begin + (end - begin) * (int(step) - 1) / 12, rel=1e-3)
        assert loss == pytest.approx(ctc + weight * codebook, rel=2e-3)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_training_goes_on_to_the_same_student(signum, material, tmp_path):
    undisturbed = succeed("train_distil.sh", *flags(material, "--save_path", tmp_path / "one"))
    stopped = flags(material, "--save_path", tmp_path / "two")
    there = partial(last_checkpoint, tmp_path / "two")  # whole: its name is there sooner
    status, log = interrupt(command("train_distil.sh", *stopped), there, signum)
    assert status == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[signum], log
    assert "Traceback" not in log, log
    assert not (tmp_path / "two" / "last").exists()
    before = len(losses(log))
    resumed = succeed("train_distil.sh", *stopped, "--num_codebooks", 2, "--data_type", "raw")
    assert "going on from" in resumed
    assert "the utterances are those that this training began with" in resumed
    assert losses(resumed) == losses(undisturbed)[12 - len(losses(resumed)) :]
    assert 0 < len(losses(resumed)) <= 12 - min(before, 4)
    one, two = (load_file(tmp_path / n / "last" / "model.safetensors") for n in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_signal_to_all_its_processes_saves_as_well(material, tmp_path):
    stopped = flags(material, "--save_path", tmp_path / "one", "--num_workers", 2)
    there = partial(last_checkpoint, tmp_path / "one")
    status, log = interrupt(command("train_distil.sh", *stopped), there, signal.SIGTERM, True)
    assert status == 143, log
    step = int(re.findall(r"saved at step (\d+)", log)[0])
    assert (tmp_path / "one" / f"checkpoint-{step}").is_dir()
    assert f"going on from {tmp_path / 'one' / f'checkpoint-{step}'}" in succeed(
        "train_distil.sh", *stopped
    )


def test_audio_put_right_between_two_runs_does_not_change_a_training(material, tmp_path):
    wav = material.folder / "utt03.wav"
    whole = wav.read_bytes()
    wav.write_bytes(b"RIFF no wav")
    skip = ["--bad_utterances", "skip"]
    undisturbed = run("train_distil.sh", *flags(material, *skip, "--save_path", tmp_path / "one"))
    assert undisturbed.returncode == 1, undisturbed.stderr
    stopped = flags(material, *skip, "--save_path", tmp_path / "two")
    there = partial(last_checkpoint, tmp_path / "two")
    interrupt(command("train_distil.sh", *stopped), there, signal.SIGKILL)
    wav.write_bytes(whole)
    resumed = run("train_distil.sh", *stopped)
    assert resumed.returncode == 1, resumed.stderr
    assert losses(resumed.stderr) == losses(undisturbed.stderr)[-len(losses(resumed.stderr)) :]
    for name, keys in [("one", ["utt03", "utt03"]), ("two", ["utt03"])]:  # a test looks again
        table = (tmp_path / name / "train_distil.failed.tsv").read_text().splitlines()
        assert [line.split("\t")[0] for line in table] == ["key", *keys]


def by_two_words(material, save_path, *more):
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        *("-m", "k2distil", "train_distil"),
        *map(str, flags(material, "--save_path", save_path, *more)),
    ]


def by_two(material, save_path, *more):
    words, env = by_two_words(material, save_path, *more), environment(PYTHONPATH=str(ROOT))
    return subprocess.run(words, capture_output=True, text=True, env=env)


def test_two_processes_stop_together_and_one_tells_an_error(material, tmp_path):
    folder = tmp_path / "two"
    words = by_two_words(material, folder, "--max_steps", 10_000, "--save_steps", 1000)
    begun = (folder / "train_distil.config.yaml").exists
    status, log = interrupt(
        words,
        lambda: begun() and list(folder.glob("runs/*/events*")),
        signal.SIGTERM,
        whole_group=True,
        PYTHONPATH=str(ROOT),
    )
    assert status != 0
    assert "fault of k2distil" not in log
    step = int(re.search(r"saved at step (\d+)", log)[1])
    assert 0 < step < 1000
    assert last_checkpoint(folder).name == f"checkpoint-{step}"
    refused = by_two(material, folder, "--max_steps", 10_001)
    assert refused.returncode != 0
    assert "fault of k2distil" not in refused.stderr
    assert refused.stderr.count("error: ") == 1
    assert "max_steps: 10000 there, 10001 now" in refused.stderr


def test_two_processes_train_as_one_with_twice_the_batch(material, tmp_path):
    (tmp_path / "conf.yaml").write_text(WAV2VEC2 + YAML[YAML.index("max_steps") :])
    one = succeed(
        "train_distil.sh",
        *flags(material, "--save_path", tmp_path / "one", "--accumulate_batches", 2),
    )
    two = by_two(material, tmp_path / "two")
    assert two.returncode == 0, two.stderr
    np.testing.assert_allclose(losses(two.stderr), losses(one), rtol=2e-3)
    begun = [(tmp_path / name / "train_distil.json").read_text() for name in ("one", "two")]
    assert begun[0] == begun[1]  # so that one may go on where two have stopped
    summaries = [
        json.loads((tmp_path / name / "train_distil.summary.json").read_text())["last"]
        for name in ("one", "two")
    ]
    assert summaries[0] == pytest.approx(summaries[1], rel=2e-3)
    first, second = (
        torch.load(tmp_path / "two" / "checkpoint-12" / f"rng_state_{rank}.pth", weights_only=False)
        for rank in range(2)
    )
    assert not torch.equal(first["cpu"], second["cpu"])  # each masks and drops out by itself


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", ["auto", "float32", "float16"])
def test_a_gpu_trains_and_resumes(dtype, material, tmp_path):
    on_gpu = [*flags(material, "--dtype", dtype), "--gpu", 0]
    there = partial(last_checkpoint, tmp_path / "student")
    status, log = interrupt(command("train_distil.sh", *on_gpu), there, signal.SIGTERM)
    assert status == 143, log
    log = succeed("train_distil.sh", *on_gpu)
    assert "going on from" in log
    assert all(np.isfinite(losses(log)).flatten())


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two CUDA devices")
def test_two_gpus_are_a_flag_away(material):
    log = succeed("train_distil.sh", *flags(material), "--gpu", "0,1")
    assert len(losses(log)) == 12


def test_a_full_disk_is_named_and_the_training_goes_on_afterwards(material, small_disk, resize):
    resize("2m")
    (small_disk / "room").write_bytes(bytes(1_400_000))
    stopped = flags(material, "--save_path", small_disk / "student")
    done = run("train_distil.sh", *stopped)
    assert done.returncode == 2, done.stderr
    assert "no room" in done.stderr
    (small_disk / "room").unlink()
    log = succeed("train_distil.sh", *stopped)
    assert len(losses(log)) <= 12
    assert (small_disk / "student" / "last" / "model.safetensors").exists()


def test_two_runs_never_write_one_folder(material, tmp_path):
    running = command("train_distil.sh", *flags(material, "--max_steps", 4000))
    process = subprocess.Popen(running, stderr=subprocess.DEVNULL, env=environment())
    try:
        while not (tmp_path / "student" / "checkpoint-4" / "trainer_state.json").exists():
            assert process.poll() is None
            time.sleep(0.05)
        done = run("train_distil.sh", *flags(material, "--max_steps", 4000))
        assert done.returncode == 2, done.stderr
        assert "is writing this output; wait for it to end" in done.stderr
    finally:
        process.kill()
        process.wait()


def test_other_settings_are_refused_and_force_starts_over(material, tmp_path):
    succeed("train_distil.sh", *flags(material))
    done = run("train_distil.sh", *flags(material, "--learning_rate", "0.01"))
    assert done.returncode == 2
    assert "learning_rate: 0.001 there, 0.01 now" in done.stderr
    succeed("train_distil.sh", *flags(material, "--learning_rate", "0.01", "--force"))
    assert "force" not in (tmp_path / "student" / "train_distil.config.yaml").read_text()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    done = run("train_distil.sh", *flags(material, "--save_path", tmp_path / "thesis", "--force"))
    assert done.returncode == 2
    assert "not made by train_distil.sh" in done.stderr


def test_a_student_goes_on_from_a_folder(material, tmp_path):
    succeed("train_distil.sh", *flags(material, "--max_steps", 4))
    log = succeed(
        "train_distil.sh",
        *flags(material, "--student_checkpoint", tmp_path / "student" / "last"),
        *("--save_path", tmp_path / "second", "--max_steps", 4),
    )
    first, second = (
        load_file(tmp_path / n / "last/model.safetensors") for n in ("student", "second")
    )
    assert first.keys() == second.keys()
    assert losses(log)[0][0] < 100
    assert "`student` in the config is not used" in log
    assert f"what predicts the codes goes on from {tmp_path / 'student' / 'last'}/" in log
    heads = [load_file(tmp_path / n / "last" / HEAD_FILE) for n in ("student", "second")]
    assert all(torch.allclose(heads[0][name], heads[1][name], atol=0.05) for name in heads[0])
    assert not all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_what_predicts_other_codes_starts_anew(material, tmp_path):
    succeed("train_distil.sh", *flags(material, "--max_steps", 4))
    folder = tmp_path / "student" / "last"
    more = ["--student_checkpoint", folder, "--max_steps", 4, "--student_layer", 1]
    log = succeed("train_distil.sh", *flags(material, *more), "--save_path", tmp_path / "second")
    assert "codebook_head.safetensors is for others (student_layer 2 there, 1 here)" in log
    (folder / HEAD_FILE).write_bytes(b"torn")
    done = run("train_distil.sh", *flags(material, *more), "--save_path", tmp_path / "third")
    assert done.returncode == 2
    assert f"{folder / HEAD_FILE}: damaged" in done.stderr
    assert "remove it, and what predicts the codes starts anew" in done.stderr
    (folder / HEAD_FILE).unlink()
    log = succeed("train_distil.sh", *flags(material, *more), "--save_path", tmp_path / "fourth")
    assert f"what predicts the codes starts anew: {folder} has no {HEAD_FILE}" in log


def test_a_pretrained_model_learns_the_characters_of_the_text(material, tmp_path):
    """As wav2vec2 after pretraining: neither tokenizer nor CTC head."""
    succeed("train_distil.sh", *flags(material, "--max_steps", 4))
    folder = tmp_path / "student" / "last"
    weights = load_file(folder / "model.safetensors")
    kept = {name: each for name, each in weights.items() if not name.startswith("ctc_head")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    for path in [*folder.glob("*token*"), *folder.glob("*vocab*")]:
        path.unlink()
    more = ["--student_checkpoint", folder, "--save_path", tmp_path / "second", "--max_steps", 8]
    log = succeed("train_distil.sh", *flags(material, *more))
    assert re.search(r"last: the student's CTC head is new, for \d+ tokens", log)
    assert (tmp_path / "second" / "last" / "vocab.json").exists()
