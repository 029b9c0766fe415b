"""Students: CTC models of transformers, made from a config or continued from a folder."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from k2distil.atomic import flush
from k2distil.batch import SAMPLE_RATE
from k2distil.distil.student_config import refusal, student_config
from k2distil.distil.vocabulary import normalize
from k2distil.errors import ConfigError
from k2distil.torchaudio_guard import hide_broken_torchaudio

PROBE_SECONDS = 100  # of audio, to measure a student's frame shift by
TRIED_SAMPLES = (16_000, 17_599, 20_333)  # lengths at which padding and rounding differ
PADDED_SAMPLES = (16_000, 32_000)  # the first is padded to the second
PADDING_TOLERANCE = 0.02  # of the logits' deviation; rounding is far less
KNOWN_TO_WORK = (
    *("parakeet_ctc", "wav2vec2", "wav2vec2-bert", "wav2vec2-conformer", "hubert", "wavlm"),
    *("data2vec-audio", "unispeech", "unispeech-sat"),
)
TESTED_TRANSFORMERS = (5, 23)  # older ones serve teachers, but lack parts of Parakeet
# Where transformers' own tables name another, or none.
EXTRACTORS = {"wav2vec2-bert": "SeamlessM4TFeatureExtractor"}
PROCESSORS = {"data2vec-audio": "Wav2Vec2Processor"}
KALDI_WINDOW, KALDI_HOP = 400, 160  # samples; of SeamlessM4TFeatureExtractor, which does not say


@dataclass(frozen=True)
class Student:
    """A model with what turns audio and text into its input; all of it transformers' own."""

    model: Any
    feature_extractor: Any
    tokenizer: Any

    @property
    def num_layers(self) -> int:
        """Encoder layers."""
        return _encoder_config(self.model.config).num_hidden_layers

    @property
    def dim(self) -> int:
        """Width of a layer's frames."""
        return _encoder_config(self.model.config).hidden_size

    @property
    def masks_itself(self) -> bool:
        """Whether the model masks its frames in training, if its config asks for it."""
        return hasattr(self.model.config, "mask_time_prob")

    @property
    def least_frames(self) -> int:
        """Output frames that an utterance needs in training, where it may be alone in a batch.

        As many as the widest mask; two for BatchNorm, which takes the variance over them.
        """
        config = self.model.config
        masks = self.masks_itself and getattr(config, "apply_spec_augment", True)
        if masks and config.mask_time_prob > 0:
            return config.mask_time_length
        has_batch_norm = any(isinstance(each, nn.BatchNorm1d) for each in self.model.modules())
        return 2 if has_batch_norm else 1

    @property
    def frame_shift(self) -> float:
        """Seconds between output frames."""
        samples = torch.tensor([PROBE_SECONDS * SAMPLE_RATE])
        return PROBE_SECONDS / int(self.num_frames(self.num_inputs(samples)))

    def features(self, audio: Sequence[np.ndarray]) -> tuple[dict[str, Tensor], Tensor]:
        """(num_samples,) float32 each at 16 kHz -> the model's inputs, their lengths (B,)."""
        inputs = self.feature_extractor(
            list(audio), sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt"
        )
        lengths = self.num_inputs(torch.tensor([len(each) for each in audio]))
        return dict(inputs), lengths

    def num_inputs(self, num_samples: Tensor) -> Tensor:
        """(B,) samples at 16 kHz -> frames of input_features, or samples of input_values."""
        if self.model.main_input_name == "input_values":
            return num_samples
        if type(self.feature_extractor).__name__ == EXTRACTORS["wav2vec2-bert"]:
            num_frames = (num_samples - KALDI_WINDOW) // KALDI_HOP + 1
            return num_frames.clamp(min=0) // self.feature_extractor.stride
        return num_samples // self.feature_extractor.hop_length

    def num_frames(self, num_inputs: Tensor) -> Tensor:
        """(B,) of the inputs -> (B,) int64 of the output."""
        name = "_get_subsampling_output_length"
        if not hasattr(self.model, name):
            name = "_get_feat_extract_output_lengths"
        return getattr(self.model, name)(num_inputs).long()

    def padding_matters(self) -> bool:
        """Whether padding changes what it says, as where norms look over a whole row."""
        generator = np.random.default_rng(0)
        audio = [0.1 * generator.standard_normal(n, np.float32) for n in PADDED_SAMPLES]
        length = int(self.num_frames(self.num_inputs(torch.tensor(PADDED_SAMPLES)))[0])
        with _trial(self.model):
            alone, padded = (
                self.model(**self.features(batch)[0]).logits[0, :length]
                for batch in (audio[:1], audio)
            )
        return bool((padded - alone).abs().max() > PADDING_TOLERANCE * alone.std())

    def encode_text(self, text: str) -> list[int]:
        """Token ids."""
        return self.tokenizer(normalize(text), add_special_tokens=False).input_ids

    def decode(self, logits: Tensor, num_frames: Tensor) -> list[str]:
        """(B, T, V), (B,) -> greedy texts."""
        best = logits.argmax(-1).cpu()
        rows = zip(best, num_frames.tolist(), strict=True)
        return [normalize(self.tokenizer.decode(row[:length])) for row, length in rows]

    def save(self, folder: Path, extra: Mapping[str, bytes]) -> None:
        """Write a folder that transformers loads without k2distil, in place of an older one.

        Args:
            folder: there is the old one or the new one, whole, but for a moment none.
            extra: contents of more files, by name.
        """
        new, old = (folder.with_name(f".{folder.name}.{which}") for which in ("new", "old"))
        for each in (new, old):
            shutil.rmtree(each, ignore_errors=True)
        config = self.model.config
        if not hasattr(config, "inputs_to_logits_ratio"):  # transformers' pipeline cuts audio by it
            config.inputs_to_logits_ratio = round(self.frame_shift * SAMPLE_RATE)
        self.model.save_pretrained(new)
        self.processor().save_pretrained(new)
        for name, content in extra.items():
            (new / name).write_bytes(content)
        mode = (new / "config.json").stat().st_mode
        for written in new.iterdir():
            written.chmod(mode)  # safetensors' would be its owner's alone
            flush(written)
        flush(new)
        if folder.exists():
            os.rename(folder, old)
        os.rename(new, folder)
        flush(folder.parent)
        shutil.rmtree(old, ignore_errors=True)

    def processor(self) -> Any:
        """Feature extractor and tokenizer as one, as AutoProcessor finds them."""
        from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

        names = {**PROCESSOR_MAPPING_NAMES, **PROCESSORS}
        name = names[self.model.config.model_type]
        kind = getattr(importlib.import_module("transformers"), name)
        return kind(feature_extractor=self.feature_extractor, tokenizer=self.tokenizer)


