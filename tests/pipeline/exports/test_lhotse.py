"""k2distil export --to lhotse, judged by lhotse itself."""

import os
import sys
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from k2distil.errors import ConfigError, DataError
from k2distil.pipeline.export import export
from k2distil.pipeline.run.rejections import read_rejections
from tests.pipeline.exports.conftest import SECONDS, config, exported, saved, some_cuts
from tests.storage.arrays import make_h5

lhotse = pytest.importorskip("lhotse")
collate_custom_field = pytest.importorskip("lhotse.dataset.collation").collate_custom_field


def test_cuts_made_of_a_list_load_the_codes_of_their_key(corpus, arrays):
    cuts, summary = exported(corpus)
    assert [cut.id for cut in cuts] == list(arrays)
    assert (summary.num_failed, summary.figures["written"]) == (0, 3)
    for cut in cuts:
        codes = cut.load_codebook_indexes()
        assert codes.dtype == np.uint8
        assert np.array_equal(codes, arrays[cut.id])
        assert cut.duration == SECONDS[cut.id]
        assert cut.load_audio().shape == (1, int(16_000 * SECONDS[cut.id]))
        assert cut.supervisions[0].text == f"text of {cut.id}"
        assert cut.codebook_indexes.array.storage_path == str(corpus / "codes.h5")
        assert cut.codebook_indexes.frame_shift == 0.02
    assert not list(corpus.glob("*int16*"))


def test_cuts_point_into_the_file_of_several_that_has_their_codes(corpus, arrays):
    (corpus / "codes.h5").unlink()
    make_h5(corpus / "codes.h5", arrays, shard_hours=160 * 0.02 / 3600)
    cuts, _ = exported(corpus, shar=corpus / "shar")
    names = {Path(cut.codebook_indexes.array.storage_path).name for cut in cuts}
    assert names == {"codes-00000.h5", "codes-00001.h5"}
    for cut in (*cuts, *lhotse.CutSet.from_shar(in_dir=corpus / "shar")):
        assert np.array_equal(cut.load_codebook_indexes(), arrays[cut.id])
    again, _ = exported(corpus, dtype="int16", save_path=corpus / "again.jsonl.gz")
    assert {Path(cut.codebook_indexes.array.storage_path).name for cut in again} == {
        "codes.int16.h5"
    }
    for cut in again:
        assert np.array_equal(cut.load_codebook_indexes(), arrays[cut.id])


def test_a_batch_is_padded_with_minus_100(corpus, arrays):
    codes, lengths = collate_custom_field(exported(corpus)[0], "codebook_indexes", pad_value=-100)
    assert codes.dtype == torch.int64
    assert lengths.tolist() == [50, 100, 25]
    for row, key, num in zip(codes, arrays, lengths, strict=True):
        assert np.array_equal(row[:num], arrays[key])
        assert (row[num:] == -100).all()


def test_truncated_cuts_and_windows_load_their_own_part(corpus, arrays):
    cuts, _ = exported(corpus)
    for cut in cuts:
        part = cut.truncate(offset=0.1, duration=0.2)
        assert np.array_equal(part.load_codebook_indexes(), arrays[cut.id][5:15])
    first, second = cuts["utt1"].cut_into_windows(0.5)
    assert np.array_equal(first.load_codebook_indexes(), arrays["utt1"][:25])
    assert np.array_equal(second.load_codebook_indexes(), arrays["utt1"][25:])


def test_padded_cuts_need_int16_to_hold_minus_100(corpus, arrays):
    cuts, _ = exported(corpus, dtype="int16")
    padded = cuts["utt3"].pad(duration=1.0, pad_value_dict={"codebook_indexes": -100})
    codes = padded.load_codebook_indexes()
    assert codes.dtype == np.int16
    assert np.array_equal(codes[:25], arrays["utt3"])
    assert (codes[25:] == -100).all()
    with h5py.File(corpus / "codes.int16.h5") as file:
        assert file.attrs["frame_shift"] == 0.02
        assert set(file) == set(arrays)


