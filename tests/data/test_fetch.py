"""Shards by URL, from a server in this process that behaves as badly as real ones."""

import io
import multiprocessing
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile

from k2distil.data import ListAccess, fetch, load_audio, read_list
from k2distil.errors import DataError


@dataclass
class Served:
    """One file of the server, and how it is served."""

    content: bytes
    drop_after: int | None = None  # bytes of the whole file; then the connection ends
    drops: int = 0  # how many times it does
    ranges: bool = True
    length: bool = True
    delay: float = 0.0  # seconds before the answer
    statuses: list[int] = field(default_factory=list)  # of the first answers
    next_version: bytes | None = None  # the content after the first drop
    requests: list[str | None] = field(default_factory=list)  # the Range of each


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, Served] = {}

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        served = self.server.files.get(self.path.strip("/"))
        if served is None:
            self.send_error(404, "Not Found")
            return
        served.requests.append(self.headers["Range"])
        time.sleep(served.delay)
        if served.statuses:
            self.send_error(served.statuses.pop(0))
            return
        content, first = served.content, 0
        tag = f'"{hash(content)}"'
        asked = self.headers["Range"]
        if asked and served.ranges and self.headers["If-Range"] in (None, tag):
            first = int(asked.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if first else 200)
        self.send_header("ETag", tag)
        if first:
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        if served.length:
            self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        last = len(content)
        if served.drops:
            served.drops -= 1
            last = first + (served.drop_after or 0)
            served.content = served.next_version or content
        self.wfile.write(content[first:last])

    def log_message(self, *args: object) -> None:
        """Nothing: the tests look at what was asked."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetch, "FIRST_WAIT", 0.001)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def tar_of(*keys: str) -> bytes:
    """A tar of real audio."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for seed, key in enumerate(keys):
            wav = io.BytesIO()
            noise = 0.1 * np.random.default_rng(seed).standard_normal(8000)
            soundfile.write(wav, noise, 16000, format="WAV")
            info = tarfile.TarInfo(f"{key}.wav")
            info.size = len(wav.getvalue())
            tar.addfile(info, io.BytesIO(wav.getvalue()))
    return buffer.getvalue()


def shard_list(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_shard_by_url_is_fetched_once_and_decodes(server: Server, tmp_path: Path) -> None:
    served = server.files["train/0.tar"] = Served(tar_of("a", "b"))
    url = server.url("train/0.tar")
    access = ListAccess(cache_dir=tmp_path / "cache")
    for _ in range(2):
        utterances = read_list(shard_list(tmp_path / "shards.list", url), access=access)
        assert [(u.key, u.tar_url) for u in utterances] == [("a", url), ("b", url)]
        assert [len(load_audio(each)) for each in utterances] == [8000, 8000]
    assert served.requests == [None]
    (cached,) = (tmp_path / "cache").glob("*.tar")
    assert cached.name.endswith("-0.tar")
    assert cached.read_bytes() == served.content


def test_processes_that_want_the_same_shard_fetch_it_once(server: Server, tmp_path: Path) -> None:
    served = server.files["0.tar"] = Served(tar_of("a"), delay=2.0)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=fetch.fetch, args=(server.url("0.tar"), tmp_path / "cache"))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert served.requests == [None]
    (path,) = (tmp_path / "cache").glob("*.tar")
    assert path.read_bytes() == served.content


def test_a_dropped_connection_goes_on_where_it_broke(server: Server, tmp_path: Path) -> None:
    served = server.files["0.tar"] = Served(tar_of("a"), drop_after=5000, drops=3)
    path = fetch.fetch(server.url("0.tar"), tmp_path)
    assert path.read_bytes() == served.content
    assert served.requests == [None, "bytes=5000-", "bytes=10000-", "bytes=15000-"]


def test_without_ranges_it_starts_from_the_beginning(server: Server, tmp_path: Path) -> None:
    served = server.files["0.tar"] = Served(tar_of("a"), drop_after=5000, drops=2, ranges=False)
    assert fetch.fetch(server.url("0.tar"), tmp_path).read_bytes() == served.content
    assert len(served.requests) == 3


def test_a_file_that_changes_meanwhile_is_not_pieced_together(
    server: Server, tmp_path: Path
) -> None:
    old, new = tar_of("old one"), tar_of("new", "and more")
    served = server.files["0.tar"] = Served(old, drop_after=5000, drops=1, next_version=new)
    assert fetch.fetch(server.url("0.tar"), tmp_path).read_bytes() == new
    assert served.requests == [None, "bytes=5000-"]


def test_a_server_that_is_busy_is_asked_again(server: Server, tmp_path: Path) -> None:
    served = server.files["0.tar"] = Served(tar_of("a"), statuses=[503, 429, 500])
    assert fetch.fetch(server.url("0.tar"), tmp_path).read_bytes() == served.content
    assert len(served.requests) == 4


def test_a_connection_that_brings_nothing_new_is_given_up(server: Server, tmp_path: Path) -> None:
    served = server.files["0.tar"] = Served(tar_of("a"), drop_after=5000, drops=1000, ranges=False)
    with pytest.raises(DataError, match=r"ended after 5,000 of [\d,]+ bytes; given up after 6"):
        fetch.fetch(server.url("0.tar"), tmp_path)
    assert len(served.requests) == 6
    assert list(tmp_path.iterdir()) == []


def test_nobody_at_the_address_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_WAIT", 0.001)
    with Server() as closed:
        url = closed.url("0.tar")
    with pytest.raises(DataError, match="Connection refused; given up after 6 attempts"):
        fetch.fetch(url, tmp_path)


def test_a_length_that_is_not_told_cannot_be_checked(server: Server, tmp_path: Path) -> None:
    server.files["0.tar"] = Served(tar_of("a"), length=False)
    with pytest.raises(DataError, match="does not say its length; copy it to a local disk"):
        fetch.fetch(server.url("0.tar"), tmp_path)


def test_bad_urls_are_listed_with_the_others_lines_and_good_ones_fetched(
    server: Server, tmp_path: Path
) -> None:
    server.files["good.tar"] = Served(tar_of("a"))
    path = shard_list(
        tmp_path / "shards.list",
        server.url("absent.tar"),
        "s3://bucket/x.tar",
        server.url("good.tar"),
        "http://a host/x.tar",
        str(tmp_path / "absent.tar"),
    )
    with pytest.raises(DataError) as caught:
        read_list(path, access=ListAccess(cache_dir=tmp_path / "cache"))
    message = str(caught.value)
    assert f"{path}: 4 bad entries" in message
    assert f"line 1: {server.url('absent.tar')}: 404 Not Found; correct the URL" in message
    assert "line 2: s3://bucket/x.tar: no such remote shards" in message
    assert "line 4: http://a host/x.tar: not a URL" in message
    assert "line 5: " in message
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 1