def restore_replaced(folder: Path) -> None:
    """Bring back the student that `Student.save` was replacing when it was killed."""
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        os.rename(old, folder)


def make_student(config: dict[str, Any], tokenizer: Any, seed: int) -> Student:
    """A student with random weights.

    Args:
        config: of transformers, with its model_type; see conf/train_distil.yaml.
        tokenizer: decides vocab_size and the blank.
        seed: of the weights.

    Raises:
        ConfigError: an unknown model_type, one without CTC, an unknown key, or a value that the
            model does not take.
    """
    hide_broken_torchaudio()
    from transformers import AutoModelForCTC
    from transformers.models.auto.feature_extraction_auto import (
        FEATURE_EXTRACTOR_MAPPING_NAMES,
        feature_extractor_class_from_name,
    )
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of writing a file
    made = student_config(config, len(tokenizer), tokenizer.pad_token_id)
    names = {**FEATURE_EXTRACTOR_MAPPING_NAMES, **EXTRACTORS}
    kind = feature_extractor_class_from_name(names[made.model_type])
    num_bins = getattr(_encoder_config(made), "num_mel_bins", None)
    try:
        extractor = kind() if num_bins is None else kind(feature_size=num_bins)
    except ImportError as error:
        raise ConfigError(f"student: {what_lacks(error)}") from error
    if getattr(made, "feat_extract_norm", "") == "layer":  # with "group", masks would do harm
        extractor.return_attention_mask = True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = AutoModelForCTC.from_config(made, dtype=torch.float32)
        except Exception as error:  # transformers raises many kinds for a value it does not like
            raise refusal(made.model_type, error) from error
    student = Student(model, extractor, tokenizer)
    if student.num_layers < 1:
        raise ConfigError("student: num_hidden_layers: expected at least 1")
    try_out(student)
    return student