def test_cuts_that_are_there_are_joined_by_id_and_keep_what_they_have(corpus, arrays):
    source = saved(some_cuts(corpus), corpus / "in.jsonl.gz")
    cuts, _ = exported(corpus, cuts_path=source, field="codes")
    assert [cut.id for cut in cuts] == ["utt1", "utt3"]
    for cut in cuts:
        assert np.array_equal(cut.load_codes(), arrays[cut.id])
        assert cut.recording.id == f"rec-{cut.id}"


def test_a_prefix_says_where_the_training_finds_the_codes(corpus):
    cuts, _ = exported(corpus, path_prefix=Path("exp/codes"))
    paths = {cut.codebook_indexes.array.storage_path for cut in cuts}
    assert paths == {"exp/codes/codes.h5"}


@pytest.mark.parametrize("how", ["speed", "tempo"])
def test_cuts_of_perturbed_speed_are_left_out_and_listed(corpus, how):
    cuts = some_cuts(corpus)
    perturbed = getattr(cuts, f"perturb_{how}")(0.9)
    found, summary = exported(corpus, cuts_path=saved(cuts + perturbed, corpus / "in.jsonl.gz"))
    assert [cut.id for cut in found] == ["utt1", "utt3"]
    assert summary.num_failed == 2
    first, second = read_rejections(corpus / "cuts.jsonl.gz", "failed")
    assert (first["key"], second["key"]) == tuple(cut.id for cut in perturbed)
    assert f"a cut of perturbed {how} (0.9), but codes are of the audio as it is" in first["reason"]
    plain = eval(first["reason"].partition("without such cuts: ")[2], {"cuts": cuts + perturbed})
    assert [cut.id for cut in plain] == ["utt1", "utt3"]


def test_cuts_that_are_all_of_perturbed_speed_are_counted(corpus):
    perturbed = some_cuts(corpus).perturb_speed(0.9)
    message = r"none of 2 cuts can be exported, e\.g\. utt1_sp0\.9: a cut of perturbed speed"
    with pytest.raises(DataError, match=message):
        export(config(corpus, cuts_path=saved(perturbed, corpus / "in.jsonl.gz")))
    assert not (corpus / "cuts.jsonl.gz").exists()


def test_perturbed_volume_does_not_matter(corpus, arrays):
    loud = some_cuts(corpus).perturb_volume(2.0, affix_id=False)
    cuts, _ = exported(corpus, cuts_path=saved(loud, corpus / "in.jsonl.gz"))
    assert np.array_equal(cuts["utt1"].load_codebook_indexes(), arrays["utt1"])


