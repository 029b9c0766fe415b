"""k2distil export, as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from k2distil.config import ExportConfig
from k2distil.errors import ConfigError, DataError
from k2distil.pipeline.export import export as run_export
from k2distil.quantizer import (
    AdditiveQuantizer,
    Correction,
    ProductQuantizer,
    load_quantizer,
    save_quantizer,
)
from tests.storage.arrays import make_h5

ROOT = Path(__file__).parents[2]


def export(quantizer_path, save_path, *flags):
    command = [sys.executable, "-m", "k2distil", "export", "--to", "multi_quantization"]
    paths = ["--quantizer_path", str(quantizer_path), "--save_path", str(save_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *paths, *flags], capture_output=True, text=True, cwd=ROOT, env=environment
    )


def quantizer_file(path, seed, num_codebooks=4):
    """A product quantizer of random slices, and its file."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.zeros(num_codebooks, 16, 12)
    for n, axes in enumerate(torch.arange(12).chunk(num_codebooks)):
        table[n, :, axes] = torch.randn(16, len(axes), generator=generator)
    quantizer = ProductQuantizer(table, torch.full((12,), 3.0), torch.tensor(2.0))
    save_quantizer(quantizer, path)
    return quantizer


def test_the_file_is_loaded_as_icefall_does_and_gives_our_codes(tmp_path):
    multi_quantization = pytest.importorskip("multi_quantization")
    quantizer = quantizer_file(tmp_path / "quantizer.pt", seed=0)
    save_path = tmp_path / "new" / "icefall.pt"
    done = export(tmp_path, save_path)  # the folder stands for the file inside
    assert done.returncode == 0, done.stderr
    assert "Quantizer(dim=12, codebook_size=16, num_codebooks=4)" in done.stderr
    package = multi_quantization.Quantizer(dim=12, num_codebooks=4, codebook_size=16)
    package.load_state_dict(torch.load(save_path))
    frames = 3 + 2 * torch.randn(1000, 12, generator=torch.Generator().manual_seed(1))
    codes = package.encode(frames, refine_indexes_iters=0, as_bytes=False)
    assert (codes == quantizer.encode(frames)).float().mean() >= 0.999
    summary = json.loads((tmp_path / "new" / "icefall.pt.summary.json").read_text())
    assert summary["quantizer_id"] == quantizer.id
    assert package.get_id() == quantizer.id[:8]
    assert load_quantizer(save_path).provenance == {"multi_quantization_id": quantizer.id[:8]}


@pytest.mark.parametrize(
    "flags", [["--field", "codes"], ["--shar", "s"], ["--cuts_path", "c"], ["--dtype", "int16"]]
)
def test_options_of_another_target_are_refused_by_name(tmp_path, flags):
    quantizer_file(tmp_path / "a.pt", seed=0)
    done = export(tmp_path / "a.pt", tmp_path / "icefall.pt", *flags)
    assert done.returncode == 2
    assert f"error: {flags[0]}: not for --to multi_quantization; leave it out" in done.stderr
    assert not (tmp_path / "icefall.pt").exists()


def test_a_quantizer_must_be_given(tmp_path):
    with pytest.raises(ConfigError, match="--quantizer_path: missing, --to multi_quantization"):
        run_export(config(None, tmp_path / "icefall.pt"))


def test_codes_are_exported_for_lhotse_and_what_has_none_gives_exit_status_1(tmp_path):
    lhotse = pytest.importorskip("lhotse")
    codes = np.random.default_rng(0).integers(0, 256, (50, 8), np.uint8)
    make_h5(tmp_path / "codes.h5", {"utt1": codes})
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    lines = [json.dumps({"key": key, "wav": "a.wav"}) for key in ("utt1", "utt2")]
    (tmp_path / "data.list").write_text("\n".join(lines))
    command = [sys.executable, "-m", "k2distil", "export", "--to", "lhotse"]
    paths = {"--codebook_path": "codes.h5", "--train_data": "data.list", "--save_path": "c.jsonl"}
    flags = [text for flag, name in paths.items() for text in (flag, str(tmp_path / name))]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1, done.stderr
    assert "1 written, 1 failed" in done.stderr
    (cut,) = lhotse.CutSet.from_file(tmp_path / "c.jsonl")
    assert np.array_equal(cut.load_codebook_indexes(), codes)


