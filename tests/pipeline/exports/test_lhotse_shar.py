"""Shards of lhotse's, with audio, features and codes in them."""

import sys
import tarfile
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from k2distil.errors import DataError
from tests.pipeline.exports.conftest import exported, saved, some_cuts
from tests.storage.arrays import make_h5

lhotse = pytest.importorskip("lhotse")


def test_shards_hold_audio_and_codes_and_need_no_h5(corpus, arrays):
    cuts, _ = exported(corpus, shar=corpus / "shar", path_prefix=Path("/elsewhere"))
    audio = {cut.id: cut.load_audio() for cut in cuts}
    (corpus / "codes.h5").unlink()
    again = list(lhotse.CutSet.from_shar(in_dir=corpus / "shar"))
    assert [cut.id for cut in again] == list(arrays)
    for cut in again:
        assert np.array_equal(cut.load_codebook_indexes(), arrays[cut.id])
        np.testing.assert_allclose(cut.load_audio(), audio[cut.id], atol=1e-4)
    assert not (corpus / ".shar.tmp").exists()


def test_shards_hold_the_codes_of_other_teachers_and_other_audio_too(corpus, arrays):
    others = {key: values[::-1].copy() for key, values in arrays.items()}
    make_h5(corpus / "others.h5", others)
    cuts, _ = exported(corpus, codebook_path=corpus / "others.h5", field="others")
    for cut in list(cuts)[1:]:
        cut.target = cut.recording
    source = saved(cuts, corpus / "in.jsonl")
    cuts, _ = exported(corpus, cuts_path=source, save_path=corpus / "b.jsonl", shar=corpus / "shar")
    for cut, packed in zip(cuts, lhotse.CutSet.from_shar(in_dir=corpus / "shar"), strict=True):
        assert np.array_equal(packed.load_codebook_indexes(), arrays[cut.id])
        assert np.array_equal(packed.load_others(), others[cut.id])
        if cut.has_custom("target"):
            np.testing.assert_allclose(packed.load_target(), cut.load_audio(), atol=1e-4)


def with_features(cuts, folder):
    fbank = lhotse.Fbank(lhotse.FbankConfig(num_mel_bins=8))
    return cuts.compute_and_store_features(
        fbank, folder, storage_type=lhotse.NumpyFilesWriter, progress_bar=False
    )


def test_features_are_packed_without_lilcom_as_they_are(corpus, caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setitem(sys.modules, "lilcom", None)
    source = saved(with_features(some_cuts(corpus), corpus / "fbank"), corpus / "in.jsonl")
    cuts, _ = exported(corpus, cuts_path=source, shar=corpus / "shar")
    assert caplog.text.count("no lilcom here, features are packed as numpy's arrays") == 1
    packed = list(lhotse.CutSet.from_shar(in_dir=corpus / "shar"))
    assert [cut.id for cut in packed] == ["utt1", "utt3"]
    for cut in packed:
        assert np.array_equal(cut.load_features(), cuts[cut.id].load_features())


def test_features_are_packed_by_lilcom_where_it_is(corpus, monkeypatch):
    lilcom = ModuleType("lilcom")
    lilcom.__spec__ = ModuleSpec("lilcom", None)  # by which lhotse looks for it
    lilcom.compress = lambda values, tick_power: values.tobytes()
    monkeypatch.setitem(sys.modules, "lilcom", lilcom)
    source = saved(with_features(some_cuts(corpus), corpus / "fbank"), corpus / "in.jsonl")
    exported(corpus, cuts_path=source, shar=corpus / "shar")
    with tarfile.open(corpus / "shar" / "features.000000.tar") as tar:
        assert "utt1.llc" in tar.getnames()


def test_features_that_lilcom_packed_need_it(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "lilcom", None)
    cuts = with_features(some_cuts(corpus), corpus / "fbank")
    for cut in cuts:
        cut.features.storage_type = "lilcom_files"
    source = saved(cuts, corpus / "in.jsonl")
    with pytest.raises(DataError, match=r"lhotse needs a package \(.*lilcom.*\) for these cuts"):
        exported(corpus, cuts_path=source, shar=corpus / "shar")


def test_a_failed_shar_leaves_cuts_that_the_same_command_completes(corpus):
    wav = (corpus / "utt1.wav").read_bytes()
    source = saved(some_cuts(corpus), corpus / "in.jsonl.gz")
    (corpus / "utt1.wav").write_bytes(b"junk")
    options = {"cuts_path": source, "shar": corpus / "shar"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match=r"--shar .*shar: lhotse cannot write the shards"):
            exported(corpus, **options)
    assert not (corpus / "shar").exists()
    (corpus / "utt1.wav").write_bytes(wav)
    exported(corpus, **options)
    assert len(list(lhotse.CutSet.from_shar(in_dir=corpus / "shar"))) == 2
