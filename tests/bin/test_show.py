"""What the commands print, where the reader is gone or its encoding is a small one."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from k2distil.bin.show import show
from tests.pipeline.outputs import random_codes, write_output

ROOT = Path(__file__).parents[2]


def k2distil(*arguments: object, **options) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-m", "k2distil", *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, check=False, **options)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_command_whose_reader_is_gone_ends_quietly_and_not_as_of_a_bad_file(stream, tmp_path):
    path = write_output(tmp_path / "codes.h5", random_codes())
    commands = {
        "stdout": [["--help"], ["inspect", "--help"], ["verify", "--codebook_path", path]],
        "stderr": [["bogus"], ["inspect", "--bogus"], ["inspect", "--path", tmp_path / "no.h5"]],
    }
    for arguments in commands[stream]:
        reader, writer = os.pipe()
        os.close(reader)
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writer}
        done = k2distil(*arguments, **streams)
        os.close(writer)
        assert done.returncode == 141, (arguments, done)
        assert b"Error" not in (done.stdout or b"") + (done.stderr or b""), (arguments, done)


def test_what_the_encoding_lacks_is_an_escape(tmp_path):
    path = write_output(tmp_path / "café 三.h5", random_codes())
    latin = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = k2distil("inspect", "--path", path, env=latin, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "café \\u4e09.h5".encode("latin-1") in done.stdout


def test_names_of_another_encoding_are_escaped_in_utf_8_too():
    file = io.StringIO()
    show("三 \udcd6", file)
    assert file.getvalue() == "三 \\udcd6\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_output_that_has_no_room_is_an_error(tmp_path):
    path = write_output(tmp_path / "codes.h5", random_codes())
    with open("/dev/full", "wb") as full:
        done = k2distil("inspect", "--path", path, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.decode() == (
        "error: standard output: No space left on device; give it room\n"
    )