def config(quantizer_path, save_path, force=False):
    return ExportConfig(
        to="multi_quantization", quantizer_path=quantizer_path, save_path=save_path, force=force
    )


def test_nothing_is_replaced_silently(tmp_path):
    quantizer_file(tmp_path / "a.pt", seed=0)
    quantizer_file(tmp_path / "b.pt", seed=1)
    save_path = tmp_path / "icefall.pt"
    run_export(config(tmp_path / "a.pt", save_path))
    first, age = save_path.read_bytes(), save_path.stat().st_mtime_ns
    run_export(config(tmp_path / "a.pt", save_path))
    assert save_path.stat().st_mtime_ns == age
    with pytest.raises(DataError, match=r"icefall.pt: made with other settings .*--force"):
        run_export(config(tmp_path / "b.pt", save_path))
    assert save_path.read_bytes() == first
    run_export(config(tmp_path / "b.pt", save_path, force=True))
    assert save_path.read_bytes() != first


def test_an_export_without_its_summary_is_complete_but_not_replaced(tmp_path):
    quantizer_file(tmp_path / "a.pt", seed=0)
    quantizer_file(tmp_path / "b.pt", seed=1)
    save_path = tmp_path / "icefall.pt"
    run_export(config(tmp_path / "a.pt", save_path))
    (tmp_path / "icefall.pt.summary.json").unlink()
    assert run_export(config(tmp_path / "a.pt", save_path)).num_failed == 0
    with pytest.raises(DataError, match="not made by k2distil export, never replaced"):
        run_export(config(tmp_path / "b.pt", save_path, force=True))


@pytest.mark.parametrize("force", [False, True])
def test_a_file_of_another_program_is_never_replaced(tmp_path, force):
    quantizer_file(tmp_path / "a.pt", seed=0)
    (tmp_path / "other.pt").write_text("precious")
    with pytest.raises(DataError, match=r"other.pt: not made by k2distil export"):
        run_export(config(tmp_path / "a.pt", tmp_path / "other.pt", force))
    assert (tmp_path / "other.pt").read_text() == "precious"


def test_the_quantizer_itself_is_no_output(tmp_path):
    quantizer_file(tmp_path / "a.pt", seed=0)
    with pytest.raises(ConfigError, match="an input of this command"):
        run_export(config(tmp_path / "a.pt", tmp_path / "a.pt", force=True))


def test_what_cannot_be_exported_is_one_line_with_the_remedy(tmp_path):
    quantizer_file(tmp_path / "a.pt", seed=0, num_codebooks=3)
    done = export(tmp_path / "a.pt", tmp_path / "icefall.pt")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "a.pt: quantizer_out_dim 3: multi_quantization has powers of two only" in errors[0]
    assert not (tmp_path / "icefall.pt").exists()


def test_few_entries_are_exported_with_a_warning(tmp_path, caplog):
    save_quantizer(
        ProductQuantizer(torch.randn(2, 4, 8), torch.zeros(8), torch.ones(())), tmp_path / "a.pt"
    )
    run_export(config(tmp_path / "a.pt", tmp_path / "icefall.pt"))
    assert "refine_indexes_iters=0 only" in caplog.text


def test_a_correction_stays_behind_with_a_warning(tmp_path, caplog):
    generator = torch.Generator().manual_seed(0)
    quantizer = AdditiveQuantizer(
        torch.randn(2, 16, 8, generator=generator), torch.ones(8), torch.tensor(2.0)
    )
    quantizer.correction = Correction(8)
    torch.nn.init.ones_(quantizer.correction.outer.bias)
    save_quantizer(quantizer, tmp_path / "a.pt")
    run_export(config(tmp_path / "a.pt", tmp_path / "icefall.pt"))
    assert "the correction that k2distil's decode adds has no place" in caplog.text
    codes = torch.randint(16, (100, 2), generator=generator)
    exported = load_quantizer(tmp_path / "icefall.pt").decode(codes)
    assert torch.allclose(exported, quantizer.decode(codes, corrected=False), atol=1e-5)
    assert torch.allclose(exported + 2, quantizer.decode(codes), atol=1e-5)
