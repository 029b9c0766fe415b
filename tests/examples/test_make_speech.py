"""Real synthesis, a few utterances at a time."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

SCRIPT = Path(__file__).parents[2] / "examples" / "digits" / "make_speech.py"
SPLITS = ("train", "dev", "test")


def make(out_dir: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(out_dir), "--num_workers", "1", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def entries(out_dir: Path, split: str) -> list[dict[str, str]]:
    text = (out_dir / split / "data.list").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def audio(out_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out_dir.glob("*/wav/*.flac")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("espeakng_loader")
    out_dir = tmp_path_factory.mktemp("digits")
    result = make(out_dir, "--num_utterances", "20")
    assert result.returncode == 0, result.stderr
    return out_dir


def test_every_listed_file_is_16_khz_mono_flac_with_3_to_7_digits(corpus: Path) -> None:
    from make_speech import DIGITS

    assert [len(entries(corpus, split)) for split in SPLITS] == [16, 2, 2]
    for split in SPLITS:
        for entry in entries(corpus, split):
            assert set(entry) == {"key", "wav", "txt"}
            words = entry["txt"].split(" ")
            assert 3 <= len(words) <= 7
            assert set(words) <= set(DIGITS["en"])
            path = corpus / split / entry["wav"]
            info = soundfile.info(path)
            assert (info.format, info.samplerate, info.channels) == ("FLAC", 16000, 1)
            samples, _ = soundfile.read(path, dtype="float32")
            assert 0.15 * len(words) < len(samples) / 16000 < 1.5 * len(words)
            assert np.abs(samples).max() > 0.02


def test_keys_are_unique_over_the_splits_and_fit_for_h5(corpus: Path) -> None:
    keys = [entry["key"] for split in SPLITS for entry in entries(corpus, split)]
    assert len(set(keys)) == len(keys)
    assert not any(set(key) & set("/. \t") for key in keys)


def test_no_voice_is_in_two_splits(corpus: Path) -> None:
    voices = {s: {e["key"].split("-")[1] for e in entries(corpus, s)} for s in SPLITS}
    assert len(voices["train"]) == 16
    assert not voices["train"] & voices["dev"]
    assert not voices["train"] & voices["test"]
    assert not voices["dev"] & voices["test"]


def test_the_voices_kept_out_exist_and_have_no_sibling_in_training(needs_espeak: None) -> None:
    from espeak import variants
    from make_speech import DEV_VOICES, TEST_VOICES, train_voices

    held_out = DEV_VOICES + TEST_VOICES
    assert set(held_out) <= set(variants())
    assert not set(held_out) & set(train_voices())
    assert set(held_out) | set(train_voices()) == set(variants())
    # f1, f2, ... and m1, m2, ... are different people; other numbers are versions of one voice
    stems = {name.rstrip("0123456789").lower() for name in train_voices()}
    assert not {name.lower() for name in held_out if len(name) > 2} & stems


def test_the_same_seed_gives_the_same_bytes_at_any_number_of_workers(
    corpus: Path, tmp_path: Path
) -> None:
    result = make(tmp_path, "--num_utterances", "20", "--num_workers", "2")
    assert result.returncode == 0, result.stderr
    assert audio(tmp_path) == audio(corpus)
    assert [entries(tmp_path, s) for s in SPLITS] == [entries(corpus, s) for s in SPLITS]


def test_another_seed_gives_other_speech(corpus: Path, tmp_path: Path) -> None:
    make(tmp_path, "--num_utterances", "20", "--seed", "1")
    texts = [[e["txt"] for e in entries(folder, "train")] for folder in (corpus, tmp_path)]
    assert texts[0] != texts[1]


def test_an_utterance_does_not_depend_on_what_was_spoken_before(needs_espeak: None) -> None:
    from make_speech import plan, say, train_voices

    first, other, _ = plan("en", train_voices(), 3, seed=0)
    alone = say(first).samples
    say(other)
    np.testing.assert_array_equal(say(first).samples, alone)


def test_a_second_run_makes_only_what_is_missing(corpus: Path) -> None:
    before = audio(corpus)
    lost, *kept = sorted(corpus.glob("train/wav/*.flac"))
    lost.unlink()
    times = [path.stat().st_mtime_ns for path in kept]
    (corpus / "train" / "data.list").unlink()
    result = make(corpus, "--num_utterances", "20")
    assert result.returncode == 0, result.stderr
    assert audio(corpus) == before
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert len(entries(corpus, "train")) == 16


def test_a_folder_of_other_settings_is_left_alone(corpus: Path) -> None:
    before = audio(corpus)
    result = make(corpus, "--num_utterances", "20", "--seed", "5")
    assert result.returncode == 1
    assert f"error: {corpus} holds speech of other settings" in result.stderr
    assert "Traceback" not in result.stderr
    assert audio(corpus) == before


@pytest.mark.parametrize("lang", ["cmn", "yue"])
def test_chinese_transcripts_are_characters_without_spaces(
    needs_espeak: None, tmp_path: Path, lang: str
) -> None:
    result = make(tmp_path, "--num_utterances", "5", "--lang", lang)
    assert result.returncode == 0, result.stderr
    texts = [e["txt"] for split in SPLITS for e in entries(tmp_path, split)]
    assert len(texts) == 5
    assert all(3 <= len(text) <= 7 and set(text) <= set("零一二三四五六七八九") for text in texts)
    assert len(audio(tmp_path)) == 5


def test_phonemes_come_in_order_and_within_the_audio(needs_espeak: None) -> None:
    from espeak import speak

    speech = speak("seven one", "en-us+f2", rate=150, pitch=50, pitch_range=50, word_gap=0)
    starts = [start for start, _ in speech.phones]
    names = [name for _, name in speech.phones]
    assert starts == sorted(starts)
    assert 0 <= starts[0] < starts[-1] <= len(speech.samples) / 16000
    assert names[:5] == ["s", "'E", "v", "@", "n"]


def test_a_voice_that_is_not_there_is_named(needs_espeak: None) -> None:
    from espeak import speak

    with pytest.raises(ValueError, match="no voice 'en-us\\+nobody'"):
        speak("one", "en-us+nobody", rate=150, pitch=50, pitch_range=50, word_gap=0)


def test_without_espeakng_loader_the_error_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "espeakng_loader.py").write_text("raise ImportError('not here')")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(SCRIPT.parent)!r}]; "
    code += f"import make_speech; make_speech.main([{str(tmp_path / 'out')!r}])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert 'pip install "k2distil[demo]"' in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_too_few_utterances_for_three_splits_are_refused(tmp_path: Path) -> None:
    result = make(tmp_path, "--num_utterances", "2")
    assert result.returncode == 2
    assert "need at least 3" in result.stderr
