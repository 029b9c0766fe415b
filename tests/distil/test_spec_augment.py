"""Masks of SpecAugment lie within the audio and are no wider than said."""

import torch

from k2distil.distil.spec_augment import SpecAugment


def test_masks_are_within_the_audio_and_their_width():
    torch.manual_seed(0)
    frames = torch.tensor([200, 40])
    features = torch.ones(2, 200, 80)
    hit = torch.zeros(2, 200, dtype=torch.bool)
    widest_of_short = 0
    for _ in range(200):
        masked = SpecAugment(1, 50, 0, 0)(features, frames) == 0
        assert (masked.all(2) == masked.any(2)).all()
        hit |= masked.all(2)
        lengths = masked.all(2).sum(1)
        assert lengths[0] <= 40  # a fifth of 200
        widest_of_short = max(widest_of_short, int(lengths[1]))
        for row in masked[:, :, 0]:
            assert row.int().diff().abs().sum() <= 2  # one span
    assert hit[0].all()
    assert hit[1, :40].all()
    assert not hit[1, 40:].any()
    assert widest_of_short == 8


def test_frequency_masks_cover_whole_utterances():
    torch.manual_seed(0)
    for _ in range(50):
        masked = SpecAugment(0, 0, 2, 10)(torch.ones(1, 30, 80), torch.tensor([30])) == 0
        assert (masked.all(1) == masked.any(1)).all()
        assert masked.all(1).sum() <= 20


def test_no_masks_change_nothing():
    features = torch.randn(2, 30, 80)
    assert torch.equal(SpecAugment(0, 50, 0, 10)(features, torch.tensor([30, 20])), features)
