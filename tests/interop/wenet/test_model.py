"""The codebook loss in a model of WeNet's signatures."""

import copy

import pytest
import torch

from k2distil.distil import CodebookLoss, align_codes
from k2distil.errors import CheckpointError, ConfigError, DataError
from k2distil.interop.wenet import (
    CodebookOptions,
    read_options,
    with_codebook_loss,
    without_codebook_loss,
)
from tests.interop.wenet.stand_ins import ASRModel, padding

N, K, RATIO = 2, 16, 2
CONFIGS = {
    "encoder": "conformer",
    "num_codebooks": N,
    "codebook_size": K,
    "codebook_weight": 0.5,
    "frames_ratio": RATIO,
    "student_layer": 2,
    "dataset_conf": {"speed_perturb": False, "spec_aug": True},
}
CPU = torch.device("cpu")


def models(gradient_checkpointing=False, **configs):
    """A plain model, and the same one with the loss."""
    torch.manual_seed(0)
    plain = ASRModel(gradient_checkpointing)
    return plain, with_codebook_loss(copy.deepcopy(plain), CONFIGS | configs)


def batch():
    """40 and 30 feature frames, 9 and 6 of the student; at ratio 2, a frame more of the teacher."""
    generator = torch.Generator().manual_seed(1)
    feats = [torch.randn(num, 4, generator=generator) for num in (40, 30)]
    found = padding([{"key": f"utt{n}", "feat": feat} for n, feat in enumerate(feats)])
    codes = torch.randint(K, (2, 19, N), generator=generator, dtype=torch.int16)
    codes[1, 13:] = -100
    return found | {"codes": codes, "codes_lengths": torch.tensor([19, 13])}


def expected_loss(model, found, layer, offset=0):
    """By hand, from the layer's frames and each utterance's own codes."""
    xs, mask = model.encoder.embed(found["feats"][:, 2::4][:, :9]), None
    for each in model.encoder.encoders[: layer if layer > 0 else None]:
        xs = each(xs, mask)[0]
    frames = xs if layer > 0 else model.encoder.after_norm(xs)
    lengths = [9, 6]
    codes = torch.full((2, 9, N * RATIO), -100)
    for row, num in enumerate(found["codes_lengths"].tolist()):
        own = found["codes"][row, :num]
        codes[row, : lengths[row]] = align_codes(own, lengths[row], RATIO, offset)
    return model.codebook_loss(frames, codes)


@pytest.mark.parametrize("offset", [1, -2])
def test_codes_begin_at_the_offset(offset):
    _, model = models(codebook_offset=offset)
    found = batch()
    loss = model(found, CPU)["loss_codebook"]
    torch.testing.assert_close(loss, expected_loss(model, found, 2, offset))


@pytest.mark.parametrize("layer", [1, 2, 3, -1])
def test_the_loss_of_the_chosen_layer_is_added_with_its_weight(layer):
    plain, model = models(student_layer=layer)
    found = batch()
    result = model(found, CPU)
    alone = plain(found, CPU)
    torch.testing.assert_close(result["loss_codebook"], expected_loss(model, found, layer))
    torch.testing.assert_close(result["loss_ctc"], alone["loss_ctc"])
    torch.testing.assert_close(result["loss"], alone["loss"] + 0.5 * result["loss_codebook"])
    assert result.keys() == alone.keys() | {"loss_codebook"}
    model.codebook_weight = 0.25
    lighter = model(found, CPU)
    torch.testing.assert_close(lighter["loss"], alone["loss"] + 0.25 * result["loss_codebook"])


def test_the_encoder_runs_once_and_no_hook_stays():
    _, model = models()
    calls = []
    handle = model.encoder.register_forward_hook(lambda *args: calls.append(1))
    model(batch(), CPU)
    handle.remove()
    assert len(calls) == 1
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_the_gradient_reaches_the_layer_and_those_below_it_only(gradient_checkpointing):
    _, model = models(gradient_checkpointing)
    model(batch(), CPU)["loss_codebook"].backward()
    first, second, third = (layer.linear.weight.grad for layer in model.encoder.encoders)
    assert first.any()
    assert second.any()
    assert third is None or not third.any()
    assert model.codebook_loss.head.linear.weight.grad.any()


def test_a_training_step_lowers_the_loss_under_gradient_checkpointing():
    _, model = models(gradient_checkpointing=True)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        result = model(batch(), CPU)
        result["loss"].backward()
        optimizer.step()
        losses.append(result["loss_codebook"].item())
    assert losses[-1] < 0.9 * losses[0]


def test_an_utterance_without_codes_adds_nothing():
    _, model = models()
    found = batch()
    found["codes"][1] = -100
    found["codes_lengths"][1] = 0
    alone = {key: value[:1] for key, value in found.items()}
    torch.testing.assert_close(
        model(found, CPU)["loss_codebook"], model(alone, CPU)["loss_codebook"]
    )


