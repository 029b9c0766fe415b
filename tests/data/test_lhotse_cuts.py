"""Cuts: those that lhotse itself writes, and lines that it never would."""

import gzip
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from k2distil.data import ListAccess, load_audio, read_list
from k2distil.errors import DataError

GOOD = {
    "id": "c1",
    "start": 0.5,
    "duration": 1.0,
    "channel": 0,
    "supervisions": [{"text": "hello"}, {"text": ""}, {"text": "there"}],
    "recording": {"sources": [{"type": "file", "channels": [0], "source": "/x/a.wav"}]},
    "type": "MonoCut",
}


def problems_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_list(path)
    return str(caught.value)


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_cuts_that_lhotse_writes_give_the_samples_that_lhotse_reads(
    tmp_path: Path, name: str
) -> None:
    lhotse = pytest.importorskip("lhotse")
    stereo = 0.1 * np.random.default_rng(0).standard_normal((32000, 2))
    soundfile.write(tmp_path / "a.wav", stereo, 16000, subtype="FLOAT")
    recording = lhotse.Recording.from_file(tmp_path / "a.wav", recording_id="rec")
    supervision = lhotse.SupervisionSegment("s", "rec", 0.0, 2.0, text="你好")
    whole = lhotse.MonoCut("whole", 0.0, 2.0, 1, [supervision], recording=recording)
    part = lhotse.MonoCut("part", 0.3, 1.2, 0, recording=recording)
    quiet = whole.perturb_volume(0.5).with_id("quiet")
    lhotse.CutSet.from_cuts([whole, part, quiet]).to_file(tmp_path / name)
    utterances = read_list(tmp_path / name)
    assert [(u.key, u.text) for u in utterances] == [
        ("whole", "你好"),
        ("part", None),
        ("quiet", "你好"),
    ]
    for utterance, cut in zip(utterances, [whole, part, whole], strict=True):
        np.testing.assert_allclose(load_audio(utterance), cut.load_audio()[0], atol=1e-6)


def test_cuts_of_other_times_or_kinds_are_refused_by_name(tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    soundfile.write(tmp_path / "a.wav", np.full((16000, 2), 0.1), 16000)
    recording = lhotse.Recording.from_file(tmp_path / "a.wav")
    cut = lhotse.MonoCut("c", 0.0, 1.0, 0, recording=recording)
    bad = [
        (cut.perturb_speed(1.1), "cut c_sp1.1: changed by Speed"),
        (cut.perturb_tempo(0.9), "cut c_tp0.9: changed by Tempo"),
        (cut.pad(2.0).with_id("p"), "cut p: a MixedCut, padded, appended or mixed"),
        (cut.append(cut).with_id("q"), "cut q: a MixedCut"),
        (recording.to_cut().with_id("m"), "cut m: a MultiCut, of several channels"),
    ]
    lhotse.CutSet.from_cuts([each for each, _ in bad]).to_file(tmp_path / "cuts.jsonl.gz")
    message = problems_of(tmp_path / "cuts.jsonl.gz")
    assert f"{tmp_path / 'cuts.jsonl.gz'}: 5 bad entries" in message
    for number, (_, words) in enumerate(bad, start=1):
        assert f"line {number}: {words}" in message


@pytest.mark.parametrize("how", ["Speed", "Tempo"])
def test_the_line_of_the_remedy_leaves_such_cuts_out(tmp_path: Path, how: str) -> None:
    lhotse = pytest.importorskip("lhotse")
    soundfile.write(tmp_path / "a.wav", np.full(16000, 0.1), 8000)
    cuts = lhotse.CutSet.from_cuts([lhotse.Recording.from_file(tmp_path / "a.wav").to_cut()])
    cuts += cuts.resample(16000).modify_ids(lambda name: f"{name}-16k")
    cuts += getattr(cuts, f"perturb_{how.lower()}")(0.9)
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    message = problems_of(tmp_path / "cuts.jsonl.gz")
    line = message.splitlines()[-1].partition("leave such cuts out: ")[2]
    remedied = eval(line, {"cuts": lhotse.CutSet.from_file(tmp_path / "cuts.jsonl.gz")})
    remedied.to_file(tmp_path / "remedied.jsonl.gz")
    assert [each.key for each in read_list(tmp_path / "remedied.jsonl.gz")] == [
        cut.id for cut in list(cuts)[:2]
    ]


def test_a_shar_is_read_by_the_list_that_its_message_makes(tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    soundfile.write(tmp_path / "a.wav", np.full(16000, 0.1), 16000)
    cut = lhotse.Recording.from_file(tmp_path / "a.wav").to_cut()
    shar = tmp_path / "my shar"
    shar.mkdir()
    lhotse.CutSet.from_cuts([cut.with_id(key) for key in "ab"]).to_shar(shar, {"recording": "flac"})
    cuts = shar / "cuts.000000.jsonl.gz"
    with pytest.raises(DataError) as by_type:
        read_list(cuts, "lhotse")
    assert "2 bad entries" in str(by_type.value)
    for message in (problems_of(cuts), problems_of(shar), str(by_type.value)):
        line = message.partition("give a list of these: ")[2].partition(" (")[0]
        subprocess.run(line, shell=True, check=True, cwd=tmp_path)
        assert [each.key for each in read_list(tmp_path / "shards.list")] == ["a", "b"]


def test_of_a_file_for_each_channel_the_cut_s_is_taken(tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    first, others = np.full(16000, 0.1), np.full((16000, 2), [0.2, 0.3])
    sources = []
    for name, channels, samples in (("a.wav", [0], first), ("b.wav", [2, 1], others)):
        soundfile.write(tmp_path / name, samples, 16000, subtype="FLOAT")
        sources.append(lhotse.AudioSource("file", channels, str(tmp_path / name)))
    recording = lhotse.Recording("r", sources, 16000, 16000, 1.0, [0, 1, 2])
    cuts = [lhotse.MonoCut(f"c{n}", 0.0, 1.0, n, recording=recording) for n in range(3)]
    lhotse.CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl")
    for utterance, cut in zip(read_list(tmp_path / "cuts.jsonl"), cuts, strict=True):
        np.testing.assert_allclose(load_audio(utterance), cut.load_audio()[0], atol=1e-6)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"id": "r", "sources": []}', "recordings of lhotse, no cuts; make cuts first (lhotse cu"),
        ('{"id": "s", "recording_id": "r"}', "supervisions or features of lhotse, no cuts"),
        ("[" + json.dumps(GOOD) + "]", "expected a JSON object per line; of lhotse's cuts"),
        ("- channel: 0\n  id: c1", "one JSON array or yaml"),
    ],
)
def test_other_manifests_are_named_with_what_makes_cuts(
    tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "list").write_text(content)
    message = problems_of(tmp_path / "list")
    assert words in message
    assert "bad entr" not in message


