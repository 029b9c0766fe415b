"""The three scripts in sequence, as a user runs them."""

import json
from functools import partial

import h5py
import numpy as np
import pytest
import torch
import yaml

from k2distil.quantizer import load_quantizer
from k2distil.storage import CodebookReader
from tests.scripts.conftest import GOLDEN, ROOT, WENET_TEACHER, k2distil, run, speech, succeed
from tests.teachers.tiny import make_hf_hubert, make_hf_waveform, make_hf_whisper, make_openai

SMALL = ["--quantizer_out_dim", 4, "--quantizer_codebook_size", 16]


@pytest.mark.parametrize("teacher", ["wenet_conv1d2", "wenet_conv2d"])
def test_wenet_layers_equal_wenets_own_output(teacher, empty_corpus, tmp_path):
    golden = np.load(GOLDEN / teacher / "outputs.npz")
    waves = {name: golden[name] for name in golden if name.startswith("wave")}
    for name, samples in waves.items():
        empty_corpus.add(name, samples, subtype="FLOAT")
    layers = {"last": (-1, "none")}
    for name in golden:
        kind, _, _ = name.rpartition("_")
        if kind in ("block1", "block2"):  # the last block alone is no layer of ours
            layers[f"{kind}_"] = (int(kind.removeprefix("block")), "none")
        elif kind.startswith("normed"):
            layers[f"{kind}_"] = (int(kind.removeprefix("normed")), "final")
    assert len(layers) == 5
    for prefix, (layer, norm) in layers.items():
        save_path = tmp_path / f"{prefix}.h5"
        succeed(
            *("save_embedding.sh", "--encoder_type", "wenet-whisper"),
            *("--checkpoint", GOLDEN / teacher / "final.pt", "--middle_layer", layer),
            *("--config", GOLDEN / teacher / "train.yaml", "--middle_layer_norm", norm),
            *("--train_data", empty_corpus.path, "--save_path", save_path),
            *("--embedding_dtype", "float32"),
        )
        with h5py.File(save_path) as file:
            assert file.keys() == waves.keys()
            for name in waves:
                expected = golden[prefix + name.removeprefix("wave")]
                np.testing.assert_allclose(file[name][:], expected, rtol=0, atol=1e-5)


