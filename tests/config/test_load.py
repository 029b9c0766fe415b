from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from k2distil.config import (
    ExportConfig,
    SaveCodebookConfig,
    SaveEmbeddingConfig,
    TrainDistilConfig,
    load_config,
)
from k2distil.errors import ConfigError
from k2distil.yaml_file import dump_yaml, parse_yaml

GOOD = """
encoder_type: hubert
checkpoint: /m/hubert
middle_layer: 12
train_data: data.list
save_path: out.h5
batch_seconds: 90
"""

WENET = """
accum_grad: 4
dtype: bf16
encoder: transformer
encoder_conf: {attention_heads: 4, input_layer: conv1d2, dropout_rate: 0.1}
dataset_conf: {filter_conf: {max_length: 3000, min_length: 10}, spec_aug: true}
"""

FLAGS = {
    "encoder_type": "wenet-whisper",
    "checkpoint": "a.pt",
    "train_data": Path("data.list"),
    "save_path": Path("x.h5"),
}


@pytest.fixture
def conf(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "a.yaml"
        path.write_text(text)
        return path

    return write


def test_flags_win_over_overrides_and_those_over_yaml_and_that_over_defaults(conf):
    config = load_config(
        SaveEmbeddingConfig,
        conf(GOOD + "seed: 1\nchannel: 1\n"),
        ["seed 2", "num_audio 5"],
        {"seed": 3},
    )
    assert (config.seed, config.num_audio, config.channel, config.part_utterances) == (3, 5, 1, 256)
    assert (config.middle_layer, config.batch_seconds) == (12, 90.0)


def test_all_errors_are_reported_together_with_file_and_key(conf):
    text = GOOD.replace("middle_layer", "midle_layer") + "num_audio: many\nchannel: -1\n"
    with pytest.raises(ConfigError) as caught:
        load_config(SaveEmbeddingConfig, conf(text))
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "a.yaml: midle_layer: unknown key; did you mean middle_layer?" in lines[0]
    assert "a.yaml: num_audio: expected a whole number, got 'many'" in lines[1]
    assert "a.yaml: channel: expected at least 0, got -1" in lines[2]


def test_a_missing_key_is_named_with_its_flag(conf):
    with pytest.raises(ConfigError, match="--save_path: missing; add it"):
        load_config(SaveEmbeddingConfig, conf(GOOD.replace("save_path: out.h5\n", "")))


def test_a_bool_is_not_an_int_and_a_number_is_a_gpu(conf):
    with pytest.raises(ConfigError, match="seed: expected a whole number, got True"):
        load_config(SaveEmbeddingConfig, conf(GOOD + "seed: true\n"))
    assert load_config(SaveEmbeddingConfig, conf(GOOD + "gpu: 1\n")).gpu == "1"


@pytest.mark.parametrize("seed", [-1, 2**32, 99999999999999999999])
def test_a_seed_that_torch_or_numpy_does_not_take_is_refused(seed, conf):
    with pytest.raises(ConfigError, match=r"seed: expected at (least 0|most 4294967295), got"):
        load_config(SaveEmbeddingConfig, conf(GOOD), (), {"seed": seed})
    assert load_config(SaveEmbeddingConfig, conf(GOOD), (), {"seed": 2**32 - 1}).seed == 2**32 - 1


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_a_number_is_finite(value, conf):
    with pytest.raises(ConfigError, match="batch_seconds: expected a finite number"):
        load_config(SaveEmbeddingConfig, conf(GOOD), [f"batch_seconds {value}"])


@pytest.mark.parametrize("key", ["save_path", "student_checkpoint"])
def test_a_folder_that_safetensors_cannot_open_is_refused_by_name(key, conf):
    path = conf("train_data: a\nsave_path: b\n")
    named = {key: Path("exp/\udcd6\udcd0")}
    message = rf"--{key}: expected a name in UTF-8, .* got exp/\udcd6\udcd0; rename"
    with pytest.raises(ConfigError, match=message):
        load_config(TrainDistilConfig, path, (), named)
    assert load_config(TrainDistilConfig, path, (), {key: Path("exp/中")})


def test_one_yaml_may_hold_the_keys_of_every_command(conf):
    config = load_config(SaveEmbeddingConfig, conf(GOOD + "quantizer_out_dim: 4\n"))
    assert not hasattr(config, "quantizer_out_dim")
    config = load_config(SaveCodebookConfig, conf(GOOD + "quantizer_out_dim: 4\n"))
    assert config.quantizer_out_dim == 4


def test_the_dtype_of_an_export_is_a_flag_since_a_yaml_has_the_teachers(conf):
    path = conf("dtype: auto\nto: lhotse\nsave_path: cuts.jsonl\n")
    assert load_config(ExportConfig, path).dtype is None
    assert load_config(ExportConfig, path, (), {"dtype": "int16"}).dtype == "int16"


def test_a_number_may_have_an_exponent_and_no_dot(conf):
    text = GOOD + "lease_seconds: 1e1\n"
    config = load_config(SaveEmbeddingConfig, conf(text), ["decode_timeout 5e+2"])
    assert (config.lease_seconds, config.decode_timeout) == (10.0, 500.0)
    text = "train_data: a\nsave_path: b\nstudent: {initializer_range: 5e-2, note: 1e}\n"
    assert load_config(TrainDistilConfig, conf(text)).student == {
        "initializer_range": 0.05,
        "note": "1e",
    }


def test_a_key_that_comes_twice_is_refused_at_any_depth(conf):
    for text in ("seed: 1\nseed: 1\n", "student: [{a: 1, b: {c: 1, c: 2}}]\n"):
        with pytest.raises(ConfigError, match="comes twice"):
            load_config(SaveEmbeddingConfig, conf(GOOD + text))
    with pytest.raises(ConfigError, match="line 3, column 1"):
        load_config(SaveEmbeddingConfig, conf("seed: 1\nnum_audio: 2\nseed: 1\n"))


def test_whole_numbers_are_those_of_yaml_1_2():
    text = "[1:4, 010, 0o10, 0x1F, -7, +1_000, 0b1, 1:30:00]"
    assert parse_yaml(text) == ["1:4", 10, 8, 31, -7, 1000, "0b1", "1:30:00"]


def test_what_is_written_reads_back_as_it_was():
    tree = {"save_path": "1e3", "gpu": "0", "learning_rate": 1e-7, "student": {"a": ["2E5", True]}}
    tree["student"]["texts"] = ["1:4", "010", "0o10", "0x1F", "-7", "1_000", "0b1"]
    assert parse_yaml(dump_yaml(tree)) == tree


@example("\x85\u2028\u2029")
@given(st.text())
def test_names_read_back_as_they_were_and_chinese_stays_readable(name):
    assert parse_yaml(dump_yaml({"path": name + "\udcd6"})) == {"path": name + "\udcd6"}
    assert parse_yaml(dump_yaml({"path": name})) == {"path": name}
    assert dump_yaml({"path": "数据/训练.list"}) == "path: 数据/训练.list\n"


def test_a_yaml_may_merge_sections(conf):
    tree = parse_yaml("a: &a {x: 1, y: 2}\nb: {c: &c {<<: *a, x: 3}}\nd: {<<: *c, z: 4}\n")
    assert (tree["b"], tree["d"]["z"]) == ({"c": {"x": 3, "y": 2}}, 4)
    assert load_config(SaveEmbeddingConfig, conf(GOOD + "<<: {seed: 3, channel: 1}\n")).seed == 3


def test_an_override_reaches_into_a_section_wherever_it_comes_from(conf):
    path = conf("train_data: a\nsave_path: b\n")
    deep = "student.encoder_config.hidden_size 96"
    config = load_config(TrainDistilConfig, path, [deep])
    assert config.student == {"encoder_config": {"hidden_size": 96}}
    config = load_config(TrainDistilConfig, path, ["student {model_type: parakeet_ctc}", deep])
    assert config.student == {
        "model_type": "parakeet_ctc",
        "encoder_config": {"hidden_size": 96},
    }
    with pytest.raises(ConfigError, match="student: a value, not a section"):
        load_config(TrainDistilConfig, path, ["student 3", deep])


def test_a_wenet_yaml_describes_the_teacher_and_sets_no_option_of_ours(conf):
    config = load_config(SaveEmbeddingConfig, conf(WENET), (), FLAGS)
    assert config.dtype == "auto"
    assert config.wenet_yaml["encoder_conf"]["attention_heads"] == 4


def test_options_in_a_wenet_yaml_are_told_but_its_own_dtype_is_none(conf, caplog):
    load_config(SaveEmbeddingConfig, conf(WENET), (), FLAGS)
    assert "not read" not in caplog.text
    load_config(SaveEmbeddingConfig, conf(f"num_audio: 5\n{WENET}"), (), FLAGS)
    assert "not read from a WeNet yaml: num_audio; give flags" in caplog.text


def test_an_override_reaches_into_a_wenet_yaml(conf):
    overrides = ["encoder_conf.attention_heads 8", "batch_seconds 10"]
    config = load_config(SaveEmbeddingConfig, conf(WENET), overrides, FLAGS)
    assert config.wenet_yaml["encoder_conf"]["attention_heads"] == 8
    assert config.batch_seconds == 10.0


def test_a_typo_in_an_override_does_not_pass(conf):
    for yaml_text in (WENET, GOOD):
        with pytest.raises(ConfigError, match=r"batch_secnds.*did you mean batch_seconds"):
            load_config(SaveEmbeddingConfig, conf(yaml_text), ["batch_secnds 3"], FLAGS)


def test_a_slip_of_a_key_that_the_yaml_need_not_have_does_not_pass(conf):
    text = WENET.replace("spec_aug: true", "log_mel_spectrogram_conf: {n_fft: 400}")
    section = "dataset_conf.log_mel_spectrogram_conf"
    with pytest.raises(ConfigError, match=r"pad_trim.*did you mean pad_or_trim"):
        load_config(SaveEmbeddingConfig, conf(text), [f"{section}.pad_trim true"], FLAGS)
    config = load_config(SaveEmbeddingConfig, conf(text), [f"{section}.pad_or_trim true"], FLAGS)
    assert config.wenet_yaml["dataset_conf"]["log_mel_spectrogram_conf"]["pad_or_trim"] is True
    with pytest.raises(ConfigError, match=r"max_length 100.*unknown key"):
        load_config(SaveEmbeddingConfig, conf(WENET), ["max_length 100"], FLAGS)


@pytest.mark.parametrize("text", ["- a\n", "a: [", "1: 2\n"])
def test_what_is_no_mapping_is_refused_with_its_path(conf, text):
    with pytest.raises(ConfigError, match=r"a\.yaml: "):
        load_config(SaveEmbeddingConfig, conf(text), (), FLAGS)


def test_an_empty_yaml_changes_nothing_and_a_missing_one_is_named(conf, tmp_path):
    assert load_config(SaveEmbeddingConfig, conf(""), (), FLAGS).num_audio == 1000
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file or directory; see conf/"):
        load_config(SaveEmbeddingConfig, tmp_path / "none.yaml", (), FLAGS)


def test_the_yaml_files_in_conf_are_valid():
    paths = sorted((Path(__file__).parents[2] / "conf").glob("*.yaml"))
    assert len(paths) >= 4
    for path in paths:
        load_config(SaveCodebookConfig, path, (), FLAGS)


def test_one_list_or_several_are_given_by_flag_override_or_yaml(conf):
    one = load_config(SaveEmbeddingConfig, conf(GOOD))
    assert one.train_data == (Path("data.list"),)
    several = load_config(SaveEmbeddingConfig, conf(GOOD.replace("data.list", "[a.list, b.list]")))
    assert several.train_data == (Path("a.list"), Path("b.list"))
    overrides = ["train_data [c, d]"]
    config = load_config(SaveEmbeddingConfig, conf(GOOD), overrides)
    assert config.train_data == (Path("c"), Path("d"))
    for wrong in ("[]", "[a.list, 7]", "7"):
        with pytest.raises(ConfigError, match=r"train_data: expected a path"):
            load_config(SaveEmbeddingConfig, conf(GOOD.replace("data.list", wrong)))
