"""Exports that end between what they write and its summary, by a kill or a full disk."""

import errno
import os
import shutil

import h5py
import pytest
import torch

from k2distil.config import ExportConfig
from k2distil.errors import ConfigError, DataError
from k2distil.pipeline.export import export
from k2distil.quantizer import AdditiveQuantizer, save_quantizer
from tests.pipeline.outputs import random_codes, write_list, write_output


@pytest.fixture
def cuts(tmp_path):
    pytest.importorskip("lhotse")
    write_output(tmp_path / "codes.h5", random_codes())
    return {
        "to": "lhotse",
        "codebook_path": tmp_path / "codes.h5",
        "train_data": (write_list(tmp_path),),
        "save_path": tmp_path / "cuts.jsonl",
    }


@pytest.fixture
def package(tmp_path):
    for seed, name in enumerate(("quantizer.pt", "other.pt")):
        table = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(seed))
        save_quantizer(AdditiveQuantizer(table, torch.zeros(8), torch.ones(())), tmp_path / name)
    return {
        "to": "multi_quantization",
        "quantizer_path": tmp_path / "quantizer.pt",
        "save_path": tmp_path / "icefall.pt",
    }


def interrupted(options, name):
    """Run an export that cannot give its file, or its summary, the name."""
    replace = os.replace

    def full(source, target):
        if os.path.basename(target) == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(DataError, match="no room"):
            export(ExportConfig(**options))


@pytest.mark.parametrize("suffix", ["", ".summary.json"])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [("cuts", {"field": "codes"}), ("package", {"quantizer_path": "other.pt"})],
)
def test_the_same_command_completes_it(kind, changes, suffix, request, tmp_path):
    options = request.getfixturevalue(kind)
    save_path = options["save_path"]
    interrupted(options, save_path.name + suffix)
    export(ExportConfig(**options))
    first = save_path.read_bytes()
    if "quantizer_path" in changes:
        changes = {"quantizer_path": tmp_path / changes["quantizer_path"]}
    others = {**options, **changes, "force": True}
    interrupted(others, save_path.name + suffix)
    assert save_path.read_bytes() == first
    export(ExportConfig(**others))
    assert save_path.read_bytes() != first
    interrupted({**options, "force": True}, save_path.name + suffix)
    export(ExportConfig(**options, force=True))
    assert save_path.read_bytes() == first


def test_what_is_not_whole_is_not_complete_already(cuts, caplog):
    caplog.set_level("INFO")
    export(ExportConfig(**cuts))
    interrupted({**cuts, "field": "codes", "force": True}, "cuts.jsonl")
    export(ExportConfig(**cuts, field="codes", force=True))
    assert "complete already" not in caplog.text
    assert '"codes"' in cuts["save_path"].read_text()


def test_a_copy_of_codes_knows_what_was_dropped(cuts, tmp_path):
    dropped = "key\twav\treason\ne\te.wav\tlonger than 30 s\n"
    (tmp_path / "codes.h5.dropped.tsv").write_text(dropped)
    export(ExportConfig(**cuts, dtype="int16"))
    assert (tmp_path / "codes.int16.h5.dropped.tsv").read_text() == dropped


def shards_in(folder):
    from lhotse import CutSet

    return [cut.id for cut in CutSet.from_shar(in_dir=folder)]


def test_shards_that_ended_before_they_were_there_are_written_then(cuts, tmp_path, monkeypatch):
    from lhotse import CutSet

    def fail(*_args, **_options):
        raise RuntimeError("a cut,\n" * 1000)

    shar = tmp_path / "shar"
    shar.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(CutSet, "to_shar", fail)
        with pytest.raises(
            DataError, match=r"lhotse cannot write the shards \(a cut, a "
        ) as caught:
            export(ExportConfig(**cuts, shar=shar))
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)
    export(ExportConfig(**cuts, shar=shar))
    assert shards_in(shar) == list("abcd")