def test_the_whole_chain_gives_the_codes_of_the_embeddings(corpus, tmp_path):
    by_script = partial(succeed, by_script=True)
    by_script(
        *("save_embedding.sh", *WENET_TEACHER, "--train_data", corpus.path),
        *("--num_audio", 20, "--save_path", tmp_path / "embedding.h5"),
    )
    log = by_script(
        *("train_quantizer_offline.sh", "--embedding_path", tmp_path / "embedding.h5", *SMALL),
        *("--save_path", tmp_path / "offline", "--quantizer_in_dim", 64),
    )
    assert "embeddings of dimension 64" in log
    by_script(
        *("train_quantizer_offline.sh", *WENET_TEACHER, "--train_data", corpus.path, *SMALL),
        *("--train_quantizer_online", "--num_audio", 20, "--save_path", tmp_path / "online.pt"),
    )
    codes_path = tmp_path / "codes.h5"
    by_script(
        *("save_codebook.sh", *WENET_TEACHER, "--train_data", corpus.path, "--save_codebook"),
        *("--quantizer_path", tmp_path / "offline", "--save_path", codes_path),
    )
    by_script(
        *("save_codebook.sh", *WENET_TEACHER, "--train_data", corpus.path),
        *("--save_path", tmp_path / "all.h5", "--embedding_dtype", "float32"),
    )
    quantizer = load_quantizer(tmp_path / "offline" / "quantizer.pt")
    assert load_quantizer(tmp_path / "online.pt").id == quantizer.id

    codes = CodebookReader(codes_path)
    assert list(codes) == [f"utt{index:02}" for index in range(24)]
    assert codes.meta["quantizer_id"] == quantizer.id
    with h5py.File(tmp_path / "all.h5") as embeddings, h5py.File(codes_path) as file:
        assert embeddings.keys() == file.keys()
        for key in codes:
            assert file[key].dtype == np.uint8
            expected = quantizer.encode(torch.from_numpy(embeddings[key][:])).numpy()
            np.testing.assert_array_equal(file[key][:], expected)
            np.testing.assert_array_equal(codes[key], expected)
    formats = (ROOT / "docs" / "formats.md").read_text()
    for path in (codes_path, tmp_path / "all.h5"):
        with h5py.File(path) as file:
            assert [name for name in file.attrs if f"`{name}`" not in formats] == []
    with h5py.File(tmp_path / "embedding.h5") as sample:
        assert len(sample) == 20
        assert {dataset.dtype for dataset in sample.values()} == {np.dtype(np.float16)}

    summary = json.loads((tmp_path / "codes.h5.summary.json").read_text())
    assert (summary["written"], summary["failed"], summary["dropped"]) == (24, 0, 0)
    assert summary["frames"] == sum(len(codes[key]) for key in codes)
    assert summary["audio_seconds"] == pytest.approx(sum(0.5 + 0.05 * n for n in range(24)))
    assert summary["wall_seconds"] > 0
    assert summary["dim"] == 64
    assert {"torch", "k2distil"} <= summary["versions"].keys()
    assert summary["fingerprint"]["quantizer_id"] == quantizer.id
    trained = json.loads((tmp_path / "offline" / "quantizer.pt.summary.json").read_text())
    assert 0 < trained["held_out"]["relative_error"] < 1
    assert 0 < trained["held_out"]["usage"] <= 1


def test_the_resolved_config_repeats_the_run(corpus, tmp_path):
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--num_audio", 3, "--seed", 5]
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    succeed("save_embedding.sh", *flags, "--save_path", first)
    config = tmp_path / "a.h5.config.yaml"
    assert yaml.safe_load(config.read_text())["num_audio"] == 3
    succeed("save_embedding.sh", "--config", config, "--save_path", second)
    with h5py.File(first) as one, h5py.File(second) as other:
        assert one.keys() == other.keys()
        assert len(one) == 3
        for key in one:
            np.testing.assert_array_equal(one[key][:], other[key][:])


@pytest.mark.parametrize(
    ("encoder_type", "make"),
    [
        ("huggingface-whisper", make_hf_whisper),
        ("huggingface-whisper", make_openai),
        ("wenet-whisper", make_openai),
        ("hubert", make_hf_hubert),
        ("wavlm", partial(make_hf_waveform, kind="WavLMModel")),
    ],
)
def test_every_teacher_runs_through_the_scripts(encoder_type, make, corpus, tmp_path):
    teacher = ["--encoder_type", encoder_type, "--checkpoint", make(tmp_path / "teacher")]
    teacher += ["--middle_layer", 1, "--train_data", corpus.path]
    quantizer = tmp_path / "q.pt"
    succeed(
        *("train_quantizer_offline.sh", *teacher, *SMALL, "--train_quantizer_online"),
        *("--save_path", quantizer),
    )
    codes_path = tmp_path / "codes.h5"
    flags = [*teacher, "--save_codebook", "--quantizer_path", quantizer, "--save_path", codes_path]
    succeed("save_codebook.sh", *flags)
    codes = CodebookReader(codes_path)
    assert len(codes) == 24
    assert codes.meta["middle_layer"] == 1
    for index, key in enumerate(codes):
        assert abs(len(codes[key]) - (0.5 + 0.05 * index) * 50) <= 1.5


def test_a_finished_output_is_left_alone(corpus, tmp_path):
    flags = [*WENET_TEACHER, "--train_data", corpus.path, "--save_path", tmp_path / "a.h5"]
    succeed("save_embedding.sh", *flags)
    stamp = (tmp_path / "a.h5").stat().st_mtime_ns
    assert "complete already" in succeed("save_embedding.sh", *flags)
    assert (tmp_path / "a.h5").stat().st_mtime_ns == stamp


