"""On a GPU: the loss equals the CPU's."""

import copy

import pytest
import torch

from k2distil.distil import CodebookLoss
from k2distil.distil.spec_augment import SpecAugment

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("head", ["linear", "autoregressive"])
@pytest.mark.parametrize("chunk_frames", [None, 100])
def test_the_loss_and_its_gradients_equal_the_cpus(head, chunk_frames):
    torch.manual_seed(0)
    loss = CodebookLoss(64, 4, 32, frames_ratio=2, head=head, chunk_frames=chunk_frames)
    other = copy.deepcopy(loss).cuda()
    student = torch.randn(3, 90, 64, requires_grad=True)
    codes = torch.randint(32, (3, 90, 8))
    codes[1, 50:] = -100
    there = student.detach().cuda().requires_grad_()
    one, two = loss(student, codes), other(there, codes.cuda())
    torch.testing.assert_close(one, two.cpu(), rtol=1e-4, atol=1e-5)
    one.backward()
    two.backward()
    torch.testing.assert_close(student.grad, there.grad.cpu(), rtol=1e-3, atol=1e-6)


def test_masks_are_made_on_the_device():
    features = torch.ones(2, 100, 80, device="cuda")
    masked = SpecAugment()(features, torch.tensor([100, 60], device="cuda"))
    assert masked.device == features.device
    assert (masked == 0).any()