def test_cuts_without_their_codes_are_left_out_and_listed(corpus):
    cuts = some_cuts(corpus)
    strange = [
        cuts["utt1"].with_id("absent"),
        cuts["utt1"].truncate(duration=0.5, preserve_id=True),
        cuts["utt3"].pad(duration=1.0, preserve_id=True),
        cuts["utt3"],
    ]
    source = saved(lhotse.CutSet.from_cuts(strange), corpus / "in.jsonl")
    found, summary = exported(corpus, cuts_path=source)
    assert [cut.id for cut in found] == ["utt3"]
    assert summary.num_failed == 3
    rows = (corpus / "cuts.jsonl.gz.failed.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == ["absent", "utt1", "utt3"]
    assert f"no codes in {corpus / 'codes.h5'}, whose keys must be the ids" in rows[0]
    assert "codes of 1.00 s for a cut of 0.50 s" in rows[1]
    assert "mixed or padded" in rows[2]


def test_audio_that_cannot_be_read_is_listed_too(corpus):
    (corpus / "utt1.wav").write_bytes(b"junk")
    with (corpus / "data.list").open("a") as file:
        file.write('\n{"key": "beyond", "wav": "utt3.wav", "start": 0, "end": 9}')
    found, summary = exported(corpus)
    assert [cut.id for cut in found] == ["utt2", "utt3"]
    assert summary.num_failed == 2
    rows = (corpus / "cuts.jsonl.gz.failed.tsv").read_text()
    assert "utt1\t" in rows
    assert "cannot be read" in rows
    assert "to 9 s, but the audio ends at 0.5 s" in rows


def test_without_any_codes_nothing_is_written(corpus):
    cuts = lhotse.CutSet.from_cuts(cut.with_id(f"x{cut.id}") for cut in some_cuts(corpus))
    source = saved(cuts, corpus / "in.jsonl.gz")
    message = r"none of 2 cuts can be exported, e.g. xutt1: no codes in .*, whose keys must be the"
    with pytest.raises(DataError, match=message) as caught:
        export(config(corpus, cuts_path=source))
    assert "; its keys look like 'utt1', the cuts' like 'xutt1'" in str(caught.value)
    assert not (corpus / "cuts.jsonl.gz").exists()


def test_where_no_audio_can_be_read_ids_and_codes_are_not_blamed(corpus):
    for wav in corpus.glob("*.wav"):
        wav.write_bytes(b"junk")
    message = "none of 3 cuts can be exported, e.g. utt1: cannot be read"
    with pytest.raises(DataError, match=message) as error:
        export(config(corpus))
    assert "ids" not in str(error.value)


def test_codes_may_lie_in_a_folder_whose_name_is_not_utf_8(corpus, arrays):
    folder = corpus / os.fsdecode("中".encode("gbk"))
    folder.mkdir()
    os.rename(corpus / "codes.h5", folder / "codes.h5")
    cuts, _ = exported(corpus, codebook_path=folder / "codes.h5", shar=folder / "shar")
    for cut in (*cuts, *lhotse.CutSet.from_shar(in_dir=folder / "shar")):
        assert np.array_equal(cut.load_codebook_indexes(), arrays[cut.id])


def test_the_same_command_is_complete_and_another_one_needs_force(corpus, caplog):
    caplog.set_level("INFO")
    save_path = corpus / "cuts.jsonl.gz"
    exported(corpus)
    first, age = save_path.read_bytes(), save_path.stat().st_mtime_ns
    exported(corpus)
    assert "complete already" in caplog.text
    assert save_path.stat().st_mtime_ns == age
    with pytest.raises(DataError, match=r'field: "codebook_indexes" there, "codes" now\).*--force'):
        exported(corpus, field="codes")
    assert save_path.read_bytes() == first
    exported(corpus, field="codes", force=True)
    assert save_path.read_bytes() != first
    exported(corpus, force=True)
    assert save_path.read_bytes() == first


def test_what_had_failed_is_tried_again_by_the_same_command(corpus, arrays):
    wav = (corpus / "utt1.wav").read_bytes()
    (corpus / "utt1.wav").write_bytes(b"junk")
    assert exported(corpus)[1].num_failed == 1
    (corpus / "utt1.wav").write_bytes(wav)
    cuts, summary = exported(corpus)
    assert [cut.id for cut in cuts] == list(arrays)
    assert summary.num_failed == 0
    assert not (corpus / "cuts.jsonl.gz.failed.tsv").exists()


def test_a_copy_of_the_codes_is_made_once_for_the_same_codes(corpus, arrays):
    exported(corpus, dtype="int16")
    age = (corpus / "codes.int16.h5").stat().st_mtime_ns
    exported(corpus, dtype="int16", field="codes", force=True)
    assert (corpus / "codes.int16.h5").stat().st_mtime_ns == age
    other = {key: values[::-1].copy() for key, values in arrays.items()}
    (corpus / "codes.h5").unlink()
    make_h5(corpus / "codes.h5", other)
    with pytest.raises(DataError, match="made with other settings"):
        exported(corpus, dtype="int16")
    cuts, _ = exported(corpus, dtype="int16", force=True)
    assert np.array_equal(cuts["utt1"].load_codebook_indexes(), other["utt1"])


def test_what_others_have_written_is_never_replaced(corpus):
    (corpus / "cuts.jsonl.gz").write_text("precious")
    with pytest.raises(DataError, match=r"cuts\.jsonl\.gz: not made by k2distil export, never"):
        exported(corpus, force=True)
    (corpus / "cuts.jsonl.gz").unlink()
    (corpus / "shar").mkdir()
    (corpus / "shar" / "precious").touch()
    with pytest.raises(ConfigError, match="shar: there already; give a new or empty folder"):
        exported(corpus, shar=corpus / "shar", force=True)
    (corpus / "codes.int16.h5").write_bytes((corpus / "codes.h5").read_bytes())
    with pytest.raises(DataError, match=r"codes\.int16\.h5: there already, of other codes"):
        exported(corpus, dtype="int16", force=True)


def test_codes_that_do_not_fit_the_dtype_are_refused(corpus):
    make_h5(corpus / "wide.h5", {"utt1": np.full((50, 8), 300, np.int16)})
    with pytest.raises(DataError, match=r"wide\.h5\[utt1\]: codes up to 300 do not fit into uint8"):
        exported(corpus, codebook_path=corpus / "wide.h5", dtype="uint8")
    cuts, _ = exported(corpus, codebook_path=corpus / "wide.h5", dtype="int16")
    assert cuts["utt1"].load_codebook_indexes().max() == 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_data": None}, "give either --cuts_path or --train_data"),
        ({"codebook_path": None}, "--codebook_path: missing, --to lhotse needs it"),
        ({"save_path": "cuts.txt"}, r"lhotse reads \.jsonl\.gz or \.jsonl as cuts"),
    ],
)
def test_options_that_are_missing_or_wrong_are_named(corpus, options, message):
    options = {name: each and corpus / each for name, each in options.items()}
    with pytest.raises(ConfigError, match=message):
        export(config(corpus, **options))