def test_another_batch_size_gives_the_same_codes(corpus, tmp_path):
    quantizer = tmp_path / "q.pt"
    teacher = [*WENET_TEACHER, "--train_data", corpus.path]
    succeed(
        *("train_quantizer_offline.sh", *teacher, *SMALL, "--train_quantizer_online"),
        *("--save_path", quantizer),
    )
    flags = [*teacher, "--save_codebook", "--quantizer_path", quantizer]
    for name, batch in [("a.h5", 1), ("b.h5", 60)]:
        succeed(
            "save_codebook.sh", *flags, "--batch_seconds", batch, "--save_path", tmp_path / name
        )
    one, other = CodebookReader(tmp_path / "a.h5"), CodebookReader(tmp_path / "b.h5")
    differing = sum((one[key] != other[key]).sum() for key in one)
    assert differing <= 2  # of 5,000: rounding at a boundary between two entries


def test_long_audio_of_conv2d_is_as_long_as_verify_expects(empty_corpus, tmp_path):
    empty_corpus.add("long", speech(151.0))
    checkpoint = GOLDEN / "wenet_conv2d" / "final.pt"
    teacher = ["--encoder_type", "wenet-whisper", "--checkpoint", checkpoint]
    flags = ["--train_data", empty_corpus.path]
    path = tmp_path / "e.h5"
    succeed("save_embedding.sh", *teacher, *flags, "--long_audio", "chunk", "--save_path", path)
    with h5py.File(path) as file:
        assert len(file["long"]) == ((15100 - 1) // 2 - 1) // 2
    assert "all right" in k2distil("verify", "--embedding_path", path, *flags)


def test_long_audio_is_cut_in_pieces_or_left_out_as_asked(empty_corpus, tmp_path):
    empty_corpus.add("long", speech(31.0))
    empty_corpus.add("short", speech(1.0))
    flags = [*WENET_TEACHER, "--train_data", empty_corpus.path]
    succeed("save_embedding.sh", *flags, "--long_audio", "chunk", "--save_path", tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5") as file:
        assert {key: len(file[key]) for key in file} == {"long": 1550, "short": 50}
    succeed("save_embedding.sh", *flags, "--long_audio", "skip", "--save_path", tmp_path / "s.h5")
    with h5py.File(tmp_path / "s.h5") as file:
        assert list(file) == ["short"]
    assert "31 s is longer than" in (tmp_path / "s.h5.dropped.tsv").read_text()
    done = run("save_embedding.sh", *flags, "--save_path", tmp_path / "e.h5")
    assert done.returncode == 1
    assert "use --long_audio chunk or skip" in (tmp_path / "e.h5.failed.tsv").read_text()


def test_filter_conf_of_a_given_wenet_yaml_drops_and_lists(empty_corpus, tmp_path):
    for seconds in (0.5, 1.0, 2.0):
        empty_corpus.add(f"s{seconds}".replace(".", "_"), speech(seconds))
    tree = yaml.safe_load((GOLDEN / "wenet_conv1d2" / "train.yaml").read_text())
    tree["dataset_conf"]["filter_conf"] |= {"min_length": 60, "max_length": 150}
    conf = tmp_path / "train.yaml"
    conf.write_text(yaml.safe_dump(tree))
    flags = [*WENET_TEACHER, "--train_data", empty_corpus.path, "--save_path", tmp_path / "a.h5"]
    succeed("save_embedding.sh", *flags, "--config", conf)
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file) == ["s1_0"]
    dropped = (tmp_path / "a.h5.dropped.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in dropped] == ["key", "s0_5", "s2_0"]
    assert json.loads((tmp_path / "a.h5.summary.json").read_text())["dropped"] == 2
