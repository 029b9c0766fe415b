import numpy as np
import pytest
import torch
import whisper
from whisper.audio import mel_filters as openai_filters

from k2distil.teachers.log_mel import log_mel, mel_filters, num_mel_frames
from tests.teachers.oracles import difference, wave_of
from tests.teachers.tiny import audio_batch


@pytest.mark.parametrize("num_mels", [80, 128])
def test_filters_equal_openai_whispers(num_mels):
    assert difference(mel_filters(num_mels), openai_filters("cpu", num_mels)) == 0


@pytest.mark.parametrize("num_mels", [80, 128])
def test_log_mel_of_a_batch_equals_openai_whispers_of_each_utterance(num_mels):
    batch = audio_batch(201, 16000, 16161, 40123, 159 * 160 + 159)
    batch.samples[1, :] *= 1e-3  # a quiet one: its floor is its own, not the batch's
    mels = log_mel(batch.samples, batch.num_samples.tolist(), mel_filters(num_mels))
    assert mels.dtype == torch.float32
    for row, length in enumerate(batch.num_samples.tolist()):
        theirs = whisper.log_mel_spectrogram(wave_of(batch, row), n_mels=num_mels)
        num_frames = num_mel_frames(length)
        assert difference(mels[row, :, :num_frames], theirs) < 5e-6
        assert not mels[row, :, num_frames:].any()


def test_many_filters_are_finite():
    assert mel_filters(256).isfinite().all()


def test_silence_is_finite():
    mels = log_mel(torch.zeros(1, 1600), [1600], mel_filters(80))
    np.testing.assert_allclose(mels, (np.log10(1e-10) + 4) / 4)