def test_shards_stay_where_what_had_failed_fails_again(cuts, tmp_path):
    options = ExportConfig(**cuts, shar=tmp_path / "shar")
    whole = (tmp_path / "b.wav").read_bytes()
    (tmp_path / "b.wav").unlink()
    for _ in range(2):
        assert export(options).num_failed == 1
        assert shards_in(tmp_path / "shar") == list("acd")
    before = cuts["save_path"].read_bytes()
    (tmp_path / "b.wav").write_bytes(whole)
    with pytest.raises(DataError, match="shar: there already, of the cuts before"):
        export(options)
    assert cuts["save_path"].read_bytes() == before
    shutil.rmtree(tmp_path / "shar")
    assert export(options).num_failed == 0
    assert shards_in(tmp_path / "shar") == list("abcd")


def test_a_copy_is_told_of_when_it_is_there(cuts, caplog):
    caplog.set_level("INFO")
    interrupted({**cuts, "dtype": "int16"}, "codes.int16.h5")
    assert "the same codes in int16" not in caplog.text
    export(ExportConfig(**cuts, dtype="int16"))
    assert "codes.int16.h5: the same codes in int16" in caplog.text


def test_a_copy_that_is_gone_is_made_again(cuts, tmp_path):
    export(ExportConfig(**cuts, dtype="int16"))
    copy = (tmp_path / "codes.int16.h5").read_bytes()
    (tmp_path / "codes.int16.h5").unlink()
    export(ExportConfig(**cuts, dtype="int16"))
    assert (tmp_path / "codes.int16.h5").read_bytes() == copy


def test_codes_of_others_that_change_are_not_complete_already(cuts, tmp_path):
    codes = random_codes()
    with h5py.File(tmp_path / "codes.h5", "w") as file:
        file.attrs.update(frame_shift=0.02, num_codebooks=4)
        for key, each in codes.items():
            file[key] = each
    (tmp_path / "a.wav").unlink()
    for _ in range(2):  # its own copy is known again
        assert export(ExportConfig(**cuts, dtype="int16")).num_failed == 1
    with h5py.File(tmp_path / "codes.h5", "r+") as file:
        del file["b"]
        file["b"] = codes["b"][:-1]
    with pytest.raises(DataError, match=r"made with other settings \(codes: "):
        export(ExportConfig(**cuts, dtype="int16"))
    export(ExportConfig(**cuts, dtype="int16", force=True))
    assert '"shape": [34, 4]' in cuts["save_path"].read_text()


def test_shards_come_later_and_into_a_folder_of_their_own(cuts, tmp_path):
    first = export(ExportConfig(**cuts))
    age = cuts["save_path"].stat().st_mtime_ns
    export(ExportConfig(**cuts, shar=tmp_path / "shar"))  # no other settings of the cuts
    assert shards_in(tmp_path / "shar") == list("abcd")
    export(ExportConfig(**cuts))
    assert cuts["save_path"].stat().st_mtime_ns == age
    assert export(ExportConfig(**cuts, shar=tmp_path / "shar")).figures["shar"] == str(
        tmp_path / "shar"
    )
    assert first.figures["shar"] is None
    with pytest.raises(ConfigError, match="--save_path lies in it"):
        export(ExportConfig(**cuts, shar=tmp_path))


def test_shards_of_before_are_not_those_of_other_cuts(cuts, tmp_path):
    shar, wav = tmp_path / "shar", tmp_path / "b.wav"
    whole = wav.read_bytes()
    wav.unlink()
    assert export(ExportConfig(**cuts, shar=shar)).num_failed == 1
    wav.write_bytes(whole)
    assert export(ExportConfig(**cuts)).figures["written"] == 4
    with pytest.raises(ConfigError, match="there already; give a new or empty folder"):
        export(ExportConfig(**cuts, shar=shar))
    export(ExportConfig(**cuts, shar=tmp_path / "new"))
    export(ExportConfig(**cuts, field="other", force=True))
    with pytest.raises(ConfigError, match="there already"):
        export(ExportConfig(**cuts, field="other", shar=tmp_path / "new"))
