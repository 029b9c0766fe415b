"""train_distil.sh on real audio files and real codes: trains, resumes, shares work, transcribes."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from k2distil.bin.train_distil import main
from tests.scripts.conftest import (
    ROOT,
    Corpus,
    command,
    environment,
    interrupt,
    run,
    speech,
    succeed,
)

WORDS = ["one", "two", "three"]
YAML = """\
student:
  model_type: parakeet_ctc
  encoder_config:
    hidden_size: 32
    num_hidden_layers: 2
    num_attention_heads: 2
    intermediate_size: 48
    subsampling_factor: 4
    subsampling_conv_channels: 8
    {dropout}
max_steps: 12
warmup_steps: 2
batch_seconds: 6
eval_steps: 6
save_steps: 4
logging_steps: 1
num_workers: 0
gpu: cpu
"""
NO_DROPOUT = "dropout: 0.0\n    attention_dropout: 0.0\n    activation_dropout: 0.0"
WAV2VEC2 = """\
student:
  model_type: wav2vec2
  hidden_size: 32
  num_hidden_layers: 2
  num_attention_heads: 2
  intermediate_size: 48
  conv_dim: [16, 16, 16, 16, 16, 16, 16]
  num_conv_pos_embeddings: 16
  num_conv_pos_embedding_groups: 4
  mask_time_prob: 0.0
  hidden_dropout: 0.0
  attention_dropout: 0.0
  activation_dropout: 0.0
  feat_proj_dropout: 0.0
  final_dropout: 0.0
