"""The codebook loss beside the package's own."""

import pytest
import torch

from k2distil.distil import CodebookLoss
from k2distil.errors import CheckpointError
from k2distil.interop.multi_quantization import joint_codebook_state, load_joint_codebook_state

DIM, N, K = 12, 4, 16
heads = pytest.mark.parametrize("head", ["linear", "autoregressive"])


def package_loss(head, num_codes=N):
    prediction = pytest.importorskip("multi_quantization.prediction")
    torch.manual_seed(1)
    return prediction.JointCodebookLoss(
        *(DIM, num_codes),
        **{"codebook_size": K, "is_joint": head == "autoregressive", "checkpoint": False},
    )


def batch(num_codes=N):
    generator = torch.Generator().manual_seed(2)
    student = torch.randn(3, 10, DIM, generator=generator).requires_grad_()
    codes = torch.randint(K, (3, 10, num_codes), generator=generator)
    codes[2, 6:] = -100
    return student, codes


def assert_same(ours, package, num_codes=N):
    """Value and gradient on the student's frames; theirs is a sum."""
    student, codes = batch(num_codes)
    num_valid = (codes >= 0).sum()
    value, expected = ours(student, codes) * num_valid, package(student, codes)
    torch.testing.assert_close(value, expected)
    (found,) = torch.autograd.grad(value, student)
    (wanted,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert found.abs().max() > 0.1


@heads
@pytest.mark.parametrize("frames_ratio", [1, 2])
def test_loaded_from_the_package_it_is_the_same_loss(head, frames_ratio):
    package = package_loss(head, N * frames_ratio)
    with torch.no_grad():
        package.linear2_bias.normal_()  # 0 at first
    ours = CodebookLoss(DIM, N, K, frames_ratio, head)
    load_joint_codebook_state(ours, package.state_dict())
    assert_same(ours, package, N * frames_ratio)


@heads
def test_saved_for_the_package_it_is_the_same_loss(head):
    ours, package = CodebookLoss(DIM, N, K, head=head), package_loss(head)
    package.load_state_dict(joint_codebook_state(ours))
    assert_same(ours, package)


@heads
def test_a_round_trip_keeps_every_weight(head):
    first, second = CodebookLoss(DIM, N, K, head=head), CodebookLoss(DIM, N, K, head=head)
    load_joint_codebook_state(second, joint_codebook_state(first))
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor)


def test_a_saved_state_shares_no_memory_with_the_loss():
    loss = CodebookLoss(DIM, N, K)
    state = joint_codebook_state(loss)
    before = state["linear2_bias"].clone()
    with torch.no_grad():
        loss.head.linear.bias.add_(1)
    assert torch.equal(state["linear2_bias"], before)


def test_a_linear_head_needs_only_the_weights_that_count():
    loss = CodebookLoss(DIM, N, K)
    state = joint_codebook_state(loss)
    few = {name: state[name] for name in ("linear2b_weight", "linear2_bias")}
    load_joint_codebook_state(loss, few)
    with pytest.raises(CheckpointError, match=r"without linear1\.weight, .*give all of its state"):
        load_joint_codebook_state(CodebookLoss(DIM, N, K, head="autoregressive"), few)


def test_other_sizes_are_refused_with_both():
    state = joint_codebook_state(CodebookLoss(DIM, N, K))
    with pytest.raises(CheckpointError, match=r"\(4, 16, 12\), expected \(8, 16, 12\) for 8 codes"):
        load_joint_codebook_state(CodebookLoss(DIM, N, K, frames_ratio=2), state)


def test_a_loss_of_one_code_has_no_counterpart():
    with pytest.raises(CheckpointError, match="needs two or more"):
        joint_codebook_state(CodebookLoss(DIM, 1, K))
