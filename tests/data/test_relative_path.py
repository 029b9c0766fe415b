"""Relative paths of lists: beside the list, beside what it is a link to, or here."""

import os
from pathlib import Path

import pytest

from k2distil.data import read_list
from tests.data.test_manifest import write_lines


def test_a_list_in_the_working_directory_costs_no_look_at_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lines(tmp_path / "data.list", *({"key": key, "wav": key} for key in "abc"))
    monkeypatch.chdir(tmp_path)
    looked: list[object] = []
    monkeypatch.setattr(os.path, "exists", looked.append)
    for each in (path, Path("data.list")):
        assert [Path(utterance.wav).name for utterance in read_list(each, "raw")] == ["a", "b", "c"]
    assert looked == []


def test_relative_paths_are_beside_the_list_or_else_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for file in (there / "wavs" / "a", here / "wavs" / "b", here / "only_here" / "c", here / "d"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.chdir(here)
    wavs = ["wavs/a", "wavs/b", "only_here/c", "d", "wavs/nowhere", "nowhere/e"]
    path = write_lines(
        there / "data.list", *({"key": wav[-3:].replace("/", "_"), "wav": wav} for wav in wavs)
    )
    expected = [there / wavs[0], wavs[1], wavs[2], wavs[3], there / wavs[4], there / wavs[5]]
    assert [u.wav for u in read_list(path)] == [str(wav) for wav in expected]


@pytest.mark.parametrize("kind", ["raw", "kaldi"])
def test_of_a_link_relative_paths_are_beside_it_or_else_beside_the_list(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, there, here = (tmp_path / name for name in ("link", "there", "here"))
    for folder, names in ((link, "a"), (there, "ab"), (here, "bc")):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    monkeypatch.chdir(here)
    name = {"raw": "data.list", "kaldi": "wav.scp"}[kind]
    if kind == "raw":
        write_lines(there / name, *({"key": wav, "wav": wav} for wav in "abcd"))
    else:
        (there / name).write_text("".join(f"{wav} {wav}\n" for wav in "abcd"))
    (link / name).symlink_to(Path("..", "there", name))
    expected = [str(link / "a"), str(there / "b"), "c", str(link / "d")]
    assert [u.wav for u in read_list(link / name)] == expected
