"""wav2vec2 as a teacher: HuBERT's encoder under other names; test_hubert.py has the rest."""

import pytest

from k2distil.errors import CheckpointError, ConfigError
from k2distil.teachers import build_teacher
from tests.teachers.oracles import difference, embed_alone, hubert_blocks, wave_of
from tests.teachers.test_hubert import AUDIO, BATCHING, PARITY, check_every_layer
from tests.teachers.tiny import make_fairseq_hubert, make_hf_hubert, make_hf_wav2vec2


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_every_layer_equals_transformers(tmp_path, norm):
    check_every_layer("wav2vec2", make_hf_wav2vec2(tmp_path / "w", norm))


@pytest.mark.parametrize("layer", [1, -1])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_batched_equals_single(tmp_path, norm, layer):
    teacher = build_teacher("wav2vec2", make_hf_wav2vec2(tmp_path / "w", norm), middle_layer=layer)
    out = teacher.embed(AUDIO)
    for row, (_key, frames) in enumerate(out.unpadded()):
        assert difference(frames, embed_alone(teacher, AUDIO, row)) < BATCHING


@pytest.mark.parametrize("kind", ["Wav2Vec2ForCTC", "Wav2Vec2ForPreTraining"])
def test_heads_are_left_out(tmp_path, kind):
    checkpoint = make_hf_wav2vec2(tmp_path / kind, kind=kind)
    teacher = build_teacher("wav2vec2", checkpoint)
    assert (teacher.dim, teacher.num_layers, teacher.padding) == (32, 3, "n/a")
    for row in range(len(AUDIO.keys)):
        theirs = hubert_blocks(checkpoint, wave_of(AUDIO, row))[-1]
        assert difference(embed_alone(teacher, AUDIO, row), theirs) < PARITY


def test_each_encoder_type_refuses_the_others_checkpoints(tmp_path):
    wav2vec2, hubert = make_hf_wav2vec2(tmp_path / "w"), make_hf_hubert(tmp_path / "h")
    with pytest.raises(CheckpointError, match=r"a Hugging Face wav2vec2, .*type wav2vec2"):
        build_teacher("hubert", wav2vec2)
    with pytest.raises(CheckpointError, match=r"a Hugging Face HuBERT, .*type hubert"):
        build_teacher("wav2vec2", hubert)
    with pytest.raises(CheckpointError, match=r"a fairseq HuBERT .*type hubert"):
        build_teacher("wav2vec2", make_fairseq_hubert(tmp_path / "f.pt"))
    with pytest.raises(ConfigError, match="wav2vec2 takes audio of any length"):
        build_teacher("wav2vec2", wav2vec2, whisper_padding="30s")
    with pytest.raises(ConfigError, match=r"--do_normalize false: .* says true"):
        build_teacher(
            "wav2vec2", make_hf_wav2vec2(tmp_path / "l", norm="layer"), do_normalize=False
        )
