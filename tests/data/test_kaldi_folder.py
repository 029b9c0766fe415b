"""Kaldi's data folders, with real audio files and real commands."""

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from k2distil.batch import Utterance
from k2distil.data import ListAccess, load_audio, read_list
from k2distil.errors import DataError

PIPES = ListAccess(allow_pipes=True)


def write(folder: Path, **files: str) -> Path:
    """Write wav_scp="..." as wav.scp, and so on."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, encoding="utf-8")
    return folder


def problems_of(path: Path, access: ListAccess | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_list(path, "kaldi", access)
    return str(caught.value)


def test_a_folder_is_read_by_its_wav_scp_and_text(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "train", wav_scp="b /x/b 1.wav\na\t/x/a.flac\n", text="a 你好 吗\nc not here\n"
    )
    expected = [Utterance("b", "/x/b 1.wav"), Utterance("a", "/x/a.flac", text="你好 吗")]
    assert read_list(folder) == expected  # told by its wav.scp
    assert read_list(folder / "wav.scp") == expected
    assert read_list(folder, "kaldi") == expected
    (folder / "wav.scp").rename(folder / "other.scp")
    assert read_list(folder / "other.scp", "kaldi") == expected


def test_segments_cut_recordings_into_utterances(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "train",
        wav_scp="r1 /x/r1.wav\nr2 /x/r2.wav\n",
        segments="r1-a r1 0 1.25\nr2-a r2 3.5 -1\nr1-b r1 1.25 2 1\n",
        text="r1-b hello\n",
    )
    assert read_list(folder) == [
        Utterance("r1-a", "/x/r1.wav", 0.0, 1.25),
        Utterance("r2-a", "/x/r2.wav", 3.5, None),
        Utterance("r1-b", "/x/r1.wav", 1.25, 2.0, "hello", channel=1),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a", "got no path"),
        ("ok /y.wav", "key 'ok' is on line 1 too"),
        ("a/b /y.wav", "key 'a/b' has a \"/\""),
        ("a sox y.wav - |", "a command; --allow_pipes runs it, if you trust the list"),
        ("a feats.ark:123", "wav-copy"),
        ("a |cat", "no audio file"),
    ],
)
def test_a_bad_line_of_wav_scp_is_named(tmp_path: Path, line: str, words: str) -> None:
    folder = write(tmp_path / "train", wav_scp=f"ok /x.wav\n{line}\n")
    message = problems_of(folder)
    assert f"{folder / 'wav.scp'}: 1 bad entry" in message
    assert "line 2: " in message
    assert words in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a r 1", "got 3 fields"),
        ("a r 1 2 0 0", "got 6 fields"),
        ("a other 1 2", "recording 'other' is not in wav.scp"),
        ("a r one 2", "one 2: expected start and end in seconds"),
        ("a r 1 2 x", "expected start and end"),
        ("a r 2 2", "2 to 2 s is no segment"),
        ("a r -1 2", "is no segment"),
        ("a r 1 -2", "is no segment"),
        ("a r nan 2", "is no segment"),
        ("a r 1 inf", "is no segment"),
        ("a r 1 2 -1", "channel -1"),
        ("ok r 1 2", "key 'ok' is on line 1 too"),
    ],
)
def test_a_bad_line_of_segments_is_named(tmp_path: Path, line: str, words: str) -> None:
    folder = write(tmp_path / "train", wav_scp="r /x.wav\n", segments=f"ok r 0 1\n{line}\n")
    message = problems_of(folder)
    assert f"{folder / 'segments'}: 1 bad entry" in message
    assert "line 2: " in message
    assert words in message


def test_bad_lines_beside_the_utterances_are_named_with_their_file(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "train", wav_scp="r /x.wav\nr /y.wav\nq |\n", segments="a r 0 1\n", text="a x\n"
    )
    message = problems_of(folder)
    assert message.startswith(f"{folder / 'wav.scp'}: 2 bad entries")
    assert "line 2: 'r' is there before" in message
    assert "line 3: " in message
    write(folder, wav_scp="r /x.wav\n", text="a x\na y\n")
    assert f"{folder / 'text'}: 1 bad entry" in problems_of(folder)


def test_what_needs_a_shell_is_refused_before_anything_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for command in (f"cat x; touch {marker} |", "cat < x |", "cat 'x |", "cat x || cat y |"):
        folder = write(tmp_path / "train", wav_scp=f"a {command}\n")
        assert "line 1: " in problems_of(folder, PIPES)
    assert not marker.exists()


@pytest.fixture
def tone(tmp_path: Path) -> np.ndarray:
    """(16000,), in "my tone.wav"."""
    samples = 0.5 * np.sin(np.arange(16000) / 7)
    soundfile.write(tmp_path / "my tone.wav", samples, 16000, subtype="FLOAT")
    return samples.astype(np.float32)


def test_a_command_gives_the_audio_of_its_segments(tmp_path: Path, tone: np.ndarray) -> None:
    folder = write(
        tmp_path / "train",
        wav_scp=f"r cat '{tmp_path / 'my tone.wav'}' | cat |\n",
        segments="a r 0 0.5\nb r 0.5 -1\n",
    )
    first, second = read_list(folder, access=PIPES)
    assert first.is_command
    np.testing.assert_array_equal(load_audio(first), tone[:8000])
    np.testing.assert_array_equal(load_audio(second), tone[8000:])


def test_no_shell_reads_a_command(tmp_path: Path, tone: np.ndarray) -> None:
    folder = write(tmp_path / "train", wav_scp="a echo $HOME `id` * |\n")
    (utterance,) = read_list(folder, access=PIPES)
    with pytest.raises(DataError, match=r"nothing here can decode it \(it begins with b'\$HOME"):
        load_audio(utterance)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("no-such-program x |", "no-such-program cannot be started (No such file"),
        ("cat x.wav | no-such-program |", "no-such-program cannot be started"),
        ("true |", "the command wrote nothing"),
        ("{python} -c 'import sys; sys.exit(\"one\\ntwo\\n\")' |", "failed with status 1: two"),
        ("{python} -c 'import sys; sys.exit(\"oh\")' | cat |", "failed with status 1: oh"),
        ("false |", "false failed with status 1: no message"),
    ],
)
def test_a_command_that_fails_is_an_error_of_its_utterance(
    tmp_path: Path, command: str, words: str
) -> None:
    command = command.replace("{python}", shlex.quote(sys.executable))
    folder = write(tmp_path / "train", wav_scp=f"a {command}\n")
    (utterance,) = read_list(folder, access=PIPES)
    with pytest.raises(DataError) as caught:
        load_audio(utterance)
    assert "utterance a: " in str(caught.value)
    assert words in str(caught.value)


def test_a_reader_that_has_enough_is_no_failure(tmp_path: Path, tone: np.ndarray) -> None:
    path = shlex.quote(str(tmp_path / "my tone.wav"))
    folder = write(tmp_path / "train", wav_scp=f"a yes | cat {path} |\n")
    (utterance,) = read_list(folder, access=PIPES)
    np.testing.assert_array_equal(load_audio(utterance), tone)


def test_transcripts_that_nobody_wants_are_not_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "train", wav_scp="a /x/a.wav\n", text="a one\na two\n")
    assert "'a' is there before" in problems_of(folder)
    assert read_list(folder, access=ListAccess(with_text=False)) == [Utterance("a", "/x/a.wav")]
