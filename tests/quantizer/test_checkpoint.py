import gzip
import os
import pickle

import pytest
import torch

from k2distil.errors import CheckpointError, DataError
from k2distil.quantizer import load_quantizer, save_quantizer


def test_a_saved_quantizer_comes_back_whole(quantizer, frames, tmp_path):
    quantizer.provenance = {"teacher": "tiny", "layer": 4, "norm": None, "seed": 0}
    quantizer.figures = {"relative_error": 0.25}
    path = save_quantizer(quantizer, tmp_path / "new" / "quantizer.pt")
    loaded = load_quantizer(path)
    assert type(loaded) is type(quantizer)
    assert loaded.id == quantizer.id
    assert loaded.provenance == quantizer.provenance
    assert loaded.figures == quantizer.figures
    assert loaded.settings == quantizer.settings
    assert torch.equal(loaded.encode(frames), quantizer.encode(frames))
    assert torch.equal(loaded.centers, quantizer.centers)
    assert os.listdir(path.parent) == ["quantizer.pt"]


def test_the_file_is_plain_and_holds_the_centers(quantizer, frames, tmp_path):
    content = torch.load(save_quantizer(quantizer, tmp_path / "q.pt"), weights_only=True)
    codes = quantizer.encode(frames[:9]).long()
    total = sum(content["centers"][n][codes[:, n]] for n in range(3))
    assert torch.allclose(total, quantizer.decode(codes), atol=1e-5)
    assert content["version"] == 1
    assert content["type"] == quantizer.type


def test_a_folder_stands_for_the_quantizer_inside(quantizer, tmp_path):
    assert save_quantizer(quantizer, tmp_path) == tmp_path / "quantizer.pt"
    assert load_quantizer(tmp_path).id == quantizer.id


def changed(quantizer, path, **changes):
    """A saved file with some entries replaced."""
    content = torch.load(save_quantizer(quantizer, path), weights_only=True)
    torch.save({**content, **changes}, path)
    return path


def test_a_missing_file_is_named_with_the_remedy(tmp_path):
    with pytest.raises(CheckpointError, match=r"no-such.pt: no such.*train_quantizer_offline.sh"):
        load_quantizer(tmp_path / "no-such.pt")


def test_another_version_is_refused(quantizer, tmp_path):
    path = changed(quantizer, tmp_path / "q.pt", version=2)
    with pytest.raises(CheckpointError, match="version 2, this k2distil reads 1"):
        load_quantizer(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"table": torch.zeros(3, 16, 15)},
        {"mean": torch.full((16,), float("nan"))},
        {"table": [1, 2]},
        {"type": "residual"},
        {"settings": {"width": 3}},
        {"figures": None},
    ],
    ids=str,
)
def test_damaged_content_is_refused(quantizer, tmp_path, changes):
    with pytest.raises(CheckpointError, match=r"q.pt: a damaged quantizer file"):
        load_quantizer(changed(quantizer, tmp_path / "q.pt", **changes))


def test_a_table_without_entries_is_refused(quantizer, tmp_path):
    with pytest.raises(CheckpointError, match=r"q.pt: (a damaged|the tensors do not match)"):
        load_quantizer(changed(quantizer, tmp_path / "q.pt", table=torch.zeros(3, 0, 16)))


def test_altered_tensors_are_refused(quantizer, tmp_path):
    path = changed(quantizer, tmp_path / "q.pt", table=quantizer.table * 1.001)
    with pytest.raises(CheckpointError, match=f"do not match the id {quantizer.id}"):
        load_quantizer(path)


def test_truncated_files_are_refused(quantizer, tmp_path):
    path = save_quantizer(quantizer, tmp_path / "q.pt")
    content = path.read_bytes()
    for size in (0, 1, len(content) // 2, len(content) - 100):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"q.pt: not a quantizer file, or a damaged one"):
            load_quantizer(path)


@pytest.mark.parametrize(
    "content", [b"Q" * 9, b"\x80\x02}r\x00"], ids=["IndexError", "struct.error"]
)
def test_a_damaged_pickle_is_refused_whatever_torch_raises(tmp_path, content):
    (tmp_path / "q.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"q\.pt: not a quantizer file, or a damaged one"):
        load_quantizer(tmp_path / "q.pt")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil-was-here",)


@pytest.mark.parametrize(
    "save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))]
)
def test_an_evil_pickle_is_refused_and_does_nothing(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save({"format": Evil()}, tmp_path / "q.pt")
    with pytest.raises(CheckpointError, match="not a quantizer file"):
        load_quantizer(tmp_path / "q.pt")
    assert not (tmp_path / "evil-was-here").exists()


def test_a_teachers_checkpoint_and_text_are_refused(tmp_path):
    torch.save({"encoder.conv1.weight": torch.zeros(3)}, tmp_path / "teacher.pt")
    with pytest.raises(CheckpointError, match="is it a teacher's checkpoint"):
        load_quantizer(tmp_path / "teacher.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="not a quantizer"):
        load_quantizer(tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="not a quantizer file"):
        load_quantizer(tmp_path / "text.pt")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an h5"),
        (gzip.compress(b"{}", mtime=0), "a gzip file"),
        (b'{"key": "a"}\n', "JSON"),
    ],
)
def test_a_file_of_another_kind_is_named_as_that(tmp_path, content, kind):
    (tmp_path / "q.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"q\.pt: {kind}, not a quantizer file; give what "):
        load_quantizer(tmp_path / "q.pt")


def test_an_unwritable_place_is_named_and_nothing_is_left(quantizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="/file: a file, where a folder is needed; give"):
        save_quantizer(quantizer, tmp_path / "file" / "q.pt")
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_an_error_and_leaves_the_old_file(quantizer, tmp_path, monkeypatch):
    path = save_quantizer(quantizer, tmp_path / "q.pt")
    before = path.read_bytes()

    def no_space(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DataError, match="No space left"):
        save_quantizer(quantizer, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["q.pt"]