def test_cuts_cannot_be_made_of_audio_in_tars_and_of_commands(corpus):
    with tarfile.open(corpus / "a.tar", "w") as tar:
        tar.add(corpus / "utt1.wav", "utt1.wav")
    (corpus / "shards.list").write_text("a.tar\n")
    with pytest.raises(ConfigError, match=r"a\.tar: cuts cannot be made of audio in a tar; give"):
        exported(corpus, train_data=(corpus / "shards.list",))
    (corpus / "wav.scp").write_text(f"utt1 cat {corpus / 'utt1.wav'} |\n")
    with pytest.raises(ConfigError, match=r"cat .*: cuts cannot be made of audio from a command"):
        exported(corpus, train_data=(corpus,), allow_pipes=True)


@pytest.mark.parametrize("field", ["recording", "id", "audio", "my codes", ""])
def test_a_field_that_a_cut_would_not_give_is_refused(corpus, field):
    with pytest.raises(ConfigError, match=f"--field {field}: expected letters, digits and _"):
        exported(corpus, field=field)


def test_a_key_that_is_the_id_of_the_supervision_is_told(corpus):
    cut = some_cuts(corpus)["utt1"].with_id("rec-utt1-0")
    cut.supervisions = [lhotse.SupervisionSegment("utt1", cut.recording_id, 0.0, 1.0)]
    source = saved(lhotse.CutSet.from_cuts([cut]), corpus / "in.jsonl")
    with pytest.raises(DataError, match=r"the id of its supervision, utt1, is one: cut\.with_id"):
        exported(corpus, cuts_path=source)


def test_what_is_no_manifest_is_refused_by_name(corpus):
    with pytest.raises(DataError, match=r": a folder; give a file of cuts in it"):
        export(config(corpus, cuts_path=corpus))
    (corpus / "in.jsonl").write_text("junk\n")
    with pytest.raises(DataError, match=r"in\.jsonl: no manifest of cuts"):
        export(config(corpus, cuts_path=corpus / "in.jsonl"))
    recordings = lhotse.RecordingSet.from_recordings(cut.recording for cut in some_cuts(corpus))
    recordings.to_file(corpus / "recordings.jsonl.gz")
    with pytest.raises(DataError, match=r"recordings\.jsonl\.gz: no manifest of cuts"):
        export(config(corpus, cuts_path=corpus / "recordings.jsonl.gz"))
    with pytest.raises(DataError, match=r"absent\.jsonl: no such file; check --cuts_path"):
        export(config(corpus, cuts_path=corpus / "absent.jsonl"))


def test_an_h5_of_others_lacks_the_frame_shift(corpus):
    with h5py.File(corpus / "plain.h5", "w") as file:
        file["utt1"] = np.zeros((50, 8), np.uint8)
    with pytest.raises(DataError, match=r"plain\.h5: no frame_shift and num_codebooks among its"):
        exported(corpus, codebook_path=corpus / "plain.h5")


def test_without_lhotse_the_remedy_is_named(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "lhotse", None)
    with pytest.raises(ConfigError, match="no lhotse here; run: pip install lhotse"):
        export(config(corpus))
