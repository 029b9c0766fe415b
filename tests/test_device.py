"""Which device a command uses and how exactly it computes; four GPUs are pretended."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from k2distil.config import TrainDistilConfig, load_config
from k2distil.device import choose_dtype, use_device
from k2distil.errors import ConfigError
from k2distil.pipeline.student.arguments import training_arguments

ROOT = Path(__file__).parents[1]


@pytest.fixture
def made_current(monkeypatch):
    """Devices in the order in which they were made the current one."""
    devices = []
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    return devices


def test_the_device_is_made_the_current_one(made_current, monkeypatch):
    assert use_device("2") == torch.device("cuda", 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert use_device("2,3") == torch.device("cuda", 1)
    assert use_device("cpu") == torch.device("cpu")
    assert made_current == [torch.device("cuda", 2), torch.device("cuda", 1)]


@pytest.mark.parametrize("gpu", ["", " ", "0,0", "0;1", "-2"])
def test_what_is_no_device_is_refused(gpu):
    """An empty one is a variable that is not set, mostly: no wish for the CPU."""
    with pytest.raises(ConfigError, match=r"--gpu .*: expected a device index, a list such as"):
        use_device(gpu)


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("auto", "cpu", torch.float32),
        ("auto", "cuda", torch.float16),
        ("bfloat16", "cuda", torch.bfloat16),
        ("float32", "cuda", torch.float32),
    ],
)
def test_a_teacher_computes_in_what_the_device_is_fast_at_or_as_asked(dtype, device, expected):
    assert choose_dtype(dtype, torch.device(device)) == expected


@pytest.mark.parametrize(("has_bf16", "precision"), [(True, "bf16"), (False, "fp16")])
def test_a_student_trains_on_the_device_that_was_given(
    made_current, has_bf16, precision, monkeypatch, tmp_path
):
    def is_bf16_supported(including_emulation=True):
        return has_bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    flags = {"train_data": ("a.list",), "save_path": tmp_path / "student", "gpu": "3"}
    args = training_arguments(load_config(TrainDistilConfig, None, [], flags), False)
    assert (args.device, args.n_gpu) == (torch.device("cuda", 3), 1)
    assert made_current[-1] == torch.device("cuda", 3)
    assert (args.bf16, args.fp16) == (precision == "bf16", precision == "fp16")


@pytest.mark.parametrize("switch", ["", "torch.set_float32_matmul_precision('high')"])
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_float32_stays_off_tf32_whatever_switches_are_set_and_leaves_them(precision, switch):
    script = f"""
import torch
from k2distil.device import no_tf32
backends = torch.backends
new = hasattr(backends.cudnn, "conv")
if new:
    backends.fp32_precision = {precision!r}
    state = lambda: [backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision]
else:
    backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = {precision == "tf32"}
    state = lambda: [backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32]
backends.cudnn.benchmark = True
{switch}
before = state()
with no_tf32(torch.device("cpu")):
    assert state() == before
with no_tf32(torch.device("cuda")):
    assert state() == (["ieee", "ieee"] if new else [False, False])
    assert backends.cudnn.benchmark
assert state() == before
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_freed_memory_is_taken_again_without_the_systems_help():
    program = """
import resource, torch
from k2distil.device import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), keep_freed_memory(), faults(), faults())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    before, keeps, _, after = done.stdout.split()
    if keeps == "False":
        pytest.skip("not glibc")
    assert int(after) < 0.1 * int(before)
