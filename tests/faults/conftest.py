"""A short form for every test run, and a soak: `make soak`, that is K2DISTIL_SOAK=1."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from bench.report import save
from tests.faults.corpus import write_corpus, write_quantizer
from tests.faults.job import Job
from tests.faults.tally import Tally

SOAK = os.environ.get("K2DISTIL_SOAK") == "1"


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    utterances: int
    part_utterances: int
    processes: int
    kills: int


SHORT = Scale(utterances=120, part_utterances=10, processes=2, kills=2)
FULL = Scale(utterances=2400, part_utterances=12, processes=3, kills=40)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def scale() -> Scale:
    return FULL if SOAK else SHORT


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Of the whole session; a soak keeps it, with the tests that did not pass."""
    tally = Tally()
    yield tally
    if SOAK:
        save([{**asdict(tally), "tests_failed": request.session.testsfailed}], "soak")


@pytest.fixture(scope="session")
def data_list(tmp_path_factory, scale) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "data", scale.utterances)


@pytest.fixture(scope="session")
def make_job(tmp_path_factory, scale) -> Callable[..., Job]:
    """(data_list, kind, folder) -> a job that makes "codes", or "embedding"s of float32."""
    quantizer = write_quantizer(tmp_path_factory.mktemp("quantizer") / "quantizer.pt")
    kinds = {
        "codes": ["--save_codebook", "--quantizer_path", quantizer],
        "embedding": ["--embedding_dtype", "float32"],
    }

    def make(data_list: Path, kind: str = "codes", folder: Path | None = None) -> Job:
        folder = tmp_path_factory.mktemp(kind) if folder is None else folder
        logs = tmp_path_factory.mktemp("logs")
        return Job(data_list, folder / f"{kind}.h5", kinds[kind], scale.part_utterances, logs)

    return make


@pytest.fixture(scope="session")
def undisturbed(make_job, data_list) -> Callable[[str], Path]:
    """kind -> the output of one process that nothing happened to."""
    made: dict[str, Path] = {}

    def make(kind: str = "codes") -> Path:
        if kind not in made:
            job = make_job(data_list, kind)
            job.start("--num_workers", 0)
            assert job.end() == [0], job.log()
            made[kind] = job.save_path
        return made[kind]

    return make


@pytest.fixture
def start_job(make_job, data_list) -> Iterator[Callable[..., Job]]:
    """`make_job` of this test's own, on the common corpus where it names no other."""
    jobs: list[Job] = []

    def make(own_list: Path | None = None, kind: str = "codes", folder: Path | None = None) -> Job:
        jobs.append(make_job(own_list or data_list, kind, folder))
        return jobs[-1]

    yield make
    for job in jobs:
        job.kill_all()
