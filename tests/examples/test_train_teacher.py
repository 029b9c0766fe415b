"""The committed teacher, and the script that made it, on a few utterances."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from k2distil.errors import CheckpointError

TEACHER = Path(__file__).parents[2] / "examples" / "digits" / "teacher"
MEGABYTE = 1_000_000  # bytes


def test_the_committed_folder_is_at_most_4_mb() -> None:
    names = {path.name for path in TEACHER.iterdir()}
    assert {"config.json", "preprocessor_config.json", "model.safetensors", "README.md"} <= names
    assert sum(path.stat().st_size for path in TEACHER.iterdir()) <= 4 * MEGABYTE


@pytest.mark.parametrize(("lang", "split"), [("en", "DEV"), ("en", "TEST"), ("cmn", "TEST")])
def test_the_committed_teacher_understands_voices_it_never_heard(
    needs_espeak: None, lang: str, split: str
) -> None:
    import make_speech
    from train_teacher import Recogniser, word_error_rate

    recipes = make_speech.plan(lang, getattr(make_speech, f"{split}_VOICES"), 24, seed=3)
    assert word_error_rate(Recogniser.load(TEACHER), recipes) <= 0.1


def test_transformers_accepts_the_encoder_and_computes_the_same() -> None:
    from k2distil.batch import AudioBatch
    from k2distil.teachers import build_teacher

    teacher = build_teacher("huggingface-whisper", str(TEACHER), whisper_padding="30s")
    from transformers import WhisperFeatureExtractor, WhisperModel

    model, info = WhisperModel.from_pretrained(
        str(TEACHER), dtype=torch.float32, output_loading_info=True
    )
    assert not info["unexpected_keys"]
    assert not [key for key in info["missing_keys"] if not key.startswith("decoder.")]
    samples = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    extractor = WhisperFeatureExtractor.from_pretrained(str(TEACHER))
    features = extractor(samples.numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        theirs = model.eval().encoder(features.input_features).last_hidden_state[0, :50]
    ours = teacher.embed(AudioBatch(["a"], samples[None], torch.tensor([16000]))).embedding[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_no_voice_of_the_demo_s_dev_and_test_lists_is_trained_on(needs_espeak: None) -> None:
    from make_speech import DEV_VOICES, TEST_VOICES
    from spoken_digits import training_recipes

    recipes = training_recipes(2000, seed=0)
    assert len(recipes) == 2000
    assert {recipe.lang for recipe in recipes} == {"en", "cmn", "yue"}
    voices = {recipe.voice.partition("+")[2] for recipe in recipes}
    assert len(voices) > 80
    assert not voices & {*DEV_VOICES, *TEST_VOICES}


def test_phoneme_labels_follow_the_speech_when_it_is_stretched(
    needs_espeak: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import spoken_digits
    from make_speech import plan, train_voices

    from k2distil.teachers.log_mel import mel_filters

    item = spoken_digits.speak_recipe(plan("en", train_voices(), 1, seed=0)[0])
    ids = {name: index for index, name in enumerate(sorted({*item.phones, "_"}))}
    names = sorted(ids)
    for stretch in (1.0, 1.1):
        positions = np.arange(0, len(item.samples) - 1, 1 / stretch)
        stretched = np.interp(positions, np.arange(len(item.samples)), item.samples)
        monkeypatch.setattr(
            spoken_digits,
            "augment",
            lambda samples, rng, x=stretched, s=stretch: (x.astype(np.float32), s),
        )
        batch = spoken_digits.collate([item], ids, mel_filters(80), np.random.default_rng(0))
        assert batch.phones.shape == (1, (batch.num_mel[0] + 1) // 2)
        for frame, label in enumerate(batch.phones[0].tolist()):
            began = [s for s in item.starts if s * stretch <= frame * 0.02]
            expected = item.phones[len(began) - 1] if began else "_"
            assert names[label] == expected
    assert batch.digits.tolist() == list(item.recipe.digits)


def test_padded_phoneme_labels_are_ignored_and_padded_mels_are_zero(needs_espeak: None) -> None:
    from make_speech import plan, train_voices
    from spoken_digits import collate, speak_recipe

    from k2distil.teachers.log_mel import mel_filters

    spoken = [speak_recipe(recipe) for recipe in plan("yue", train_voices(), 3, seed=0)]
    names = sorted({"_"}.union(*(item.phones for item in spoken)))
    ids = {name: index for index, name in enumerate(names)}
    batch = collate(spoken, ids, mel_filters(80), np.random.default_rng(0))
    for row, num_mel in enumerate(batch.num_mel):
        num_frames = (num_mel + 1) // 2
        assert (batch.phones[row, num_frames:] == -100).all()
        assert (batch.phones[row, :num_frames] >= 0).all()
        assert not batch.mel[row, :, num_mel:].any()


def test_training_writes_a_teacher_that_loads_and_never_overwrites_one(
    needs_espeak: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from train_teacher import Recogniser, main

    folder = tmp_path / "teacher"
    flags = ["--num_utterances", "10", "--num_steps", "2", "--num_eval", "2"]
    main([str(folder), *flags])
    assert "en test: WER" in capsys.readouterr().out
    assert json.loads((folder / "config.json").read_text())["model_type"] == "whisper"
    assert Recogniser.load(folder).teacher.dim == 144
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        main([str(folder), *flags])
    assert "holds a teacher" in capsys.readouterr().err
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_folder_without_a_teacher_is_a_clear_error(tmp_path: Path) -> None:
    from train_teacher import Recogniser

    with pytest.raises(CheckpointError, match=r"config\.json"):
        Recogniser.load(tmp_path)
