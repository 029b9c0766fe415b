"""Codes on lhotse's cuts, as a library."""

import numpy as np
import pytest
import soundfile

from k2distil.batch import Utterance
from k2distil.interop.lhotse import attach_codes, make_cuts
from k2distil.storage import CodebookReader
from tests.storage.arrays import make_h5

lhotse = pytest.importorskip("lhotse")


@pytest.fixture
def reader(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"utt{n}": rng.integers(0, 256, (50, 8), np.uint8) for n in range(3)}
    return CodebookReader(make_h5(tmp_path / "codes.h5", arrays))


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros((48_000, 2)), 16_000)
    return path


def test_segments_of_one_recording_have_codes_of_their_own(reader, wav):
    utterances = [Utterance(f"utt{n}", str(wav), float(n), n + 1.0) for n in range(3)]
    cuts = list(attach_codes(make_cuts(utterances), reader, reader.path.parent))
    for n, cut in enumerate(cuts):
        assert (cut.start, cut.duration, cut.channel) == (n, 1.0, 0)
        assert np.array_equal(cut.load_codebook_indexes(), reader[f"utt{n}"])
        middle = cut.truncate(offset=0.5)
        assert np.array_equal(middle.load_codebook_indexes(), reader[f"utt{n}"][25:])


def test_cuts_of_several_channels_have_codes_too(reader, wav):
    cut = lhotse.Recording.from_file(wav).to_cut().truncate(duration=1.0).with_id("utt1")
    assert isinstance(cut, lhotse.MultiCut)
    (found,) = attach_codes([cut], reader, reader.path.parent, field="codes")
    assert np.array_equal(found.load_codes(), reader["utt1"])
    assert not cut.has_custom("codes")


@pytest.mark.parametrize(
    ("seconds", "fits"), [(0.94, True), (1.06, True), (0.93, False), (1.07, False)]
)
def test_three_frames_more_or_less_than_the_cut_are_of_the_same_audio(reader, wav, seconds, fits):
    (cut,) = make_cuts([Utterance("utt0", str(wav), 0.0, seconds)])
    (found,) = attach_codes([cut], reader, reader.path.parent)
    assert isinstance(found, dict) is not fits


def test_cuts_without_recordings_can_have_codes(reader):
    cut = lhotse.MonoCut("utt2", start=0.0, duration=1.0, channel=0)
    unread = {"key": "a", "wav": "b", "reason": "c"}
    found, passed = attach_codes([cut, unread], reader, reader.path.parent)
    assert np.array_equal(found.load_codebook_indexes(), reader["utt2"])
    assert passed == unread


def test_cuts_are_of_the_channel_that_the_codes_are_of(reader, tmp_path, monkeypatch):
    samples = np.zeros((16_000, 2), np.float32)
    samples[:, 1] = 0.5
    soundfile.write(tmp_path / "stereo.wav", samples, 16_000)
    monkeypatch.chdir(tmp_path)
    utterances = [
        Utterance("utt0", "stereo.wav", 0.0, 1.05, channel=1),  # lists round their times
        Utterance("utt1", "stereo.wav", 0.0, 1.2, channel=1),
        Utterance("utt2", "stereo.wav"),
        Utterance("utt3", "stereo.wav", channel=2),
    ]
    one, late, first, none = make_cuts(utterances)
    assert (one.channel, one.supervisions, one.duration) == (1, [], 1.0)
    assert one.load_audio().min() == 0.5
    assert one.recording.sources[0].source == str(tmp_path / "stereo.wav")
    assert "to 1.2 s, but the audio ends at 1.0 s" in late["reason"]
    assert first.load_audio().max() == 0
    assert "no channel 2: it has 2" in none["reason"]
    (given,) = make_cuts([Utterance("utt2", "stereo.wav", text="a")], channel=1)
    assert (given.channel, given.supervisions[0].channel) == (1, 1)
