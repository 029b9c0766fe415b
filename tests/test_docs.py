"""The documents name what there is."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.utils.data.datapipes.iter import IterableWrapper

from k2distil.bin.command import parse
from k2distil.config import (
    ExportConfig,
    SaveCodebookConfig,
    SaveEmbeddingConfig,
    TrainDistilConfig,
    TrainQuantizerConfig,
)
from k2distil.config.load import option_types
from k2distil.data import read_list
from k2distil.interop.wenet import CodebookOptions, read_options
from k2distil.quantizer import ProductQuantizer, save_quantizer
from tests.interop.wenet import stand_ins
from tests.storage.arrays import make_h5

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


def blocks(document, language):
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    return [part.partition("```")[0] for part in text.split(f"```{language}\n")[1:]]


def test_the_exports_for_lhotse_are_commands_that_parse():
    lines = "\n".join(blocks("interop.md", "bash")).splitlines()
    configs = [
        parse(ExportConfig, line.split()[2:]) for line in lines if line.startswith("k2distil")
    ]
    assert [config.to for config in configs] == ["lhotse", "lhotse"]
    assert all(config.codebook_path and config.save_path for config in configs)


def test_the_yaml_for_wenet_gives_the_defaults_it_says():
    (text,) = blocks("interop.md", "yaml")
    options = read_options(yaml.safe_load(text))
    assert options == CodebookOptions(num_codebooks=8, frames_ratio=2)


def test_the_snippets_of_the_losses_run():
    snippets = blocks("interop.md", "python")
    names: dict = {}
    exec(snippets[0], names)
    assert names["aligned"].shape == (4, 50, 16)
    assert names["loss"].head.linear.weight.grad.any()
    package = pytest.importorskip("multi_quantization.prediction")
    names["JointCodebookLoss"] = package.JointCodebookLoss
    exec(snippets[-1], names)
    assert torch.equal(names["theirs"].linear1.bias, names["ours"].head.project.bias)


def test_the_snippets_for_wenet_run_on_what_has_its_signatures(tmp_path):
    train, module, dataset = blocks("interop.md", "python")[1:4]
    (text,) = blocks("interop.md", "yaml")
    codes = np.random.default_rng(0).integers(0, 256, (19, 8), np.uint8)
    conf = {"codebook_path": make_h5(tmp_path / "codes.h5", {"utt1": codes})}
    names = {
        "conf": conf,
        "dataset": IterableWrapper([{"key": "utt1", "feat": torch.zeros(40, 4)}]),
    }
    names["processor"] = stand_ins
    exec(f"{module}\n{dataset}", names)
    (batch,) = names["dataset"].batch(1, wrapper_class=names["padding"])
    assert batch["codes"].shape == (1, 19, 8)
    args = argparse.Namespace(checkpoint=None)
    names = {"model": stand_ins.ASRModel(), "configs": yaml.safe_load(text), "args": args}
    exec(train, names)
    assert names["model"](batch, torch.device("cpu"))["loss_codebook"] > 0


def without_comments(code):
    return re.sub(r" *#.*", "", code).strip()


def test_the_chinese_document_for_wenet_has_the_same_code():
    assert [yaml.safe_load(text) for text in blocks("interop.zh.md", "yaml")] == [
        yaml.safe_load(text) for text in blocks("interop.md", "yaml")
    ]
    assert blocks("interop.zh.md", "python") == blocks("interop.md", "python")[1:4]


@pytest.mark.parametrize("language", ["bash", "python"])
def test_both_readmes_have_the_same_commands_and_snippets(language):
    one, two = (
        [without_comments(code) for code in blocks(f"../{name}", language)]
        for name in ("README.md", "README.zh.md")
    )
    assert len(one) > 1
    assert one == two


def test_the_steps_of_the_readme_are_commands_that_parse(monkeypatch):
    monkeypatch.chdir(ROOT)  # of conf/
    text = next(code for code in blocks("../README.md", "bash") if "train_distil.sh" in code)
    steps = without_comments(text).replace("\\\n", " ").split("\n\n")
    kinds = [*COMMANDS.values(), TrainDistilConfig]
    configs = [parse(kind, step.split()[1:]) for kind, step in zip(kinds, steps, strict=True)]
    assert configs[0].save_path == configs[1].embedding_path
    assert configs[1].save_path == configs[2].quantizer_path
    assert configs[3].codebook_path == (configs[2].save_path,)


def anchors(document):
    """As GitHub makes them of headings."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_between_documents_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for part in document.read_text(encoding="utf-8").split("](")[1:]:
            target, _, anchor = part.partition(")")[0].partition("#")
            if not target.startswith("http"):
                found = document.parent / target if target else document
                assert found.exists(), f"{document}: {target}"
                assert not anchor or anchor in anchors(found), f"{document}: {target}#{anchor}"


def test_what_converts_a_nemo_manifest_makes_a_list(tmp_path):
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    script = next(
        each for each in re.findall(r"```python\n(.*?)```", text, re.S) if "audio_filepath" in each
    )
    rows = [
        {"audio_filepath": "a.wav", "text": "\u4f60\u597d", "duration": 2.0},
        {"audio_filepath": "b.wav", "text": "two", "duration": 1.5, "offset": 3.0},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=lines,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    (tmp_path / "data.list").write_text(done.stdout, encoding="utf-8")
    one, two = read_list(tmp_path / "data.list")
    assert (Path(one.wav).name, one.text, one.start, one.end) == (
        "a.wav",
        "\u4f60\u597d",
        None,
        None,
    )
    assert (Path(two.wav).name, two.text, two.start, two.end) == ("b.wav", "two", 3.0, 4.5)
    assert one.key != two.key