def test_codes_of_other_audio_are_refused_by_key():
    _, model = models()
    found = batch()
    found["codes_lengths"][1] = 4
    with pytest.raises(DataError, match="utt1: 4 teacher frames, but 6 student frames of 2 each"):
        model(found, CPU)
    assert not any(module._forward_hooks for module in model.modules())


def test_codes_of_another_number_of_codebooks_are_refused():
    _, model = models(num_codebooks=8)
    with pytest.raises(DataError, match="utt0: codes of 2 codebooks, but num_codebooks is 8"):
        model(batch(), CPU)


def test_a_batch_without_codes_is_for_evaluation_only():
    plain, model = models()
    found = batch()
    del found["codes"]
    with pytest.raises(DataError, match=r"utt0, utt1, .*: a training batch without codes"):
        model(found, CPU)
    torch.testing.assert_close(model.eval()(found, CPU)["loss"], plain(found, CPU)["loss"])


def test_a_plain_model_loads_the_state_without_the_head():
    plain, model = models()
    state = model.state_dict()
    extra = state.keys() - plain.state_dict().keys()
    assert extra == {"codebook_loss.head.linear.weight", "codebook_loss.head.linear.bias"}
    ASRModel().load_state_dict(without_codebook_loss(state))
    assert ASRModel().load_state_dict(state, strict=False).missing_keys == []


def test_a_training_goes_on_with_the_head_of_its_checkpoint(tmp_path):
    plain, model = models()
    torch.save(model.state_dict(), tmp_path / "epoch_0.pt")
    torch.save(plain.state_dict(), tmp_path / "plain.pt")
    again = with_codebook_loss(copy.deepcopy(plain), CONFIGS, tmp_path / "epoch_0.pt")
    assert torch.equal(
        again.codebook_loss.head.linear.weight, model.codebook_loss.head.linear.weight
    )
    with_codebook_loss(copy.deepcopy(plain), CONFIGS, tmp_path / "plain.pt")
    with pytest.raises(CheckpointError, match=r"epoch_0\.pt: its codebook loss is of another size"):
        with_codebook_loss(plain, CONFIGS | {"num_codebooks": 8}, tmp_path / "epoch_0.pt")


def test_the_model_is_still_of_its_class_and_copies_as_such():
    _, model = models()
    assert isinstance(model, ASRModel)
    assert type(model).__name__ == "ASRModelWithCodebookLoss"
    found = batch()
    assert torch.equal(copy.deepcopy(model)(found, CPU)["loss"], model(found, CPU)["loss"])


@pytest.mark.parametrize("head", ["linear", "autoregressive"])
def test_torchscript_still_takes_it_before_and_after_a_step(head):
    _, model = models(codebook_head=head)
    for _ in range(2):
        scripted = torch.jit.script(model)
        xs = torch.randn(1, 5, 8)
        torch.testing.assert_close(scripted.ctc_activation(xs), model.ctc_activation(xs))
        model(batch(), CPU)["loss"].backward()


def test_options_have_defaults_and_a_real_yaml_holds_more():
    assert read_options({"num_codebooks": 8, "lr": 1}) == CodebookOptions(num_codebooks=8)
    _, model = models(codebook_head="autoregressive")
    assert isinstance(model.codebook_loss, CodebookLoss)
    assert hasattr(model.codebook_loss.head, "to_logits")


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ({"num_codebooks": "8"}, "num_codebooks: '8' in the yaml; expected a whole number"),
        ({"frames_ratio": True}, "frames_ratio: True in the yaml; expected a whole number"),
        ({"codebook_weight": "5"}, "codebook_weight: '5' in the yaml; expected a number"),
        ({"student_layer": 4}, "student_layer: 4, but the encoder has 3 layers; give 1 to 3, or"),
        ({"student_layer": 0}, "student_layer: 0, but the encoder has 3 layers"),
        ({"codebook_head": "joint"}, "a head of linear, autoregressive"),
        ({"dataset_conf": {"speed_perturb": True}}, "dataset_conf.speed_perturb: true, but the c"),
        ({"dataset_conf": {"spec_trim": True}}, "dataset_conf.spec_trim: true, but the codes"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(configs, message):
    with pytest.raises(ConfigError, match=message):
        with_codebook_loss(ASRModel(), CONFIGS | configs)


def test_the_number_of_codebooks_must_be_given():
    with pytest.raises(ConfigError, match="num_codebooks: missing in the yaml"):
        read_options({"codebook_weight": 5.0})
    assert read_options({"num_codebooks": 8, "dataset_conf": None}).num_codebooks == 8
