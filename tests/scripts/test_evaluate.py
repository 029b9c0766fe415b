"""k2distil evaluate on the student of a real training."""

import json
import subprocess
import sys

import pytest
import soundfile
import torch

from k2distil.bin.main import main
from k2distil.distil.scoring import Transcript, error_rates
from k2distil.errors import DataError
from tests.scripts.conftest import (
    ROOT,
    environment,
    speech,
    succeed,
)
from tests.scripts.student_material import flags, text_of


def raiser(error):
    def fail(*_args):
        raise error

    return fail


def test_evaluate_says_what_is_wrong_with_a_student(
    material, tmp_path, caplog, capsys, monkeypatch
):
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
    from transformers import AutoModelForCTC, AutoProcessor  # behind k2distil's own import

    folder = tmp_path / "student" / "last"
    model = AutoModelForCTC.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    for row in rates["utterances"]:
        samples, rate = soundfile.read(material.folder / f"{row['key']}.wav", dtype="float32")
        inputs = processor(samples, sampling_rate=rate, return_tensors="pt")
        assert processor.batch_decode(model.generate(**inputs))[0] == row["hypothesis"]
    assert "REF: " in done.stdout
    assert f"WER {100 * rates['wer']:.2f} %" in done.stdout
    student = ["--gpu", "cpu", "--num_workers", "0"]
    student += ["--student_checkpoint", str(tmp_path / "student" / "last")]
    assert main(["evaluate", *student, "--train_data", str(material.path)]) == 0
    assert "8 of 20 utterances have no text: left out; with --save_path" in caplog.text
    heard = tmp_path / "heard.json"
    of_all = ["--train_data", str(material.path), "--save_path", str(heard)]
    capsys.readouterr()
    assert main(["evaluate", *student, *of_all]) == 0
    assert ", 20 utterances (8 without text), 0 failed" in capsys.readouterr().out
    of_both = json.loads(heard.read_text())
    of_text = [each for each in of_both["utterances"] if each["reference"]]
    assert (len(of_text), len(of_both["utterances"])) == (12, 20)
    assert of_both["wer"] == error_rates([Transcript(**each) for each in of_text])["wer"]
    more = [*student, "--train_data", str(tmp_path / "cv.list"), "--save_path"]
    assert main(["evaluate", *more, str(tmp_path / "rates.json")]) == 0
    caplog.clear()

    with monkeypatch.context() as patch:
        patch.setattr("k2distil.pipeline.evaluate.write_json", raiser(DataError("no room")))
        assert main(["evaluate", *more, str(tmp_path / "rates.json")]) == 2
    assert f"WER {100 * rates['wer']:.2f} %" in caplog.text  # the work is not lost
    for error in (
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        torch.OutOfMemoryError("CUDA out of memory."),
    ):
        with monkeypatch.context() as patch:
            patch.setattr("k2distil.pipeline.evaluate.transcribe", raiser(error))
            assert main(["evaluate", *more, str(tmp_path / "rates.json")]) == 2
    before = (tmp_path / "codes.h5").read_bytes()
    assert main(["evaluate", *more, str(tmp_path / "codes.h5")]) == 2
    assert (tmp_path / "codes.h5").read_bytes() == before
    material.lines[:] = material.lines[12:]  # those without text
    capsys.readouterr()
    assert main(["evaluate", *student, "--train_data", str(material.path)]) == 2
    assert "no utterance has text" in capsys.readouterr().err
    assert main(["evaluate", *student, *of_all]) == 0
    assert "data.list: 8 utterances (8 without text), 0 failed" in capsys.readouterr().out
    alone = json.loads(heard.read_text())
    assert alone.keys() == {"failed", "utterances", "left_out"}
    assert alone["utterances"] == [each for each in of_both["utterances"] if not each["reference"]]
    material.add("short", speech(0.0125))
    assert main(["evaluate", *student, "--train_data", str(material.path), *of_all[2:]]) == 1
