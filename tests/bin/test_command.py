import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from k2distil.bin.command import _interrupt, parse, run
from k2distil.config import SaveEmbeddingConfig, TrainDistilConfig, TrainQuantizerConfig

ROOT = Path(__file__).parents[2]
SCRIPTS = ["save_embedding.sh", "train_quantizer_offline.sh", "save_codebook.sh"]
NEEDED = ["--encoder_type", "hubert", "--checkpoint", "c", "--train_data", "d", "--save_path", "s"]


def test_flags_and_yaml_meet_in_one_config(tmp_path):
    yaml = tmp_path / "a.yaml"
    yaml.write_text("middle_layer: 12\nnum_audio: 5\n")
    argv = [*NEEDED, "--config", str(yaml), "--num_audio", "7", "--override_config", "seed 9"]
    config = parse(SaveEmbeddingConfig, argv)
    assert (config.num_audio, config.middle_layer, config.seed) == (7, 12, 9)


def test_a_switch_is_bare_or_true_or_false():
    for argv, value in [([], False), (["--train_quantizer_online"], True)]:
        assert (
            parse(TrainQuantizerConfig, ["--save_path", "q", *argv]).train_quantizer_online is value
        )
    argv = ["--save_path", "q", "--train_quantizer_online", "false"]
    assert parse(TrainQuantizerConfig, argv).train_quantizer_online is False


def test_several_lists_follow_one_flag_or_several_and_replace_those_of_the_yaml(tmp_path):
    (tmp_path / "a.yaml").write_text("train_data: of_the_yaml\n")
    rest = [*NEEDED[:4], "--save_path", "s", "--num_audio", "7", "--config", tmp_path / "a.yaml"]
    for before, more in ([], []), (["--train_data", "c"], [Path("c")]):
        argv = [*before, *rest, "--train_data", "a", "b"]
        config = parse(SaveEmbeddingConfig, list(map(str, argv)))
        assert config.train_data == (*more, Path("a"), Path("b"))
        assert config.num_audio == 7
    assert parse(SaveEmbeddingConfig, NEEDED).train_data == (Path("d"),)


def test_of_another_flag_that_is_given_twice_the_last_counts():
    assert parse(SaveEmbeddingConfig, [*NEEDED, "--seed", "1", "--seed", "2"]).seed == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--midle_layer", "3"],
            "error: --midle_layer: unknown flag; did you mean --middle_layer?",
        ),
        (["--middle", "3"], "error: --middle: unknown flag"),  # no silent abbreviations
        (["seven"], "error: seven: not a flag"),
        (["--num_audio", "x"], "error: --num_audio: invalid int value: 'x'"),
        (["--force", "maybe"], "expected true or false, got 'maybe'"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(SaveEmbeddingConfig, [*NEEDED, *argv])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_no_torch_and_names_every_flag_of_the_contract(script):
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run(
        [ROOT / script, "--help"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0
    assert not re.search(r"\| +(torch|transformers|h5py|numpy)$", done.stderr, re.MULTILINE)
    for flag in ["--checkpoint", "--encoder_type", "--middle_layer", "--save_path", "--config"]:
        assert flag in done.stdout
    assert f"usage: {script}" in done.stdout


@pytest.mark.parametrize("words", [["./link.sh"], ["sh", "link.sh"], ["bash", "link.sh"]])
def test_a_script_works_from_another_directory_and_through_a_symlink(words, tmp_path):
    (tmp_path / "link.sh").symlink_to(ROOT / "save_embedding.sh")
    done = subprocess.run([*words, "--bogus"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --bogus: unknown flag")


@pytest.mark.parametrize("script", SCRIPTS)
def test_any_shell_may_start_a_script(script):
    done = subprocess.run(["sh", ROOT / script, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: {script}" in done.stdout


def test_k2distil_lists_its_commands_and_refuses_others():
    main = [sys.executable, "-m", "k2distil"]
    listed = subprocess.run(main, capture_output=True, text=True, cwd=ROOT)
    assert listed.returncode == 0
    assert "save_codebook" in listed.stdout
    refused = subprocess.run([*main, "save_codes"], capture_output=True, text=True, cwd=ROOT)
    assert refused.returncode == 2
    assert "save_codes: unknown command; did you mean save_codebook?" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [("'No module named x', name='x'", "has no x;"), ("'torch is broken'", "torch is broken;")],
)
def test_a_module_that_is_missing_is_named_or_its_error_told(
    arguments, words, tmp_path, capsys, monkeypatch
):
    (tmp_path / "lacking.py").write_text(f"raise ModuleNotFoundError({arguments})\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lacking", raising=False)
    assert run(SaveEmbeddingConfig, "lacking:main", NEEDED) == 2
    assert f"{sys.executable}: {words} run `make venv`" in capsys.readouterr().err


def test_a_second_ctrl_c_does_not_break_the_cleaning_up_after_the_first():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            _interrupt(signal.SIGINT, None)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (errno.EACCES, 2, "error: /theirs/a.h5: Permission denied; change that, or give another"),
        (errno.ENAMETOOLONG, 2, "error: /theirs/a.h5: File name too long"),
        (errno.EBADF, 70, "error: this is a fault of k2distil"),
    ],
)
def test_a_path_that_may_not_be_looked_at_is_named(
    number, status, words, tmp_path, capsys, monkeypatch
):
    raised = f"raise OSError({number}, {os.strerror(number)!r}, '/theirs/a.h5')"
    (tmp_path / "denied.py").write_text(f"def main(config):\n    {raised}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "denied", raising=False)
    assert run(SaveEmbeddingConfig, "denied:main", NEEDED) == status
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("script", sorted(ROOT.glob("*.sh")), ids=lambda path: path.name)
def test_what_lies_where_the_user_stands_is_not_taken_for_ours(script, tmp_path):
    for name in ("k2distil", "random.py", "argparse.py"):
        path = tmp_path / name / "__init__.py" if "." not in name else tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('theirs')\n")
    done = subprocess.run([script, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: {script.name}" in done.stdout


@pytest.mark.parametrize("flag", ["--student", "--student.hidden_size", "--student=x"])
def test_a_section_of_the_yaml_is_no_flag(flag, capsys):
    with pytest.raises(SystemExit):
        parse(TrainDistilConfig, ["--train_data", "a", "--save_path", "b", flag, "3"])
    error = capsys.readouterr().err
    assert f'{flag}: student is a section of the yaml; --override_config "student.KEY' in error