def what_lacks(error: ImportError) -> str:
    """The package that transformers asks for, and which transformers to take if this is old."""
    needed = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{needed} Install it beside transformers{_version_to_take()}"


def transformers_is_old() -> bool:
    """Whether it is older than what students are tested with."""
    return tuple(map(int, version("transformers").split(".")[:2])) < TESTED_TRANSFORMERS


def _version_to_take() -> str:
    """For an error where transformers is old."""
    if not transformers_is_old():
        return ""
    tested = ".".join(map(str, TESTED_TRANSFORMERS))
    return f"; transformers is {version('transformers')} here, take {tested} or newer for students"


@contextmanager
def _trial(model: Any) -> Iterator[None]:
    """Run a model as for a test, and leave nothing behind."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in model.modules():
            if hasattr(part, "cached_sequence_length"):  # of rotary positions on this device
                part.cached_sequence_length = None
        model.train(training)


def try_out(student: Student) -> None:
    """Transcribe silence, so that a model that cannot be used shows before the training.

    Raises:
        ConfigError: its lengths are not those we reckon with, or a part of it is missing.
    """
    kind = student.model.config.model_type
    try:
        with _trial(student.model):
            for num_samples in TRIED_SAMPLES:
                _check_frames(student, num_samples)
        student.processor()
    except Exception as error:  # whatever it raises, it is of no use to us
        reason = " ".join(str(error).split()) or type(error).__name__
        remedy = f"known to work are {', '.join(KNOWN_TO_WORK)}"
        if kind in KNOWN_TO_WORK:
            remedy = "the kind is known to work, so look whether the values of its config fit"
        raise ConfigError(
            f"student: {kind} cannot be trained here ({type(error).__name__}: {reason}); {remedy}"
            f"{_version_to_take()}"
        ) from error


def _check_frames(student: Student, num_samples: int) -> None:
    inputs, num_inputs = student.features([np.zeros(num_samples, np.float32)])
    output = student.model(**inputs, output_hidden_states=True)
    expected = int(student.num_frames(num_inputs))
    layers = output.hidden_states[1:]
    found = {each.shape[1] for each in (output.logits, *layers)}
    # Some extractors add a frame of padding, which num_frames does not count.
    if found not in ({expected}, {expected + 1}) or len(layers) != student.num_layers:
        raise ValueError(f"{num_samples} samples: {found} frames, expected {expected}")


def switch_off_layerdrop(student: Student) -> bool:
    """Keep every layer in every step: codes need theirs, and processes the same ones.

    Returns:
        Whether it was on.
    """
    parts = list(student.model.modules())
    configs = [part.config for part in parts if hasattr(part, "config")]
    places = [*parts, *configs, _encoder_config(student.model.config)]
    places = [each for each in places if hasattr(each, "layerdrop")]
    found = any(each.layerdrop for each in places)
    for each in places:
        each.layerdrop = 0.0
    return found


def check_layer(student: Student, layer: int) -> int:
    """The layer counted from 1, where -1 says the last.

    Raises:
        ConfigError: there is no such layer.
    """
    if layer == -1:
        return student.num_layers
    if not 1 <= layer <= student.num_layers:
        raise ConfigError(
            f"--student_layer {layer}: the student has {student.num_layers} layers; give 1 to "
            f"{student.num_layers}, or -1 for the last"
        )
    return layer


def _encoder_config(config: Any) -> Any:
    return getattr(config, "encoder_config", config)