"""


def text_of(index: int) -> str:
    return " ".join(WORDS[(index + n) % 3] for n in range(1 + index % 3))


@pytest.fixture
def material(tmp_path) -> Corpus:
    """20 utterances of 0.9 to 1.9 s, the last 8 without text, and codes of all at 50 a second."""
    folder = tmp_path / "data"
    folder.mkdir()
    corpus = Corpus(folder)
    generator = np.random.default_rng(0)
    with h5py.File(tmp_path / "codes.h5", "w") as file:
        file.attrs.update(num_codebooks=2, codebook_size=16, frame_shift=0.02, kind="codes")
        file.attrs["format_version"] = 1
        for index in range(20):
            seconds = 0.9 + 0.05 * index
            corpus.add(f"utt{index:02}", speech(seconds, seed=index))
            entry = json.loads(corpus.lines[-1])
            entry["txt"] = text_of(index)
            if index >= 12:
                del entry["txt"]
            corpus.lines[-1] = json.dumps(entry)
            file[f"utt{index:02}"] = generator.integers(0, 16, (round(seconds * 50), 2), np.uint8)
    (tmp_path / "cv.list").write_text(
        "".join(
            json.dumps({"key": f"utt{i:02}", "wav": f"data/utt{i:02}.wav", "txt": text_of(i)})
            + "\n"
            for i in range(4)
        )
    )
    (tmp_path / "conf.yaml").write_text(YAML.format(dropout="dropout: 0.1"))
    return corpus


def flags(corpus: Corpus, *more: object) -> list[object]:
    parent = corpus.folder.parent
    return [
        *("--config", parent / "conf.yaml", "--train_data", corpus.path),
        *("--codebook_path", parent / "codes.h5", "--cv_data", parent / "cv.list"),
        *("--save_path", parent / "student", *more),
    ]


def losses(log: str) -> list[tuple[float, float]]:
    """(ctc, codebook) of each step."""
    found = re.findall(r"ctc_loss (\S+), codebook_loss (\S+)", log)
    return [(float(ctc), float(codebook)) for ctc, codebook in found]


def test_a_student_trains_and_loads_in_transformers_without_k2distil(material, tmp_path):
    log = succeed("train_distil.sh", *flags(material))
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
    assert {codebook for _, codebook in losses(log)} == {0.0}


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_training_goes_on_to_the_same_student(signum, material, tmp_path):
    undisturbed = succeed("train_distil.sh", *flags(material, "--save_path", tmp_path / "one"))
    stopped = flags(material, "--save_path", tmp_path / "two")
    checkpoint = tmp_path / "two" / "checkpoint-4" / "trainer_state.json"
    status, log = interrupt(command("train_distil.sh", *stopped), checkpoint.exists, signum)
    assert status == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[signum], log
    assert "Traceback" not in log, log
    assert not (tmp_path / "two" / "last").exists()
    before = len(losses(log))
    resumed = succeed("train_distil.sh", *stopped)
    assert "going on from" in resumed
    assert losses(resumed) == losses(undisturbed)[12 - len(losses(resumed)) :]
    assert 0 < len(losses(resumed)) <= 12 - min(before, 4)
    one, two = (load_file(tmp_path / n / "last" / "model.safetensors") for n in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_two_processes_train_as_one_with_twice_the_batch(material, tmp_path):
    (tmp_path / "conf.yaml").write_text(WAV2VEC2 + YAML[YAML.index("max_steps") :])
    one = succeed(
        "train_distil.sh",
        *flags(material, "--save_path", tmp_path / "one", "--accumulate_batches", 2),
    )
    two = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            *("-m", "k2distil.bin.train_distil"),
            *map(str, flags(material, "--save_path", tmp_path / "two")),
        ],
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=str(ROOT)),
        cwd=tmp_path,
    )
    assert two.returncode == 0, two.stderr
    np.testing.assert_allclose(losses(two.stderr), losses(one), rtol=2e-3)
    summaries = [
        json.loads((tmp_path / name / "train_distil.summary.json").read_text())["last"]
        for name in ("one", "two")
    ]
    assert summaries[0] == pytest.approx(summaries[1], rel=2e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", ["auto", "float32", "float16"])
def test_a_gpu_trains_and_resumes(dtype, material, tmp_path):
    on_gpu = [*flags(material, "--dtype", dtype), "--gpu", 0]
    checkpoint = tmp_path / "student" / "checkpoint-4" / "trainer_state.json"
    status, log = interrupt(command("train_distil.sh", *on_gpu), checkpoint.exists, signal.SIGTERM)
    assert status == 143, log
    log = succeed("train_distil.sh", *on_gpu)
    assert "going on from" in log
    assert all(np.isfinite(losses(log)).flatten())


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two CUDA devices")
def test_two_gpus_are_a_flag_away(material):
    log = succeed("train_distil.sh", *flags(material), "--gpu", "0,1")
    assert len(losses(log)) == 12


def test_evaluate_says_what_is_wrong_with_a_student(material, tmp_path):
    succeed("train_distil.sh", *flags(material))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "k2distil", "evaluate", "--gpu", "cpu"),
            *("--student_checkpoint", tmp_path / "student" / "last"),
            *("--train_data", tmp_path / "cv.list", "--save_path", tmp_path / "rates.json"),
        ],
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=str(ROOT)),
    )
    assert done.returncode == 0, done.stderr
    rates = json.loads((tmp_path / "rates.json").read_text())
    last = json.loads((tmp_path / "student" / "train_distil.summary.json").read_text())["last"]
    assert (rates["wer"], rates["cer"]) == pytest.approx((last["wer"], last["cer"]))
    assert [row["reference"] for row in sorted(rates["utterances"], key=lambda r: r["key"])] == [
        text_of(index) for index in range(4)
    ]
    assert "REF: " in done.stdout
    assert f"WER {100 * rates['wer']:.2f} %" in done.stdout


def change(corpus: Corpus, index: int, **fields: str) -> None:
    corpus.lines[index] = json.dumps({**json.loads(corpus.lines[index]), **fields})


def rewrite(path, key: str, values: np.ndarray) -> None:
    with h5py.File(path, "a") as file:
        del file[key]
        file[key] = values


CODES = np.zeros((50, 2), np.uint8)


@pytest.mark.parametrize(
    ("spoil", "more", "words"),
    [
        (lambda c, p: change(c, 3, txt=" "), [], ["utt03", '"txt" is empty', "remove"]),
        (
            lambda c, p: (p / "units.txt").write_text("<blank> 0\n<unk> 1\n▁ 2\no 3\nn 4\ne 5\n"),
            ["--vocabulary", "TMP/units.txt"],
            ["utt01", "characters 'hrtw'", "not in the vocabulary"],
        ),
        (
            lambda c, p: change(c, 0, txt="one two three " * 4),
            [],
            ["utt00", "55 tokens", "the audio (0.90 s) gives 23"],
        ),
        (
            lambda c, p: rewrite(p / "codes.h5", "utt05", CODES[:30]),
            [],
            ["utt05", "30 teacher frames", "speed perturbation"],
        ),
        (
            lambda c, p: h5py.File(p / "codes.h5", "a").attrs.__setitem__("codebook_size", 8),
            [],
            ["codes.h5[utt", "a code of 15", "codebooks of 8"],
        ),
        (
            lambda c, p: h5py.File(p / "codes.h5", "a").__delitem__("utt07"),
            [],
            ["no codes for 1 of 20", "utt07", "--missing_codes ignore"],
        ),
        (lambda c, p: None, ["--num_codebooks", 8], ["--num_codebooks 8", "has 2"]),
        (lambda c, p: None, ["--codebook_size", 256], ["--codebook_size 256", "has 16"]),
        (lambda c, p: None, ["--frames_ratio", 4], ["--frames_ratio 4", "it is 2"]),
        (
            lambda c, p: h5py.File(p / "codes.h5", "a").attrs.__setitem__("frame_shift", 0.03),
            [],
            ["every 30 ms", "every 40 ms", "no multiple"],
        ),
        (
            lambda c, p: [change(c, i, key=f"other{i}") for i in range(20)],
            [],
            ["codes for none of the 20", "'utt00'", "'other0'"],
        ),
        (lambda c, p: None, ["--codebook_path", "TMP/absent.h5"], ["absent.h5"]),
        (lambda c, p: None, ["--channel", 1], ["batches without audio", "no channel 1"]),
        (
            lambda c, p: h5py.File(p / "codes.h5", "a").attrs.__setitem__("codebook_size", 8),
            ["--num_workers", 1],
            ["codes.h5[utt", "a code of 15"],
        ),
        (
            lambda c, p: (p / "conf.yaml").write_text("encoder_conf: {}\ndataset_conf: {}\n"),
            [],
            ["a WeNet yaml describes a teacher"],
        ),
        (
            lambda c, p: (p / "conf.yaml").write_text("gpu: cpu\n"),
            ["--student_checkpoint", "TMP/student/best"],
            ["--student_checkpoint", "in --save_path"],
        ),
        (lambda c, p: None, ["--learning_rate", 1e30], ["not a number at step", "--learning_rate"]),
        (lambda c, p: None, ["--student_layer", 3], ["--student_layer 3", "2 layers"]),
        (
            lambda c, p: (p / "conf.yaml").write_text(YAML.format(dropout="hiden_size: 3")),
            [],
            ["student.encoder_config.hiden_size", "did you mean hidden_size"],
        ),
        (
            lambda c, p: (p / "conf.yaml").write_text("student: {model_type: whisper}\n"),
            ["--gpu", "cpu"],
            ["model_type whisper", "parakeet_ctc"],
        ),
    ],
)
def test_bad_input_is_named(spoil, more, words, material, tmp_path, capfd):
    spoil(material, tmp_path)
    more = [str(each).replace("TMP", str(tmp_path)) for each in more]
    assert main([str(each) for each in flags(material, *more)]) == 2
    log = capfd.readouterr().err
    assert "Traceback" not in log
    for word in words:
        assert word in log, log


def test_bad_utterances_can_be_left_out_and_are_listed(material, tmp_path):
    change(material, 3, txt="")
    (material.folder / "utt04.wav").write_bytes(b"RIFF no wav")
    done = run("train_distil.sh", *flags(material, "--bad_utterances", "skip"))
    assert done.returncode == 1, done.stderr
    table = (tmp_path / "student" / "train_distil.failed.tsv").read_text()
    assert "utt04" in table
    assert "utt03" in (tmp_path / "student" / "train_distil.dropped.tsv").read_text()
    assert (tmp_path / "student" / "last" / "model.safetensors").exists()


def test_a_full_disk_is_named_and_the_training_goes_on_afterwards(material, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small]).returncode:
        pytest.skip("needs to mount a small disk")
    try:
        room = (small / "room").open("wb")
        room.write(bytes(1_400_000))
        room.close()
        stopped = flags(material, "--save_path", small / "student")
        done = run("train_distil.sh", *stopped)
        assert done.returncode == 2, done.stderr
        assert "no room" in done.stderr
        (small / "room").unlink()
        log = succeed("train_distil.sh", *stopped)
        assert len(losses(log)) <= 12
        assert (small / "student" / "last" / "model.safetensors").exists()
    finally:
        subprocess.run(["umount", small], check=True)


def test_two_runs_never_write_one_folder(material, tmp_path):
    running = command("train_distil.sh", *flags(material, "--max_steps", 4000))
    process = subprocess.Popen(running, stderr=subprocess.DEVNULL, env=environment())
    try:
        while not (tmp_path / "student" / "checkpoint-4" / "trainer_state.json").exists():
            assert process.poll() is None
            time.sleep(0.05)
        done = run("train_distil.sh", *flags(material, "--max_steps", 4000))
        assert done.returncode == 2, done.stderr
        assert "another run is writing this output" in done.stderr
    finally:
        process.kill()
        process.wait()


def test_other_settings_are_refused_and_force_starts_over(material, tmp_path):
    succeed("train_distil.sh", *flags(material))
    done = run("train_distil.sh", *flags(material, "--learning_rate", "0.01"))
    assert done.returncode == 2
    assert "learning_rate: 0.001 there, 0.01 now" in done.stderr
    succeed("train_distil.sh", *flags(material, "--learning_rate", "0.01", "--force"))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    done = run("train_distil.sh", *flags(material, "--save_path", tmp_path / "thesis", "--force"))
    assert done.returncode == 2
    assert "not made by train_distil.sh" in done.stderr


def test_a_student_goes_on_from_a_folder(material, tmp_path):
    succeed("train_distil.sh", *flags(material, "--max_steps", 4))
    conf = (tmp_path / "conf.yaml").read_text()
    (tmp_path / "conf.yaml").write_text("max_steps" + conf.split("max_steps")[1])
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
