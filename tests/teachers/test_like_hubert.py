"""wav2vec2 and WavLM as teachers: built as HuBERT is; test_hubert.py has the rest."""

import pytest
import torch

from k2distil.errors import CheckpointError, ConfigError
from k2distil.teachers import build_teacher, wavlm_attention
from k2distil.teachers.wavlm_attention import bucket_of
from tests.teachers.oracles import difference, embed_alone, hubert_blocks, wave_of
from tests.teachers.test_hubert import AUDIO, BATCHING, PARITY, check_every_layer
from tests.teachers.tiny import (
    fairseq_tensors,
    make_fairseq_hubert,
    make_hf_hubert,
    make_hf_waveform,
    with_config,
)

TYPES = {"wav2vec2": "Wav2Vec2", "wavlm": "WavLM"}  # and how transformers' classes begin


def make(encoder_type, folder, norm="group", kind="Model"):
    return make_hf_waveform(folder, norm, TYPES[encoder_type] + kind)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("encoder_type", TYPES)
def test_every_layer_equals_transformers(tmp_path, encoder_type, norm):
    check_every_layer(encoder_type, make(encoder_type, tmp_path / "w", norm))


@pytest.mark.parametrize("layer", [1, -1])
@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("encoder_type", TYPES)
def test_batched_equals_single(tmp_path, encoder_type, norm, layer):
    checkpoint = make(encoder_type, tmp_path / "w", norm)
    teacher = build_teacher(encoder_type, checkpoint, middle_layer=layer)
    out = teacher.embed(AUDIO)
    for row, (_key, frames) in enumerate(out.unpadded()):
        assert difference(frames, embed_alone(teacher, AUDIO, row)) < BATCHING


@pytest.mark.parametrize(
    ("encoder_type", "kind"),
    [("wav2vec2", "ForCTC"), ("wav2vec2", "ForPreTraining"), ("wavlm", "ForCTC")],
)
def test_heads_are_left_out(tmp_path, encoder_type, kind):
    checkpoint = make(encoder_type, tmp_path / kind, kind=kind)
    teacher = build_teacher(encoder_type, checkpoint)
    assert (teacher.dim, teacher.num_layers, teacher.padding) == (32, 3, "n/a")
    for row in range(len(AUDIO.keys)):
        theirs = hubert_blocks(checkpoint, wave_of(AUDIO, row))[-1]
        assert difference(embed_alone(teacher, AUDIO, row), theirs) < PARITY


def test_each_encoder_type_refuses_the_others_checkpoints(tmp_path):
    wav2vec2, hubert = make("wav2vec2", tmp_path / "w"), make_hf_hubert(tmp_path / "h")
    with pytest.raises(CheckpointError, match=r"a Hugging Face wav2vec2, .*type wav2vec2"):
        build_teacher("hubert", wav2vec2)
    with pytest.raises(CheckpointError, match=r"a Hugging Face HuBERT, .*type hubert"):
        build_teacher("wav2vec2", hubert)
    with pytest.raises(CheckpointError, match=r"a Hugging Face WavLM, .*type wavlm"):
        build_teacher("wav2vec2", make("wavlm", tmp_path / "v"))
    with pytest.raises(CheckpointError, match=r"a fairseq HuBERT .*type hubert"):
        build_teacher("wav2vec2", make_fairseq_hubert(tmp_path / "f.pt"))
    with pytest.raises(ConfigError, match="wav2vec2 takes audio of any length"):
        build_teacher("wav2vec2", wav2vec2, whisper_padding="30s")
    with pytest.raises(ConfigError, match=r"--do_normalize false: .* says true"):
        build_teacher("wav2vec2", make("wav2vec2", tmp_path / "l", "layer"), do_normalize=False)


def test_wavlm_as_microsoft_gives_it_is_told_apart_from_hubert(tmp_path):
    path = tmp_path / "w.pt"
    gate = {"encoder.layers.0.self_attn.grep_a": torch.ones(1, 4, 1, 1)}
    torch.save({"model": fairseq_tensors("layer") | gate, "cfg": {}}, path)
    for encoder_type in ("wavlm", "hubert"):
        with pytest.raises(CheckpointError, match=r"w\.pt: a WavLM as Microsoft .*hub id"):
            build_teacher(encoder_type, str(path))


def test_wavlms_greatest_distance_is_part_of_its_digest(tmp_path):
    checkpoint = make("wavlm", tmp_path / "w")
    before = build_teacher("wavlm", checkpoint).digest
    after = build_teacher("wavlm", with_config(checkpoint, max_bucket_distance=100)).digest
    assert after != before


@pytest.mark.parametrize("distance", [0, 80])
def test_a_greatest_distance_within_the_exact_ones_is_refused(tmp_path, distance):
    checkpoint = with_config(make("wavlm", tmp_path / "w"), max_bucket_distance=distance)
    with pytest.raises(
        CheckpointError, match=r"num_buckets 320, max_bucket_distance .*config.json"
    ):
        build_teacher("wavlm", checkpoint)


@pytest.mark.parametrize("asking", [1, 7, 125])
def test_wavlm_does_not_depend_on_how_many_frames_ask_at_once(tmp_path, asking, monkeypatch):
    teacher = build_teacher("wavlm", make("wavlm", tmp_path / "w", "layer"))
    theirs = teacher.embed(AUDIO).embedding
    monkeypatch.setattr(wavlm_attention, "ASKING", asking)
    assert difference(teacher.embed(AUDIO).embedding, theirs) < BATCHING


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(320, 800), (32, 128), (8, 5)])
def test_wavlms_distances_have_transformers_buckets(num_buckets, max_distance):
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    theirs = WavLMAttention(16, 2, num_buckets=num_buckets, max_distance=max_distance)
    distances = torch.arange(-2000, 2001)
    wanted = theirs._relative_positions_bucket(distances)
    assert torch.equal(bucket_of(distances, num_buckets, max_distance), wanted)
