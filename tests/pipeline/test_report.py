"""k2distil report on real files; on a real student: tests/scripts/test_train_distil.py."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from k2distil.config import ReportConfig
from k2distil.errors import CheckpointError, ConfigError, DataError
from k2distil.pipeline.report import report
from k2distil.quantizer import Correction, ProductQuantizer, load_quantizer, save_quantizer
from tests.pipeline.outputs import EMBEDDING, random_codes, random_embedding, write_output


def page_of(folder: Path, *paths: Path) -> str:
    save_path = folder / "report.html"
    report(ReportConfig(path=paths, save_path=save_path))
    return save_path.read_text(encoding="utf-8")


def quantizer_in(folder: Path, figures: dict[str, object]) -> Path:
    table = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    quantizer = ProductQuantizer(table, torch.zeros(6), torch.tensor(1.0))
    quantizer.figures = figures
    save_quantizer(quantizer, folder / "quantizer.pt")
    return folder / "quantizer.pt"


def test_a_quantizer_and_codes_have_a_section_each(tmp_path: Path) -> None:
    figures = {"relative_error": 0.25, "dead_codes": 3, "error_by_num_codebooks": [0.5, 0.25]}
    quantizer = quantizer_in(tmp_path, figures)
    codes = random_codes()
    for values in codes.values():
        values[:, 0] = 7
    h5 = write_output(tmp_path / "codes.h5", codes)
    page = page_of(tmp_path, quantizer, h5)
    assert page.index(f"<h2>{quantizer}</h2>") < page.index(f"<h2>{h5}</h2>")
    assert "A product quantizer: 2 codebooks of 4 entries, for frames of 6 dimensions." in page
    assert "<td>relative_error</td><td>0.25</td>" in page
    assert "3 entries are used by no frame" in page
    assert page.count("<svg") == 4  # errors, durations, usage, codes
    assert "<td>utterances</td><td>4</td>" in page
    unused = sum(
        (np.bincount(c, minlength=200) == 0).sum() for c in np.concatenate([*codes.values()]).T
    )
    assert f"{unused:,} of 800 entries come in no utterance" in page


def test_the_curve_of_errors_says_where_it_has_no_correction(tmp_path: Path) -> None:
    path = quantizer_in(tmp_path, {"error_by_num_codebooks": [0.5, 0.25]})
    assert "(--num_codebooks_used)." in page_of(tmp_path, path)
    quantizer = load_quantizer(path)
    quantizer.correction = Correction(6)
    save_quantizer(quantizer, path)
    assert "(--num_codebooks_used), without the correction." in page_of(tmp_path, path)


def test_names_that_are_not_utf_8_are_escaped(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode("中".encode("gbk"))
    folder.mkdir()
    page = page_of(tmp_path, quantizer_in(folder, {}))
    assert r"\udcd6\udcd0/quantizer.pt</h2>" in page


def test_what_failed_is_listed(tmp_path: Path) -> None:
    h5 = write_output(tmp_path / "embedding.h5", random_embedding(), EMBEDDING)
    rows = "".join(f"utt{n}\tutt{n}.wav\tno <such> file\n" for n in range(30))
    (tmp_path / "embedding.h5.failed.tsv").write_text("key\twav\treason\n" + rows)
    page = page_of(tmp_path, h5)
    assert "30 utterances failed" in page
    assert "<td>utt19</td><td>no &lt;such&gt; file</td>" in page
    assert "utt20" not in page
    assert "<td>standard deviation</td>" in page


@pytest.mark.parametrize(("nats", "learnt"), [(5.0, False), (2.0, True)])
def test_a_student_that_learns_nothing_of_the_codes_shows(tmp_path, nats, learnt) -> None:
    student = tmp_path / "student"
    for start, steps in [("one", (10, 20)), ("two", (20, 30))]:  # killed and gone on with
        with SummaryWriter(str(student / "runs" / start)) as writer:
            for step in steps:
                writer.add_scalar("train/ctc_loss", 1.0, step)
                writer.add_scalar("eval/wer", 0.5, step)
                writer.add_scalar("eval/codebook_cross_entropy", nats, step)
                writer.add_scalar("eval/codebook_entropy", 5.1, step)
    (student / "train_distil.json").write_text("{}")
    page = page_of(tmp_path, student)
    assert "The training is not complete." in page
    assert ("hardly anything" not in page) == learnt
    assert page.count("<svg") == 3
    figures = {"steps": 30, "best": {"step": 20, "wer": 0.5, "cer": 0.25}}
    figures["last"] = {"wer": 0.6, "cer": 0.3, "codebook_0_accuracy": 0.5}
    (student / "train_distil.summary.json").write_text(json.dumps(figures))
    for kind in ("failed", "dropped"):
        row = f"utt-{kind}\t{kind}.wav\ttoo {kind}\n"
        (student / f"train_distil.{kind}.tsv").write_text(f"key\twav\treason\n{row}")
    page = page_of(tmp_path, student)
    for kind in ("failed", "dropped"):
        assert f"<td>utt-{kind}</td><td>too {kind}</td>" in page
    assert "1 utterance failed; put this right" in page
    assert "1 utterance dropped" in page
    assert "not complete" not in page
    assert "<td>best</td><td>50.00 %</td><td>25.00 %</td><td>20</td>" in page
    assert page.count("<svg") == 4


def test_the_same_outputs_make_the_same_page(tmp_path: Path) -> None:
    h5 = write_output(tmp_path / "codes.h5", random_codes())
    assert page_of(tmp_path, h5) == page_of(tmp_path, h5)  # over the older one


def test_nothing_that_is_no_report_is_replaced(tmp_path: Path) -> None:
    h5 = write_output(tmp_path / "codes.h5", random_codes())
    (tmp_path / "report.html").write_text("<html>my own")
    with pytest.raises(ConfigError, match=r"report\.html: is there, and is no report; move it"):
        page_of(tmp_path, h5)
    assert (tmp_path / "report.html").read_text() == "<html>my own"
    before = h5.read_bytes()
    with pytest.raises(ConfigError, match="an input of this command"):
        report(ReportConfig(path=(h5,), save_path=h5))
    assert h5.read_bytes() == before


def test_what_cannot_be_shown_is_named_and_leaves_no_page(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'no.h5'}: no such file")):
        page_of(tmp_path, tmp_path / "no.h5")
    (tmp_path / "text.pt").write_text("text")
    best = tmp_path / "student" / "best"
    best.mkdir(parents=True)
    message = "best: a folder without quantizer.pt; --path takes .* --save_path of a student"
    with pytest.raises(DataError, match=message):
        page_of(tmp_path, best)
    with pytest.raises(CheckpointError, match=r"text\.pt: not a quantizer.*; --path takes"):
        page_of(tmp_path, tmp_path / "text.pt")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("content", ["key\twav\n".encode("utf-16"), b"a\tb\n1\t2\n"])
def test_a_table_that_another_program_saved_is_named(tmp_path: Path, content: bytes) -> None:
    h5 = write_output(tmp_path / "codes.h5", random_codes())
    (tmp_path / "codes.h5.failed.tsv").write_bytes(content)
    with pytest.raises(DataError, match=r"codes\.h5\.failed\.tsv: not as it was written"):
        page_of(tmp_path, h5)
