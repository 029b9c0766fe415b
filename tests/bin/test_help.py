import re
import shlex
from pathlib import Path

import pytest

from k2distil.bin.command import OPTION_GROUPS, OWN_GROUP, parse
from k2distil.bin.main import COMMANDS, main
from k2distil.config.load import option_types

ROOT = Path(__file__).parents[2]
WIDE = 100  # of a terminal


def help_of(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def groups_of(text):
    """title -> names of the flags, in their order."""
    groups = {}
    for line in text.splitlines():
        if title := re.fullmatch(r"([a-z ]+):", line):
            flags = groups.setdefault(title[1], [])
        elif flag := re.match(r"  --(\w+)", line):
            flags.append(flag[1])
    return groups


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_stands_in_a_group_with_what_is_required_first(name, capsys):
    kind = COMMANDS[name]
    groups = groups_of(help_of(name, capsys))
    assert groups.pop("options") == ["config", "override_config"]
    assert next(iter(groups)) == OWN_GROUP
    assert set(groups[OWN_GROUP][: len(kind.required)]) == set(kind.required)
    titles = [title for title in dict.fromkeys(OPTION_GROUPS.values()) if title in groups]
    assert list(groups) == [OWN_GROUP, *titles]
    flags = [flag for group in groups.values() for flag in group]
    assert len(flags) == len(set(flags))
    assert set(flags) == set(option_types(kind)) - {"student"}  # a section of the yaml


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_a_command_that_parses_and_says_where_flags_may_stand(
    name, capsys, monkeypatch
):
    monkeypatch.chdir(ROOT)  # of conf/
    *rest, example, last = help_of(name, capsys).splitlines()
    assert last == "yaml keys have the names of the flags"
    assert max(map(len, rest)) <= WIDE
    program, command, *argv = shlex.split(example.removeprefix("example: "))
    assert (program, command) == ("k2distil", name)
    assert parse(COMMANDS[name], argv)


def test_the_example_of_a_script_runs_the_script(capsys, monkeypatch):
    monkeypatch.setenv("K2DISTIL_PROG", "train_distil.sh")
    text = help_of("train_distil", capsys)
    assert "\nexample: ./train_distil.sh --config conf/train_distil.yaml" in text


def test_the_help_of_train_distil_says_where_the_student_is(capsys):
    text = help_of("train_distil", capsys)
    assert "is the yaml section `student:`, see conf/train_distil.yaml" in text


def test_commands_are_listed_in_groups_with_a_phrase_each(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^([a-z ]+):$", text, re.M) == ["the four steps", "students", "files"]
    assert re.findall(r"^  (\w+) +\w.*[^.]$", text, re.M) == list(COMMANDS)
    assert text.rstrip().endswith(
        "k2distil COMMAND --help lists its flags; k2distil --version prints the version."
    )
