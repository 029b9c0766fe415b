"""A list that changes behind a run: only what failed, or is new, is computed."""

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
import yaml

from k2distil.config import MergeConfig, SaveEmbeddingConfig
from k2distil.errors import DataError
from k2distil.pipeline.merge import merge
from k2distil.pipeline.save_embedding import save_embedding
from k2distil.storage import EmbeddingReader, PartFolder
from k2distil.storage import merge as merging
from k2distil.storage import parts as parting
from k2distil.storage.parts import parts_folder
from tests.pipeline.outputs import write_list

WENET = Path(__file__).parents[2] / "teachers" / "golden" / "wenet_conv1d2"


@pytest.fixture
def config(tmp_path: Path) -> SaveEmbeddingConfig:
    """Utterances a to d, of which b has a wrong path."""
    config = SaveEmbeddingConfig(
        encoder_type="wenet-whisper",
        checkpoint=str(WENET / "final.pt"),
        train_data=(write_list(tmp_path),),
        save_path=tmp_path / "e.h5",
        num_workers=0,
        part_utterances=2,
        gpu="cpu",
    )
    relist(config, b={"wav": "typo.wav"})
    return config


def relist(config: SaveEmbeddingConfig, **changes: dict[str, object] | None) -> None:
    """Change the entries of keys, add them, or remove them (None)."""
    path = config.train_data[0]
    entries = {each["key"]: each for each in map(json.loads, path.read_text().splitlines())}
    for key, change in changes.items():
        entries[key] = {**entries.get(key, {"key": key}), **(change or {})}
        if change is None:
            del entries[key]
    path.write_text("".join(json.dumps(each) + "\n" for each in entries.values()))


def hide(folder: Path, keys: str) -> None:
    """What needs this audio again now fails."""
    for key in keys:
        (folder / f"{key}.wav").unlink()


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    return dict(EmbeddingReader(path))


def fingerprint_of(path: Path) -> dict[str, object]:
    return json.loads(EmbeddingReader(path).meta["fingerprint"])


