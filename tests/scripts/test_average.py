"""k2distil average on checkpoints of a real training."""

import json
import re
import shutil

import torch
from safetensors.torch import load_file, save_file

from k2distil.bin.main import main
from k2distil.distil.codebook_head import HEAD_FILE
from tests.scripts.conftest import k2distil, succeed
from tests.scripts.student_material import flags


def refused(capfd, *arguments: object) -> str:
    assert main(["average", *map(str, arguments)]) == 2
    return capfd.readouterr().err


def test_the_mean_of_the_latest_checkpoints_is_a_student(material, tmp_path):
    log = succeed("train_distil.sh", *flags(material, "--keep_checkpoints", 3))
    assert "last at step 12" in log
    student, save_path = tmp_path / "student", tmp_path / "mean"
    kept = sorted(int(each.name.split("-")[1]) for each in student.glob("checkpoint-*"))
    assert kept == [4, 8, 12]
    several = ["--student_checkpoint", student, "--num_checkpoints", 3, "--save_path", save_path]
    k2distil("average", *several)
    each = [load_file(student / f"checkpoint-{step}" / "model.safetensors") for step in kept]
    mean = load_file(save_path / "model.safetensors")
    last = load_file(student / "last" / "model.safetensors")
    assert mean.keys() == last.keys()
    assert any(not torch.equal(mean[name], last[name]) for name in mean)
    for name, tensor in mean.items():
        parts = [one[f"student.{name}"] for one in each]
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, torch.stack(parts).mean(0), rtol=1e-5, atol=1e-7)
        else:
            assert torch.equal(tensor, parts[-1])
    k2distil(
        *("evaluate", "--student_checkpoint", save_path, "--train_data", tmp_path / "cv.list"),
        *("--gpu", "cpu", "--save_path", tmp_path / "rates.json"),
    )
    assert len(json.loads((tmp_path / "rates.json").read_text())["utterances"]) == 4
    head = load_file(save_path / HEAD_FILE)
    for name, tensor in head.items():
        parts = [one[f"codebook_loss.{name}"] for one in each]
        torch.testing.assert_close(tensor, torch.stack(parts).mean(0), rtol=1e-5, atol=1e-7)
    more = ["--student_checkpoint", save_path, "--save_path", tmp_path / "more", "--max_steps", 1]
    config = tmp_path / "conf.yaml"
    config.write_text(re.sub(r"student:\n(  .*\n)+", "", config.read_text()))
    log = succeed("train_distil.sh", *flags(material, *more, "--warmup_steps", 0))
    assert f"what predicts the codes goes on from {save_path}" in log


def test_what_cannot_be_averaged_is_told(material, tmp_path, capfd):
    succeed("train_distil.sh", *flags(material))
    student = tmp_path / "student"
    given = ["--student_checkpoint", student, "--save_path", tmp_path / "mean"]
    few = "has 2 of --num_checkpoints 5; give --num_checkpoints 2, or train into another"
    assert few in refused(capfd, *given, "--num_checkpoints", 5)
    assert "best: there already; give another" in refused(capfd, *given[:3], student / "best")
    of_best = ["--student_checkpoint", student / "best", *given[2:]]
    assert "no checkpoints in it; give the --save_path" in refused(capfd, *of_best)
    weights = student / "checkpoint-8" / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.startswith("student."))
    save_file({key: each for key, each in tensors.items() if key != name}, weights)
    assert "checkpoint-8: of another student than" in refused(capfd, *given)
    weights.write_bytes(b"no weights")
    assert "has 1 of --num_checkpoints 2" in refused(capfd, *given, "--num_checkpoints", 2)
    shutil.rmtree(student / "best")
    shutil.rmtree(student / "last")
    assert "student: no student in it yet, neither best/ nor last/" in refused(
        capfd, *given, "--num_checkpoints", 1
    )
    assert not (tmp_path / "mean").exists()
