"""Lists: good ones entry by entry, bad ones line by line."""

import gzip
import io
import json
import os
import re
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from k2distil.batch import Utterance
from k2distil.data import ListAccess, read_list, sample_utterances
from k2distil.errors import ConfigError, DataError


def write_lines(path: Path, *entries: object) -> Path:
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def problems_of(path: Path, data_type: str = "auto") -> str:
    with pytest.raises(DataError) as caught:
        read_list(path, data_type)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_raw_list_gives_its_utterances_in_order(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "data.list",
        {"key": "b 1", "wav": "/abs/b.wav", "txt": "你好"},
        "",
        {"key": "a", "wav": "/abs/a.flac", "start": 1, "end": 2.5, "speaker": "x"},
    )
    assert read_list(path) == [
        Utterance("b 1", "/abs/b.wav", None, None, "你好"),
        Utterance("a", "/abs/a.flac", 1, 2.5),
    ]
    assert read_list(path, "raw") == read_list(path)


def test_transcripts_are_left_out_where_nobody_reads_them(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "data.list",
        {"key": "a", "wav": "/a.wav", "txt": "你好", "start": 1, "end": 2},
        {"key": "b", "wav": "/b.wav"},
    )
    found = read_list(path, access=ListAccess(with_text=False))
    assert found == [Utterance("a", "/a.wav", 1, 2), Utterance("b", "/b.wav")]


def test_a_byte_order_mark_is_no_part_of_the_list(tmp_path: Path) -> None:
    path = tmp_path / "data.list"
    path.write_text('{"key": "a", "wav": "/a.wav"}\n', encoding="utf-8-sig")
    assert [u.key for u in read_list(path)] == ["a"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"key": "a", "wav": ', 'not JSON (Expecting value at column 20): \'{"key": "a"'),
        ("utt1 我爱北京", 'column 1): \'utt1 我爱北京\'; expected {"key": ..., "wav"'),
        ('{"key": "a", "wav": "a.wav"},', "(Extra data at column 29)"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "not a JSON object"),
        (
            {"utt": "a", "wav": "a.wav"},
            'no "key", but \'utt\', \'wav\'; expected {"key": ..., "wav"',
        ),
        (
            {"audio_filepath": "a.wav", "text": "hello"},
            '"wav": ..., "txt": ...}; docs/formats.md has what converts such lists',
        ),
        ({"key": "a"}, 'no "wav"'),
        ('{"key": null}', 'no "key", but nothing; expected'),
        ({"key": "a", "wav": ""}, '"wav" is empty'),
        ({"key": 7, "wav": "a.wav"}, '"key" is 7; expected a string'),
        ({"key": "a", "wav": "a.wav", "txt": ["x"]}, r'"txt" is \["x"\]|"txt" is'),
        ('{"key": "a", "wav": "b", "txt": "x\\ud83d"}', "the text has half of a character"),
        ({"key": "", "wav": "a.wav"}, "key '' cannot name a dataset"),
        ({"key": ".", "wav": "a.wav"}, "key '.' cannot name a dataset"),
        ({"key": "a/b", "wav": "a.wav"}, "key 'a/b' has a \"/\""),
        ({"key": "a\0b", "wav": "a.wav"}, "unprintable"),
        ({"key": "a\nb", "wav": "a.wav"}, "unprintable"),
        ({"key": "a\ud800", "wav": "a.wav"}, "unprintable"),
        ({"key": "ok", "wav": "a.wav"}, "key 'ok' is on line 1 too"),
        ({"key": "a", "wav": "a.wav", "start": 2, "end": 2}, '"end" 2 is not after "start" 2'),
        ({"key": "a", "wav": "a.wav", "end": 0}, '"end" 0 is not after "start" 0'),
        ({"key": "a", "wav": "a.wav", "start": -1}, '"start" is -1; expected seconds'),
        ({"key": "a", "wav": "a.wav", "start": True}, '"start" is True; expected seconds'),
        ({"key": "a", "wav": "a.wav", "end": "3"}, "\"end\" is '3'; expected seconds"),
        ('{"key": "a", "wav": "a.wav", "end": NaN}', '"end" is nan; expected seconds'),
        ('{"key": "a", "wav": "a.wav", "start": Infinity}', '"start" is inf; expected seconds'),
        ('{"key": "a", "wav": "a.wav", "start": 1e308}', '"start" is 1e+308; expected seconds'),
        ('{"key": "a", "wav": "a\\u0000.wav"}', '"wav" is empty or no path'),
    ],
)
def test_a_bad_line_is_named_by_number_and_fault(tmp_path: Path, line: object, words: str) -> None:
    path = write_lines(tmp_path / "data.list", {"key": "ok", "wav": "a.wav"}, line)
    message = problems_of(path)
    assert "1 bad entry" in message
    assert "line 2: " in message
    assert words in message or re.search(words, message)