@pytest.mark.parametrize("shard_output", [None, 30 * 0.02 / 3600])
def test_a_corrected_path_and_new_entries_are_added_to_what_is_there(
    config: SaveEmbeddingConfig,
    tmp_path: Path,
    shard_output: float | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    config = replace(config, shard_output=shard_output)
    assert save_embedding(config).num_failed == 1
    before = arrays_of(config.save_path)
    relist(config, b={"wav": "b.wav"}, new={"wav": "new.wav"})
    soundfile.write(tmp_path / "new.wav", np.zeros(8000), 16000)
    fresh = replace(config, save_path=tmp_path / "fresh.h5")
    save_embedding(fresh)
    hide(tmp_path, "acd")
    summary = save_embedding(config)
    assert (summary.num_failed, summary.figures["written"]) == (0, 5)
    assert f"{config.save_path}: 2 to be done, the others are in it" in caplog.text
    assert not (tmp_path / "e.h5.failed.tsv").exists()
    found, expected = arrays_of(config.save_path), arrays_of(fresh.save_path)
    assert found.keys() == expected.keys() == {*"abcd", "new"}
    if shard_output is None:
        assert list(found) == list(expected)
    for key in expected:  # other batches round otherwise
        np.testing.assert_allclose(found[key], expected[key], atol=0.01)
    assert all(np.array_equal(found[key], before[key]) for key in before)
    assert fingerprint_of(config.save_path) == fingerprint_of(fresh.save_path)
    entries = [EmbeddingReader(each.save_path).meta["entries"] for each in (config, fresh)]
    assert entries[0] == entries[1]
    stamp = config.save_path.stat().st_mtime_ns
    assert save_embedding(config).num_failed == 0
    assert config.save_path.stat().st_mtime_ns == stamp
    relist(config, b={"wav": "a.wav"})
    with pytest.raises(DataError, match="other audio or segments for utterances in it"):
        save_embedding(config)


@pytest.mark.parametrize("shard_output", [None, 30 * 0.02 / 3600])
def test_what_failed_may_be_removed_and_nothing_is_computed(
    config: SaveEmbeddingConfig, tmp_path: Path, shard_output: float | None
) -> None:
    config = replace(config, shard_output=shard_output)
    save_embedding(config)
    before = arrays_of(config.save_path)
    relist(config, b=None)
    hide(tmp_path, "acd")
    summary = save_embedding(config)
    assert (summary.num_failed, summary.figures["written"]) == (0, 3)
    assert not (tmp_path / "e.h5.failed.tsv").exists()
    found = arrays_of(config.save_path)
    assert list(found) == list(before)
    assert all(np.array_equal(found[key], before[key]) for key in before)
    assert fingerprint_of(config.save_path)["utterances"] == 3
    assert summary.figures["fingerprint"]["utterances"] == 3
    assert not parts_folder(config.save_path).exists()


def test_a_teacher_that_was_moved_is_the_same(config: SaveEmbeddingConfig, tmp_path: Path) -> None:
    relist(config, b=None)
    save_embedding(config)
    shutil.copytree(WENET, tmp_path / "moved")
    hide(tmp_path, "acd")
    moved = replace(config, checkpoint=str(tmp_path / "moved" / "final.pt"))
    assert save_embedding(moved).figures["written"] == 3


def test_a_list_in_another_order_computes_nothing_and_gives_the_new_order(
    config: SaveEmbeddingConfig, tmp_path: Path
) -> None:
    save_embedding(config)
    relist(config, a=None, b=None)
    relist(config, a={"wav": "a.wav"})
    hide(tmp_path, "acd")
    assert save_embedding(config).num_failed == 0
    assert list(arrays_of(config.save_path)) == ["c", "d", "a"]


def test_other_entries_of_what_is_written_are_refused_and_replaced_by_force(
    config: SaveEmbeddingConfig,
) -> None:
    save_embedding(config)
    relist(config, c=None)
    with pytest.raises(
        DataError, match=r"no longer in the list: 1 utterance in it, such as c; give"
    ):
        save_embedding(config)
    relist(config, c={"wav": "d.wav"})
    with pytest.raises(DataError, match=r"e\.h5: the list has other audio or segments"):
        save_embedding(config)
    relist(config, c={"wav": "c.wav", "start": 0.1})
    with pytest.raises(DataError, match=r"other audio or segments .* --force to start over"):
        save_embedding(config)
    relist(config, b={"wav": "b.wav"})
    assert save_embedding(replace(config, force=True)).figures["written"] == 4


def test_other_settings_are_refused_though_the_list_changes_too(
    config: SaveEmbeddingConfig,
) -> None:
    save_embedding(config)
    relist(config, b={"wav": "b.wav"})
    with pytest.raises(
        DataError, match=r"other settings \(middle_layer: 3 there, 2 now; middle_layer_norm"
    ):
        save_embedding(replace(config, middle_layer=2))


@pytest.mark.parametrize("limits", [{}, {"max_length": 3050}])
def test_long_audio_is_done_in_another_way_and_nothing_else(
    config: SaveEmbeddingConfig, tmp_path: Path, limits: dict[str, int]
) -> None:
    wenet_yaml = yaml.safe_load((WENET / "train.yaml").read_text())
    wenet_yaml["dataset_conf"]["filter_conf"] = limits
    config = replace(config, wenet_yaml=wenet_yaml)
    soundfile.write(tmp_path / "long.wav", np.zeros(31 * 16000), 16000)
    soundfile.write(tmp_path / "longer.wav", np.zeros(30 * 16000 + 1600), 16000)
    relist(config, b=None, long={"wav": "long.wav"}, longer={"wav": "longer.wav"})

    def outcome(long_audio: str) -> tuple[int, int, int]:
        figures = save_embedding(replace(config, long_audio=long_audio)).figures
        return figures["written"], figures["failed"], figures["dropped"]

    assert outcome("error") == ((3, 2, 0) if not limits else (3, 1, 1))
    hide(tmp_path, "acd")
    assert outcome("skip") == (3, 0, 2)
    assert outcome("skip") == (3, 0, 2)
    assert outcome("chunk") == (5, 0, 0)
    assert len(arrays_of(config.save_path)["long"]) == 1550
    assert not (tmp_path / "e.h5.dropped.tsv").exists()
    with pytest.raises(DataError, match='long_audio: "chunk" there, "error" now'):
        outcome("error")


def test_a_tar_made_anew_for_one_of_its_members_keeps_the_others(
    config: SaveEmbeddingConfig, tmp_path: Path
) -> None:
    def write_tar(b: bytes) -> None:
        with tarfile.open(tmp_path / "s.tar", "w") as tar:
            for key in "abcd":
                data = b if key == "b" else (tmp_path / f"{key}.wav").read_bytes()
                member = tarfile.TarInfo(f"{key}.wav")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

    write_tar(b"no audio")
    (tmp_path / "shards.list").write_text("s.tar\n")
    config = replace(config, train_data=(tmp_path / "shards.list",))
    assert save_embedding(config).num_failed == 1
    write_tar((tmp_path / "b.wav").read_bytes())
    assert save_embedding(config).figures["written"] == 4


class KilledError(Exception):
    """Stands for the end of the process."""


def killed(
    config: SaveEmbeddingConfig, name: str, after: int = 0, owner: object = PartFolder
) -> None:
    """Run until a function (a method of PartFolder) is called once more than so often."""
    calls = 0
    real = getattr(owner, name)
    with pytest.MonkeyPatch.context() as patch:

        def dying(*args: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls > after:
                raise KilledError
            return real(*args, **options)

        patch.setattr(owner, name, dying)
        with pytest.raises(KilledError):
            save_embedding(config)


def test_a_list_does_not_change_before_the_first_run_is_complete(
    config: SaveEmbeddingConfig,
) -> None:
    killed(config, "write", after=1)
    relist(config, b={"wav": "b.wav"})
    with pytest.raises(DataError, match=r"give the same settings and list until .* is complete"):
        save_embedding(config)
    relist(config, b={"wav": "typo.wav"})
    assert save_embedding(config).num_failed == 1  # as it says
    relist(config, b={"wav": "b.wav"})
    assert save_embedding(config).num_failed == 0


def test_unfinished_parts_of_added_entries_are_not_thrown_away_unasked(
    config: SaveEmbeddingConfig, tmp_path: Path
) -> None:
    save_embedding(config)
    relist(config, **{f"new{index}": {"wav": "d.wav"} for index in range(4)})
    killed(config, "write", after=2)
    relist(config, b={"wav": "b.wav"})
    with pytest.raises(DataError, match=r"e\.h5\.parts: made with other settings"):
        save_embedding(config)
    hide(tmp_path, "ac")
    summary = save_embedding(replace(config, force=True))  # of these parts only
    assert summary.figures["written"] == 8


def test_the_list_of_before_does_not_remove_unfinished_parts_of_a_longer_one(
    config: SaveEmbeddingConfig, tmp_path: Path
) -> None:
    relist(config, b={"wav": "b.wav"})
    save_embedding(config)
    before = config.train_data[0].read_text()
    relist(config, **{f"new{index}": {"wav": "d.wav"} for index in range(4)})
    longer = config.train_data[0].read_text()
    killed(config, "write", after=1)
    config.train_data[0].write_text(before)
    with pytest.raises(DataError, match=r"e\.h5\.parts: made with other settings"):
        save_embedding(config)
    config.train_data[0].write_text(longer)
    hide(tmp_path, "abc")
    assert save_embedding(config).figures["written"] == 8
    config.train_data[0].write_text(longer.replace("new0", "newer"))
    with pytest.raises(DataError, match="no longer in the list"):
        save_embedding(config)


def test_a_damaged_report_of_added_entries_costs_its_part_alone(
    config: SaveEmbeddingConfig, tmp_path: Path
) -> None:
    relist(config, b={"wav": "b.wav"})
    save_embedding(config)
    before = arrays_of(config.save_path)
    relist(config, **{f"new{index}": {"wav": "d.wav"} for index in range(4)})
    killed(config, "write", after=1)
    (report,) = sorted(parts_folder(config.save_path).glob("part-*.json"))[:1]
    report.write_text(report.read_text()[:40])
    hide(tmp_path, "abc")
    assert save_embedding(replace(config, force=True)).figures["written"] == 8
    found = arrays_of(config.save_path)
    assert all(np.array_equal(found[key], before[key]) for key in before)


def test_a_retry_killed_in_its_merge_goes_on_though_some_were_dropped(
    config: SaveEmbeddingConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(31 * 16000), 16000)
    config = replace(config, long_audio="skip")
    save_embedding(config)
    relist(config, b={"wav": "b.wav"}, long={"wav": "long.wav"})
    seconds = json.loads((tmp_path / "e.h5.summary.json").read_text())["audio_seconds"]
    killed(config, "merge")
    hide(tmp_path, "abcd")
    summary = save_embedding(config)
    assert "starting over" not in caplog.text
    assert (summary.figures["written"], summary.figures["dropped"]) == (4, 1)
    assert summary.figures["audio_seconds"] == pytest.approx(seconds + 35 * 0.02)


def test_a_retry_killed_in_its_merge_is_merged_alone(
    config: SaveEmbeddingConfig, tmp_path: Path
) -> None:
    seconds = save_embedding(config).figures["audio_seconds"]
    relist(config, b={"wav": "b.wav"})
    killed(config, "merge")
    summary = merge(MergeConfig(save_path=config.save_path))
    assert (summary.num_failed, summary.figures["written"]) == (0, 4)
    assert summary.figures["audio_seconds"] == pytest.approx(seconds + 35 * 0.02)
    assert not (tmp_path / "e.h5.failed.tsv").exists()
    hide(tmp_path, "abcd")
    assert save_embedding(config).figures["written"] == 4


@pytest.mark.parametrize("place", [(merging, "write_offsets"), (parting, "_remove_folder")])
def test_a_retry_killed_behind_its_merge_is_complete(
    config: SaveEmbeddingConfig, tmp_path: Path, place: tuple[object, str]
) -> None:
    save_embedding(config)
    relist(config, b={"wav": "b.wav"})
    killed(config, place[1], owner=place[0])
    hide(tmp_path, "abcd")
    summary = save_embedding(config)
    assert (summary.num_failed, summary.figures["written"]) == (0, 4)
    assert not (tmp_path / "e.h5.failed.tsv").exists()
    assert not parts_folder(config.save_path).exists()
    assert len(EmbeddingReader(config.save_path)) == 4


def test_back_to_the_first_list_by_force_after_a_retry_killed_in_its_merge(
    config: SaveEmbeddingConfig, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(31 * 16000), 16000)
    config = replace(config, long_audio="skip")
    save_embedding(config)
    relist(config, long={"wav": "long.wav"})
    killed(config, "merge")
    relist(config, long=None)
    hide(tmp_path, "acd")
    figures = save_embedding(replace(config, force=True)).figures
    assert (figures["written"], figures["failed"], figures["dropped"]) == (3, 1, 0)


def test_parts_left_behind_a_merge_do_not_stop_another_list(
    config: SaveEmbeddingConfig, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("k2distil.storage.parts._remove_folder", lambda folder: None)
        save_embedding(config)
    assert parts_folder(config.save_path).exists()
    relist(config, b={"wav": "b.wav"})
    hide(tmp_path, "acd")
    assert save_embedding(config).figures["written"] == 4


def test_an_output_of_before_this_was_known_is_of_its_list_alone(
    config: SaveEmbeddingConfig,
) -> None:
    save_embedding(config)
    with h5py.File(config.save_path, "a") as file:
        del file.attrs["entries"]
    assert save_embedding(config).num_failed == 1
    relist(config, b={"wav": "b.wav"})
    with pytest.raises(DataError, match=r"made with other settings \(list: "):
        save_embedding(config)
