"""A corpus with codes, and exports of it."""

import json

import numpy as np
import pytest
import soundfile

from k2distil.config import ExportConfig
from k2distil.pipeline.export import export
from tests.storage.arrays import make_h5

SECONDS = {"utt1": 1.0, "utt2": 2.0, "utt3": 0.5}  # 50 codes a second


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {key: rng.integers(0, 256, (int(50 * s), 8), np.uint8) for key, s in SECONDS.items()}


@pytest.fixture
def corpus(tmp_path, arrays):
    """codes.h5, a.wav, b.wav, ..., and data.list; utt2 is a segment that starts after 0.7 s."""
    make_h5(tmp_path / "codes.h5", arrays)
    rng = np.random.default_rng(1)
    lines = []
    for key, seconds in SECONDS.items():
        samples = 0.1 * rng.standard_normal(int(16_000 * (seconds + 1)))
        start = {"start": 0.7, "end": 0.7 + seconds} if key == "utt2" else {}
        audio = samples if start else samples[: int(16_000 * seconds)]
        soundfile.write(tmp_path / f"{key}.wav", audio, 16_000)
        lines.append({"key": key, "wav": f"{key}.wav", "txt": f"text of {key}", **start})
    (tmp_path / "data.list").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def config(corpus, **options):
    paths = {"codebook_path": corpus / "codes.h5", "save_path": corpus / "cuts.jsonl.gz"}
    source = {} if "cuts_path" in options else {"train_data": (corpus / "data.list",)}
    return ExportConfig(**{"to": "lhotse", **paths, **source, **options})


def exported(corpus, **options):
    import lhotse

    asked = config(corpus, **options)
    summary = export(asked)
    return lhotse.CutSet.from_file(asked.save_path).to_eager(), summary


def some_cuts(corpus):
    """As a recipe of lhotse makes them, with an id of its own for each recording."""
    import lhotse

    cuts = [
        lhotse.Recording.from_file(corpus / f"{key}.wav", recording_id=f"rec-{key}").to_cut()
        for key in ("utt1", "utt3")
    ]
    return lhotse.CutSet.from_cuts(
        cut.with_id(key) for cut, key in zip(cuts, ("utt1", "utt3"), strict=True)
    )


def saved(cuts, path):
    cuts.to_file(path)
    return path
