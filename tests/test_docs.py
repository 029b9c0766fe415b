"""The documents name what there is."""

import re
from pathlib import Path

import pytest
import torch

from k2distil.bin.command import parse
from k2distil.config import (
    ExportConfig,
    SaveCodebookConfig,
    SaveEmbeddingConfig,
    TrainDistilConfig,
    TrainQuantizerConfig,
)
from k2distil.config.load import option_types
from k2distil.quantizer import ProductQuantizer, save_quantizer

ROOT = Path(__file__).parent.parent
COMMANDS = {"E": SaveEmbeddingConfig, "Q": TrainQuantizerConfig, "C": SaveCodebookConfig}


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_flags_table_says_which_script_takes_which_flag(name):
    rows = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("| `--") and line.count("|") == 7:
            flags, _, _, *scripts = (cell.strip() for cell in line.strip("|").split("|"))
            for flag in flags.replace("、", ",").split(","):
                rows[flag.strip().strip("`").removeprefix("--")] = scripts
    of_parser = {"config", "override_config"}
    options = {letter: set(option_types(kind)) | of_parser for letter, kind in COMMANDS.items()}
    assert rows.keys() == set().union(*options.values())
    for flag, scripts in rows.items():
        takers = {letter for letter, mark in zip("EQC", scripts, strict=True) if mark}
        assert takers == {letter for letter in "EQC" if flag in options[letter]}, flag


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_second_table_has_the_flags_of_train_distil(name):
    named = set()
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("| `--") and line.count("|") == 4:
            named |= set(re.findall(r"`--(\w+)`", line.split("|")[1]))
    assert named == set(option_types(TrainDistilConfig)) | {"config", "override_config"}


def test_every_field_of_a_quantizer_file_is_documented(tmp_path):
    quantizer = ProductQuantizer(torch.randn(2, 4, 8), torch.zeros(8), torch.ones(()))
    fields = torch.load(save_quantizer(quantizer, tmp_path / "q.pt"), weights_only=True)
    documented = (ROOT / "docs" / "quantizer.md").read_text(encoding="utf-8")
    assert len(fields) > 8
    assert [field for field in fields if f"`{field}`" not in documented] == []


def test_the_example_of_an_export_is_a_command_that_parses():
    text = (ROOT / "docs" / "quantizer.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("k2distil export ")]
    config = parse(ExportConfig, line.split()[2:])
    assert (config.to, config.force) == ("multi_quantization", False)


def test_links_between_documents_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for part in document.read_text(encoding="utf-8").split("](")[1:]:
            target = part.partition(")")[0].partition("#")[0]
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document}: {target}"