def test_a_transcript_under_another_name_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [{"key": "a", "wav": "a"}, {"key": "b", "wav": "b", "txt": "二", "text": "2"}]
    assert [each.text for each in read_list(write_lines(tmp_path / "a.list", *lines))] == [
        None,
        "二",
    ]
    assert not caplog.messages
    lines.append({"key": "c", "wav": "c", "text": "三"})
    assert read_list(write_lines(tmp_path / "b.list", *lines))[2].text is None
    assert 'b.list: "text" and no "txt" in 1 entry, whose' in caplog.text


def test_all_bad_lines_are_counted_and_the_first_ten_told(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.list", {"key": "a", "wav": "a"}, *["{"] * 14)
    message = problems_of(path)
    assert "14 bad entries" in message
    assert "line 11: " in message
    assert "line 12: " not in message
    assert message.endswith("and 4 more")


@pytest.mark.parametrize("content", ["", "\n  \n"])
@pytest.mark.parametrize("data_type", ["auto", "raw", "shard"])
def test_an_empty_list_is_an_error(tmp_path: Path, content: str, data_type: str) -> None:
    (tmp_path / "data.list").write_text(content)
    assert "no utterances in it" in problems_of(tmp_path / "data.list", data_type)


def test_lists_that_cannot_be_read_or_told_apart_are_errors(tmp_path: Path) -> None:
    assert "No such file" in problems_of(tmp_path / "absent.list")
    assert "several lists are separated by spaces" in problems_of(tmp_path / "a,b" / "c.list")
    (tmp_path / "binary").write_bytes(b"{\xff\xfe\x00")
    assert "binary: line 1: not UTF-8 text; convert it" in problems_of(tmp_path / "binary")
    assert "--data_type" in problems_of(write_lines(tmp_path / "a.scp", "utt1 /a/b.wav"))
    assert "without wav.scp" in problems_of(tmp_path)
    with pytest.raises(ConfigError, match="--data_type scp: expected auto, raw, shard"):
        read_list(tmp_path / "a.scp", "scp")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_line_in_another_encoding_is_told_however_far_down(tmp_path: Path, suffix: str) -> None:
    good = [
        json.dumps({"key": f"中{number}", "wav": "w"}, ensure_ascii=False) for number in range(900)
    ]
    bad = json.dumps({"key": "文", "wav": "w"}, ensure_ascii=False)
    content = "\n".join(good).encode() + b"\n\n" + bad.encode("gb18030") + b"\n"
    path = tmp_path / f"data.list{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    message = problems_of(path)
    assert "line 902: not UTF-8 text; convert it with iconv -f GB18030 -t UTF-8" in message


def test_an_audio_file_as_a_list_is_told_as_one(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, 0.1 * np.random.default_rng(0).random(4000), 16000)
        assert "an audio file; expected a list of them" in problems_of(tmp_path / name)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs paths of open files")
def test_a_pipe_in_another_encoding_is_told_though_it_gives_its_lines_once() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "wb") as pipe:
        pipe.write('{"key": "a", "wav": "a"}\n{"key": "文", "wav": "w"}\n'.encode("gb18030"))
        pipe.close()
        assert f"/dev/fd/{reading}: line 2: not UTF-8" in problems_of(
            Path(f"/dev/fd/{reading}"), "raw"
        )


def test_a_shard_list_tells_where_each_audio_file_lies(tmp_path: Path) -> None:
    long = "k" * 150  # past the 100 bytes of a plain tar header
    first = {"./a.wav": b"AAA", "./a.txt": "甲\n".encode(), "b.txt": b"B", "b.FLAC": b"bb"}
    write_tar(tmp_path / "1.tar", {**first, "c.json": b"{}"})
    write_tar(tmp_path / "2.tar", {f"{long}.opus": b"cc", "x.y.mp3": b"d", "x.y.lab": b"l"})
    path = write_lines(tmp_path / "shards.list", "1.tar", str(tmp_path / "2.tar"))
    utterances = read_list(path)
    assert [(u.key, u.text) for u in utterances] == [
        ("a", "甲"),
        ("b", "B"),
        (long, None),
        ("x.y", None),
    ]
    contents = []
    for utterance in utterances:
        data = Path(utterance.wav).read_bytes()
        contents.append(data[utterance.tar_offset :][: utterance.tar_size])
    assert contents == [b"AAA", b"bb", b"cc", b"d"]


def test_bad_shards_are_named_with_their_lines_and_remedies(tmp_path: Path) -> None:
    write_tar(tmp_path / "good.tar", {"a.wav": b"A", "b.wav": b"B"})
    write_tar(tmp_path / "again.tar", {"b.wav": b"B"})
    write_tar(tmp_path / "twice.tar", {"c.wav": b"C", "c.txt": b"", "d.wav": b"", "c.wav ": b""})
    write_tar(tmp_path / "folder.tar", {"x/e.wav": b"E"})
    write_tar(tmp_path / "two.tar", {"f.wav": b"F", "f.flac": b"F"})
    write_tar(tmp_path / "text.tar", {"g.txt": b"G"})
    write_tar(tmp_path / "none.tar", {"h.json": b"{}"})
    write_tar(tmp_path / "latin.tar", {"i.txt": b"\xff", "i.wav": b""})
    (tmp_path / "zip.tar").write_bytes(gzip.compress((tmp_path / "good.tar").read_bytes()))
    (tmp_path / "cut.tar").write_bytes(
        write_tar(tmp_path / "big.tar", {"j.wav": bytes(9000)}).read_bytes()[:4000]
    )
    (tmp_path / "junk.tar").write_bytes(b"junk" * 500)
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        info = tarfile.TarInfo("k.wav")
        info.type, info.linkname = tarfile.SYMTYPE, "l.wav"
        tar.addfile(info)
    cases = [
        ("good.tar", None),
        ("again.tar", "key 'b' is on line 1 too"),
        ("folder.tar", "x/e: its folder would be a part of the key"),
        ("two.tar", "got f.wav, f.flac"),
        ("text.tar", "expected one audio file"),
        ("none.tar", "no audio in it"),
        ("latin.tar", "latin.tar: i.txt: not UTF-8 text"),
        ("zip.tar", "compressed"),
        ("cut.tar", "not a whole tar"),
        ("junk.tar", "not a whole tar"),
        ("link.tar", "expected one audio file"),
        ("absent.tar", "No such file"),
        ("http://host/a.tar", "remote"),  # without a folder to copy it to
        ("s3://bucket/a.tar", "remote"),
        ("pipe:cat good.tar", "remote"),
    ]
    for number, (name, words) in enumerate(cases[1:], start=2):
        lines = ["good.tar", *[""] * (number - 2), name]
        message = problems_of(write_lines(tmp_path / "shards.list", *lines))
        assert "1 bad entry" in message
        assert f"line {number}: " in message
        assert words in message


def test_text_that_is_not_utf8_is_of_one_utterance_and_not_read_where_none_is_wanted(
    tmp_path: Path,
) -> None:
    members = {"a.wav": b"A", "a.txt": b"\xd6\xd0", "b.wav": b"B", "b.txt": b"b"}
    write_tar(tmp_path / "gbk.tar", members)
    path = write_lines(tmp_path / "shards.list", "gbk.tar")
    utterances = read_list(path, access=ListAccess(with_text=False))
    assert [(each.key, each.text) for each in utterances] == [("a", None), ("b", None)]
    message = problems_of(path)
    assert "1 bad entry" in message
    assert "gbk.tar: a.txt: not UTF-8 text ('utf-8' codec can't decode" in message


def test_a_key_of_an_earlier_list_is_told_with_its_line(tmp_path: Path) -> None:
    one, two, three = (
        write_lines(tmp_path / f"{name}.list", *({"key": key, "wav": "w"} for key in keys))
        for name, keys in [("one", "ab"), ("two", "cd"), ("three", "ec")]
    )
    with pytest.raises(
        DataError, match=r"(?s)three\.list: 1 bad .*line 2: key 'c' is on line 1 of .*two"
    ):
        read_list([one, two, three])


def test_many_lists_are_read_as_fast_as_one(tmp_path: Path) -> None:
    """Their keys are looked up once, not in each list."""
    lines = [{"key": f"utt{number}", "wav": "w"} for number in range(20_000)]
    paths = [
        write_lines(tmp_path / f"{index}.list", *lines[10 * index : 10 * index + 10])
        for index in range(2000)
    ]
    whole = write_lines(tmp_path / "whole.list", *lines)

    def seconds(given: list[Path]) -> float:
        started = time.process_time()
        assert len(read_list(given)) == len(lines)
        return time.process_time() - started

    pairs = [(seconds(paths), seconds([whole])) for _ in range(5)]  # in turn: load slows down both
    of_many, of_one = map(min, zip(*pairs, strict=True))
    assert of_many < 4 * of_one


def test_the_same_key_twice_in_one_tar_is_a_duplicate(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.wav": b"A", "b.wav": b"B"})
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("a.wav"))
    path = write_lines(tmp_path / "shards.list", "a.tar")
    assert "line 1: key 'a' is on line 1 too" in problems_of(path)


def test_several_lists_of_several_kinds_are_read_in_their_order(tmp_path: Path) -> None:
    write_tar(tmp_path / "1.tar", {"a.wav": b"A"})
    shards = write_lines(tmp_path / "shards.list", "1.tar")
    raw = write_lines(tmp_path / "data.list", {"key": "b", "wav": "/b.wav"})
    assert [u.key for u in read_list([shards, raw])] == ["a", "b"]
    assert [u.key for u in read_list([raw, shards])] == ["b", "a"]


def test_a_key_in_two_lists_is_an_error_that_names_both(tmp_path: Path) -> None:
    one = write_lines(tmp_path / "one.list", {"key": "a", "wav": "/a.wav"})
    two = write_lines(tmp_path / "two.list", {"key": "b", "wav": "/b"}, {"key": "a", "wav": "/a"})
    with pytest.raises(DataError) as caught:
        read_list([one, two])
    assert f"{two}: 1 bad entry" in str(caught.value)
    assert f"line 2: key 'a' is on line 1 of {one} too" in str(caught.value)
    with pytest.raises(DataError, match=r"one\.list: given twice"):
        read_list([one, one])


def test_bad_lines_of_all_lists_are_told_at_once(tmp_path: Path) -> None:
    one = write_lines(tmp_path / "one.list", "{")
    two = write_lines(tmp_path / "two.list", "{", {"key": "b", "wav": "/b.wav"})
    with pytest.raises(DataError) as caught:
        read_list([one, two])
    assert [line for line in str(caught.value).splitlines() if "bad entry" in line] == [
        f"{path}: 1 bad entry; correct or remove them:" for path in (one, two)
    ]


def utterances(num: int) -> list[Utterance]:
    return [Utterance(f"u{index}", "a.wav") for index in range(num)]


def test_a_sample_has_exactly_num_distinct_utterances_in_list_order() -> None:
    every = utterances(100)
    sample = sample_utterances(every, 30, "random", seed=1)
    assert len(sample) == 30
    indexes = [every.index(utterance) for utterance in sample]
    assert indexes == sorted(set(indexes))
    assert sample == sample_utterances(every, 30, "random", seed=1)
    assert sample != sample_utterances(every, 30, "random", seed=2)
    assert indexes[-1] > 50  # not the head


def test_first_takes_the_head_and_a_big_num_everything() -> None:
    every = utterances(5)
    assert sample_utterances(every, 2, "first", seed=1) == every[:2]
    for num in (None, 5, 6):
        assert sample_utterances(every, num, "random", seed=1) == every


def test_a_sample_of_none_and_an_unknown_way_are_errors() -> None:
    with pytest.raises(ConfigError, match="--num_audio 0: expected at least 1"):
        sample_utterances(utterances(3), 0)
    with pytest.raises(ConfigError, match="--num_audio_from last: expected random or first"):
        sample_utterances(utterances(3), 1, "last")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_list_from_a_pipe_is_read_whole(tmp_path: Path, compressed: bool) -> None:
    entries = [{"key": f"u{number:05}", "wav": f"{number}.wav"} for number in range(3000)]
    text = "".join(f"{json.dumps(each)}\n" for each in entries).encode()
    path = tmp_path / ("fifo.gz" if compressed else "fifo")
    os.mkfifo(path)
    content = gzip.compress(text) if compressed else text
    writer = threading.Thread(target=path.write_bytes, args=(content,))
    writer.start()
    assert [each.key for each in read_list(path)] == [each["key"] for each in entries]
    writer.join(timeout=10)


def test_a_tar_in_the_place_of_a_list_is_told_as_such(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "00.tar", {"a.wav": b"RIFF\xff\xfe" + bytes(2000)})
    assert "00.tar: a tar itself; write its path into a list" in problems_of(path)


def test_a_list_that_is_cut_short_is_no_fault_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "cut.list.gz"
    path.write_bytes(gzip.compress(b'{"key": "a", "wav": "a.wav"}\n' * 50)[:30])
    assert "not a whole gzip file" in problems_of(path)