def changed(**fields: object) -> str:
    return json.dumps({**GOOD, **fields})


def with_source(**fields: object) -> str:
    source = {**GOOD["recording"]["sources"][0], **fields}
    return changed(recording={"sources": [source]})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("7", "not a cut as lhotse writes it"),
        (changed(recording=None), "cut c1: no recording in it"),
        (changed(id=None), "a cut whose id is null"),
        (changed(recording={"sources": []}), "cut c1: no channel 0"),
        (changed(recording={"sources": [7]}), "not a cut as lhotse writes it"),
        (changed(recording={"sources": [1], "transforms": [{"name": "New"}]}), "changed by New"),
        (with_source(type="command"), "of type 'command', expected 'file'"),
        (with_source(type="url"), "of type 'url'"),
        (with_source(type="shar"), "cut c1: the audio of a Shar lies in its tars"),
        (changed(channel=3), "cut c1: no channel 3"),
        (changed(start=-0.1), "is no segment"),
        (changed(duration=0), "is no segment"),
        (changed(duration="1"), "not a cut as lhotse writes it"),
        (changed(type="PaddingCut"), "cut c1: a PaddingCut, silence"),
        (changed(type="NewCut"), "cut c1: a NewCut, expected a MonoCut"),
        (json.dumps(GOOD), "key 'c1' is on line 1 too"),
        (changed(id="a/b"), "key 'a/b' has a \"/\""),
    ],
)
def test_a_bad_cut_is_named_by_line_and_fault(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "cuts.jsonl").write_text(f"{json.dumps(GOOD)}\n{line}\n")
    message = problems_of(tmp_path / "cuts.jsonl")
    assert "1 bad entry" in message
    assert "line 2: " in message
    assert words in message


def test_a_cut_says_segment_transcript_and_channel(tmp_path: Path) -> None:
    (tmp_path / "cuts.jsonl").write_text(
        f"{json.dumps(GOOD)}\n{with_source(channels=[0, 1], source='b.wav').replace('c1', 'c2')}\n"
    )
    first, second = read_list(tmp_path / "cuts.jsonl")
    assert (first.wav, first.start, first.end) == ("/x/a.wav", 0.5, 1.5)
    assert (first.text, first.channel, second.channel) == ("hello there", 0, 0)
    assert second.wav == str(tmp_path / "b.wav")  # beside the list


def test_a_channel_is_counted_among_those_of_its_file(tmp_path: Path) -> None:
    cut = {**json.loads(with_source(channels=[4, 7])), "channel": 7}
    (tmp_path / "cuts.jsonl").write_text(json.dumps(cut))
    assert [each.channel for each in read_list(tmp_path / "cuts.jsonl")] == [1]


def test_a_gzip_that_is_cut_or_none_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cuts.jsonl.gz"
    whole = gzip.compress(b"".join(json.dumps({**GOOD, "id": n}).encode() for n in range(50)))
    for content in (whole[:-20], b"junk"):
        path.write_bytes(content)
        assert f"{path}: not a whole gzip file" in problems_of(path)


def test_a_text_that_goes_on_outside_its_cut_is_not_its_transcript(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    said = {"text": "a long sentence", "start": -4.0, "duration": 11.0}
    path.write_text(changed(supervisions=[said]) + "\n")
    words = problems_of(path)
    assert "a text of -4.00 to 7.00 s in a cut of" in words
    assert "trim_to_supervisions(keep_overlapping=False)" in words
    (utterance,) = read_list(path, access=ListAccess(with_text=False))  # to extract is no matter
    assert utterance.text is None
    path.write_text(changed(supervisions=[{**said, "start": 0.0, "duration": 0.5}]) + "\n")
    (utterance,) = read_list(path)
    assert utterance.text == "a long sentence"


def test_times_beyond_the_recording_are_those_of_its_end(tmp_path: Path) -> None:
    path = tmp_path / "rounded.jsonl"
    said = {"text": "to the end", "start": 0.0, "duration": 1.4}
    recording = {**GOOD["recording"], "duration": 1.5}
    path.write_text(changed(supervisions=[said], recording=recording) + "\n")
    (utterance,) = read_list(path)
    assert utterance.text == "to the end"
