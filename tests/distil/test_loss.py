"""The codebook loss against loops, in the ways that trainings run it."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from k2distil.distil import CodebookLoss
from k2distil.errors import ConfigError

DIM, N, K = 6, 4, 5
HEADS = ["linear", "autoregressive"]
heads = pytest.mark.parametrize("head", HEADS)


def loss_of(head, frames_ratio=1, chunk_frames=None, num_codebooks=N):
    torch.manual_seed(0)
    return CodebookLoss(DIM, num_codebooks, K, frames_ratio, head, chunk_frames)


def batch(frames_ratio=1, seed=1, num_codebooks=N):
    """(3, 7, D) frames and their codes; a padded utterance, and single codes that are missing."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(3, 7, DIM, generator=generator)
    shape = (3, 7, num_codebooks * frames_ratio)
    codes = torch.randint(K, shape, generator=generator)
    codes[1, 4:] = -100
    codes[0, 6, shape[2] // 2 :] = -100
    return student, codes


def by_loops(loss, student, codes):
    """The mean of -log softmax, one code at a time, in the precision of the weights."""
    head, terms = loss.head, []
    for frame, wanted in zip(student.flatten(0, 1), codes.flatten(0, 1).tolist(), strict=True):
        hidden = None
        if hasattr(head, "project"):
            hidden = head.project.weight @ frame + head.project.bias
        for n, code in enumerate(wanted):
            rows = slice(n * K, (n + 1) * K)
            logits = head.linear.weight[rows] @ frame + head.linear.bias[rows]
            if hidden is not None:
                logits = logits + head.to_logits[n] @ hidden.relu()
                if n + 1 < len(wanted):
                    hidden = hidden + head.previous.weight[n * K + max(0, code)]
            if code >= 0:
                terms.append(logits.exp().sum().log() - logits[code])
    return torch.stack(terms).mean()


def gradients(loss, student, value):
    return torch.autograd.grad(value, [student, *loss.parameters()])


@heads
@pytest.mark.parametrize("frames_ratio", [1, 2])
def test_value_and_gradients_are_those_of_loops(head, frames_ratio):
    loss = loss_of(head, frames_ratio).double()
    student, codes = batch(frames_ratio)
    student = student.double().requires_grad_()
    value, expected = loss(student, codes), by_loops(loss, student, codes)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    found = gradients(loss, student, value)
    for ours, theirs in zip(found, gradients(loss, student, expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


@heads
def test_untrained_it_is_near_the_logarithm_of_the_codebook_size(head):
    torch.manual_seed(0)
    loss = CodebookLoss(64, 8, 256, head=head)
    codes = torch.randint(256, (2, 20, 8), dtype=torch.int16)
    assert loss(torch.randn(2, 20, 64), codes).item() == pytest.approx(math.log(256), abs=0.6)


@heads
def test_padding_changes_nothing(head):
    loss, (student, codes) = loss_of(head), batch()
    longer = torch.cat([student, torch.full((3, 5, DIM), 9.0)], 1)
    padded = torch.cat([codes, torch.full((3, 5, N), -100)], 1)
    torch.testing.assert_close(loss(longer, padded), loss(student, codes))


@heads
def test_codes_may_be_of_any_integer_type(head):
    loss, (student, _) = loss_of(head), batch()
    codes = torch.randint(K, (3, 7, N))
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(loss(student, codes.to(dtype)), loss(student, codes))


@heads
def test_parts_of_a_batch_with_its_number_of_codes_sum_to_the_whole(head):
    loss, (student, codes) = loss_of(head), batch()
    student.requires_grad_()
    total = (codes >= 0).sum()
    parts = sum(loss(student[some], codes[some], total) for some in (slice(0, 1), slice(1, 3)))
    whole = loss(student, codes)
    torch.testing.assert_close(parts, whole)
    found = gradients(loss, student, parts)
    for ours, theirs in zip(found, gradients(loss, student, whole), strict=True):
        torch.testing.assert_close(ours, theirs)


@heads
def test_without_codes_it_is_0_and_every_parameter_has_a_gradient_of_0(head):
    loss, (student, codes) = loss_of(head), batch()
    student.requires_grad_()
    value = loss(student, torch.full_like(codes, -100))
    assert value.item() == 0
    for gradient in gradients(loss, student, value):
        assert not gradient.any()


@heads
def test_chunks_give_the_same_value_and_gradients_and_never_all_logits(head):
    whole, (student, codes) = loss_of(head), batch()
    chunked = loss_of(head, chunk_frames=4)
    student.requires_grad_()
    sizes = []
    chunked.head.register_forward_hook(lambda module, args, logits: sizes.append(len(logits)))
    value, expected = chunked(student, codes), whole(student, codes)
    torch.testing.assert_close(value, expected)
    found = gradients(chunked, student, value)
    for ours, theirs in zip(found, gradients(whole, student, expected), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert sorted(sizes) == [1] * 2 + [4] * 10  # 21 frames, forward and again backward


@heads
@pytest.mark.parametrize("chunk_frames", [None, 4])
def test_under_bfloat16_autocast_the_sum_stays_in_float32(head, chunk_frames):
    loss, (student, codes) = loss_of(head, chunk_frames=chunk_frames), batch()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, codes)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(student, codes).item(), rel=0.02)
    value.backward()
    assert all(each.grad.isfinite().all() for each in loss.parameters())


@heads
def test_it_compiles_as_one_graph(head):
    loss, (student, codes) = loss_of(head), batch()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    value = compiled(student, codes)
    torch.testing.assert_close(value, loss(student, codes))
    value.backward()
    assert all(each.grad is not None for each in loss.parameters())


@heads
@pytest.mark.parametrize("num_codebooks", [1, N])
def test_it_is_scriptable(head, num_codebooks):
    loss, (student, codes) = loss_of(head, num_codebooks=num_codebooks), batch(num_codebooks=1)
    codes = codes.expand(-1, -1, num_codebooks)
    scripted = torch.jit.script(loss)
    torch.testing.assert_close(scripted(student, codes), loss(student, codes))
    torch.testing.assert_close(
        scripted(student, codes, torch.tensor(7)), loss(student, codes, torch.tensor(7))
    )


@heads
def test_copies_and_pickles_give_the_same_loss(head):
    loss, (student, codes) = loss_of(head, chunk_frames=4), batch()
    for again in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(again(student, codes), loss(student, codes))


class Distilled(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.loss = loss_of(head)
        self.student = nn.Linear(DIM, DIM)

    def forward(self, frames, codes):
        return self.loss(self.student(frames), codes)


def ddp_steps(rank, folder):
    """Two steps of each head; in the second one of the two processes has no codes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    frames, codes = batch(seed=rank)
    for head in HEADS:
        model = DistributedDataParallel(Distilled(head))
        for wanted in (codes, torch.full_like(codes, -100) if rank else codes):
            model.zero_grad(set_to_none=True)
            model(frames, wanted).backward()
            assert all(each.grad is not None for each in model.parameters())
        torch.save([each.grad for each in model.parameters()], f"{folder}/{head}-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_step_together_though_one_has_no_codes(tmp_path):
    torch.multiprocessing.spawn(ddp_steps, (str(tmp_path),), nprocs=2)
    for head in HEADS:
        first, second = (torch.load(tmp_path / f"{head}-{rank}.pt") for rank in range(2))
        for ours, theirs in zip(first, second, strict=True):
            assert torch.equal(ours, theirs)
            assert ours.any()


def test_what_cannot_be_a_loss_is_refused():
    with pytest.raises(ConfigError, match=r"head='joint'.*a head of linear, autoregressive"):
        CodebookLoss(DIM, N, K, head="joint")
    with pytest.raises(ConfigError, match=r"frames_ratio=0.*expected sizes above 0"):
        CodebookLoss(DIM, N, K, frames_ratio=0)
    student, codes = batch()
    with pytest.raises(ValueError, match=r"expected codes \(B, T, 8\)"):
        loss_of("linear", frames_ratio=2)(student, codes)
    with pytest.raises(ValueError, match=r"expected codes \(B, T, 4\)"):
        loss_of("linear")(student[:, :6], codes)
