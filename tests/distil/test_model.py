"""Losses of a student that learns text and codes."""

import pytest
import torch

from k2distil.distil.model import DistilModel
from k2distil.distil.spec_augment import SpecAugment
from k2distil.distil.student import (
    make_student,
    switch_off_layerdrop,
    transformers_is_old,
)
from k2distil.distil.vocabulary import characters_of, make_tokenizer
from tests.distil.test_student import KINDS, PARAKEET, TOKENIZER, audio

pytestmark = pytest.mark.skipif(transformers_is_old(), reason="a newer transformers is needed")


def batch(student, labels: list[list[int]], with_codes: list[bool]):
    inputs, num_inputs = student.features(audio(*[1.0 + 0.1 * i for i in range(len(labels))]))
    num_frames = student.num_frames(num_inputs)
    width = max(map(len, labels))
    codes = torch.randint(4, (len(labels), int(num_frames.max()), 2))
    for row, has_codes in enumerate(with_codes):
        codes[row, int(num_frames[row]) if has_codes else 0 :] = -100
    padded = [[*each, *[-100] * (width - len(each))] for each in labels]
    return {
        "inputs": inputs,
        "num_inputs": num_inputs,
        "num_frames": num_frames,
        "labels": torch.tensor(padded),
        "codes": codes,
    }


def rows_of(whole, rows):
    part = {key: value[rows] for key, value in whole.items() if key != "inputs"}
    return {**part, "inputs": {key: value[rows] for key, value in whole["inputs"].items()}}


def test_parts_of_a_batch_sum_to_the_whole():
    from k2distil.distil import CodebookLoss

    torch.manual_seed(0)
    student = make_student(KINDS["wav2vec2"], TOKENIZER, seed=0)
    model = DistilModel(student.model, CodebookLoss(32, 2, 4), 1, 5.0, None).eval()
    whole = batch(student, [[2, 3], [-100], [4], [-100]], [True, True, False, True])
    output = model([whole])
    output["loss"].backward()
    gradients = [each.grad.clone() for each in model.parameters() if each.grad is not None]
    model.zero_grad()
    items = torch.tensor([2, int((whole["codes"] >= 0).sum())])
    total = 0.0
    for rows in ([0, 1], [2], [3]):  # text and codes, text alone, codes alone
        part = model([rows_of(whole, rows)], num_items=items)
        part["loss"].backward()
        total += float(part["loss"].detach())
    assert total == pytest.approx(float(output["loss"].detach()), rel=1e-5)
    found = [each.grad for each in model.parameters() if each.grad is not None]
    assert len(found) == len(gradients)
    for one, other in zip(found, gradients, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm() + 1e-9
    together = model([rows_of(whole, [0, 1]), rows_of(whole, [2, 3])])
    for name, value in together.items():
        torch.testing.assert_close(value, output[name])


@pytest.mark.parametrize("blank", [0, 7])
def test_the_ctc_part_is_torchs_own_on_what_has_text(blank):
    tokens = characters_of(["one two"])
    tokenizer = make_tokenizer(tokens[1 : blank + 1] + tokens[:1] + tokens[blank + 1 :])
    student = make_student(KINDS["wav2vec2"], tokenizer, seed=0)
    model = DistilModel(student.model, None, 2, 5.0, None).eval()
    given = batch(student, [[2, 3, 4], [-100]], [False, False])
    output = model([given])
    logits = student.model(**rows_of(given, [0])["inputs"]).logits
    expected = torch.nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        torch.tensor([[2, 3, 4]]),
        given["num_frames"][:1],
        torch.tensor([3]),
        blank=blank,
    )
    torch.testing.assert_close(output["ctc"], expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(output["loss"].detach(), output["ctc"])


def test_text_that_does_not_fit_the_audio_decoded_adds_nothing():
    student = make_student(KINDS["wav2vec2"], TOKENIZER, seed=0)
    model = DistilModel(student.model, None, 2, 5.0, None).eval()
    long, short = (batch(student, [ids], [False]) for ids in ([2, 3] * 100, [2]))
    assert model([long])["loss"] == 0.0
    assert model([long, short])["loss"] == model([short])["loss"] / 2


def test_masks_are_for_training_alone():
    student = make_student(PARAKEET, TOKENIZER, seed=0)
    switch_off_layerdrop(student)
    given = batch(student, [[2, 3]], [False])
    model = DistilModel(student.model, None, 2, 5.0, SpecAugment()).eval()
    assert model([given])["loss"] == model([given])["loss"]

    def loss(spec_augment, features):
        torch.manual_seed(0)  # of dropout
        inputs = {**given["inputs"], "input_features": features}
        model = DistilModel(student.model, None, 2, 5.0, spec_augment).train()
        return model([{**given, "inputs": inputs}])["loss"]

    features = given["inputs"]["input_features"]
    all_masked = loss(lambda features, num_frames: features * 0, features)
    assert all_masked == loss(None, features * 0) != loss(None, features)
