import copy
import random
import re
import sys
from pathlib import Path

import pytest
import torch

from k2distil.errors import CheckpointError, ConfigError, DataError
from k2distil.quantizer import (
    AdditiveQuantizer,
    MultiQuantizer,
    ProductQuantizer,
    evaluate,
    load_quantizer,
    package_state,
    save_quantizer,
)
from tests.quantizer.conftest import power_law_frames, trained
from tests.quantizer.test_model import random_product

multi_quantization = pytest.importorskip("multi_quantization")


def random_package(dim, num_codebooks, codebook_size, seed=0):
    """With scales, a start that is far from the best, and centers that are not orthogonal."""
    torch.manual_seed(seed)
    quantizer = multi_quantization.Quantizer(dim, codebook_size, num_codebooks)
    with torch.no_grad():
        quantizer.centers.normal_()
        quantizer.to_logits.weight.normal_()
        quantizer.centers_scale.fill_(0.05)
        quantizer.logits_scale.fill_(-0.02)
    return quantizer


@pytest.fixture(scope="module")
def trained_package():
    """D = 16, N = 8, K = 16, from the first phase of its own trainer; far from the origin."""
    torch.manual_seed(0)
    random.seed(0)
    trainer = multi_quantization.QuantizerTrainer(
        16, bytes_per_frame=4, device=torch.device("cpu"), phase_one_iters=150
    )
    frames = power_law_frames(4096, 16) + 3
    for _ in range(150):
        trainer.step(frames[torch.randint(4096, (256,))])
    return trainer.quantizer


def saved(package, path):
    torch.save(package.state_dict(), path)
    return path


def package_codes(package, frames, rounds=5):
    with torch.no_grad():
        return torch.cat(
            [package.encode(part, rounds, as_bytes=False) for part in frames.split(32)]
        )


def loaded_package(state):
    """As icefall does."""
    num_codebooks, codebook_size, dim = state["centers"].shape
    package = multi_quantization.Quantizer(dim, codebook_size, num_codebooks)
    package.load_state_dict(state)
    return package


def assert_same_quantizer(package, quantizer, frames):
    theirs, ours = package_codes(package, frames), quantizer.encode(frames)
    exact = package_codes(copy.deepcopy(package).double(), frames.double())
    assert (exact == ours).float().mean() >= 0.999
    assert (theirs == ours).float().mean() >= 0.998  # float32 ties cost it more than us
    with torch.no_grad():
        expected = package.decode(theirs)
    assert (quantizer.decode(theirs) - expected).abs().max() <= 1e-6 * expected.abs().max()
    error = (quantizer.decode(ours) - frames).square().sum()
    assert float(error) == pytest.approx(float((expected - frames).square().sum()), rel=1e-3)


@pytest.mark.parametrize(
    "sizes", [(24, 1, 256), (24, 2, 16), (24, 4, 32), (24, 8, 256), (24, 16, 32)], ids=str
)
def test_codes_and_vectors_are_the_packages_own(sizes, tmp_path):
    package = random_package(*sizes)
    quantizer = load_quantizer(saved(package, tmp_path / "q.pt"))
    assert isinstance(quantizer, MultiQuantizer)
    frames = 4 * torch.randn(1000, 24, generator=torch.Generator().manual_seed(1))
    assert_same_quantizer(package, quantizer, frames)
    assert torch.allclose(quantizer.centers, package.get_centers(), rtol=1e-6)


def test_codes_of_a_trained_package_are_its_own(trained_package, tmp_path):
    quantizer = load_quantizer(saved(trained_package, tmp_path / "q.pt"))
    assert quantizer.provenance == {"multi_quantization_id": trained_package.get_id()}
    frames = power_law_frames(1000, 16, seed=0) + 3
    assert_same_quantizer(trained_package, quantizer, frames)
    assert_same_quantizer(trained_package, quantizer, frames.half().float())
    assert torch.equal(quantizer.encode(frames.half()), quantizer.encode(frames.half().float()))


def test_codes_do_not_depend_on_the_frames_beside_them(trained_package, tmp_path):
    quantizer = load_quantizer(saved(trained_package, tmp_path / "q.pt"))
    frames = power_law_frames(700, 16, seed=0) + 3
    codes = quantizer.encode(frames)
    order = torch.randperm(700, generator=torch.Generator().manual_seed(0))
    assert torch.equal(quantizer.encode(frames[order]), codes[order])
    assert torch.equal(torch.cat([quantizer.encode(part) for part in frames.split(97)]), codes)
    with pytest.raises(DataError, match="NaN"):
        quantizer.encode(torch.full((2, 16), float("nan")))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of memory")
@pytest.mark.parametrize(("num_codebooks", "codebook_size"), [(32, 64), (64, 16)])
def test_a_chunk_takes_the_memory_it_is_planned_with(num_codebooks, codebook_size):
    def peak():
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024

    centers = torch.randn(num_codebooks, codebook_size, 16)
    quantizer = MultiQuantizer(centers, centers, torch.zeros(num_codebooks, codebook_size))
    frames = num_codebooks**0.5 * torch.randn(128, 16)
    quantizer.encode(frames[:1])
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    quantizer.encode(frames)
    assert peak() - before < 128 * quantizer._scores_per_frame * 4


def test_sizes_that_the_package_cannot_refine_have_codes_too(tmp_path):
    quantizer = load_quantizer(saved(random_package(8, 4, 4), tmp_path / "q.pt"))
    frames = 4 * torch.randn(50, 8)
    combinations = torch.cartesian_prod(*[torch.arange(4)] * 4)
    least = torch.cdist(frames, quantizer.decode(combinations)).amin(1).square()
    errors = (quantizer.decode(quantizer.encode(frames)) - frames).square().sum(1)
    assert errors.sum() < 1.1 * least.sum()


def test_it_is_saved_in_our_format_and_exported_back(trained_package, tmp_path):
    quantizer = load_quantizer(saved(trained_package, tmp_path / "package.pt"))
    again = load_quantizer(save_quantizer(quantizer, tmp_path / "ours.pt"))
    frames = power_law_frames(300, 16) + 3
    assert isinstance(again, MultiQuantizer)
    assert (again.id, again.provenance) == (quantizer.id, quantizer.provenance)
    assert torch.equal(again.encode(frames), quantizer.encode(frames))
    exported = loaded_package(package_state(again))
    assert exported.get_id() == trained_package.get_id()
    theirs, back = package_codes(trained_package, frames), package_codes(exported, frames)
    assert (theirs == back).float().mean() >= 0.999


def test_the_id_depends_on_all_that_decides_the_codes(tmp_path):
    package = random_package(8, 2, 16)
    first = load_quantizer(saved(package, tmp_path / "q.pt"))
    assert load_quantizer(tmp_path / "q.pt").id == first.id
    with torch.no_grad():
        package.to_logits.bias[3] += 1
    assert load_quantizer(saved(package, tmp_path / "q.pt")).id != first.id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"centers_scale": None}, "without centers_scale; save all of"),
        ({"to_logits.weight": None, "to_logits.bias": None}, "without to_logits.weight, to_log"),
        ({"to_logits.weight": torch.zeros(31, 8)}, "a damaged multi_quantization state dict"),
        ({"to_logits.bias": torch.zeros(31)}, "a damaged multi_quantization state dict"),
        ({"centers": torch.zeros(32, 8)}, "a damaged multi_quantization state dict"),
        ({"centers": torch.zeros(2, 0, 8)}, "a damaged multi_quantization state dict"),
        ({"centers": torch.full((2, 16, 8), float("nan"))}, "NaN or infinite"),
        ({"centers_scale": torch.tensor(99.0)}, "NaN or infinite"),
        ({"logits_scale": 3}, "a damaged multi_quantization state dict"),
        ({"id_buf": torch.tensor([255, 254], dtype=torch.uint8)}, "a damaged multi_quantization"),
    ],
    ids=str,
)
def test_a_partial_or_damaged_state_dict_is_refused(tmp_path, changes, message):
    state = random_package(8, 2, 16).state_dict() | changes
    state = {key: value for key, value in state.items() if value is not None}
    torch.save(state, tmp_path / "q.pt")
    with pytest.raises(CheckpointError, match=rf"q\.pt: .*{message}"):
        load_quantizer(tmp_path / "q.pt")


def test_a_pickled_quantizer_is_refused_with_the_line_that_saves_its_state(tmp_path):
    torch.save(random_package(8, 2, 16), tmp_path / "q.pt")
    with pytest.raises(CheckpointError) as caught:
        load_quantizer(tmp_path / "q.pt")
    assert "q.pt: a pickled quantizer of multi_quantization, of which its state" in str(
        caught.value
    )
    assert 'read: torch.save(quantizer.state_dict(), "icefall.pt"); give what' in str(caught.value)


def test_a_state_dict_within_another_is_read_by_the_line_of_the_message(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = random_package(8, 2, 16)
    torch.save({"epoch": 3, "model": package.state_dict()}, "q.pt")
    with pytest.raises(
        CheckpointError, match=r"q\.pt: a quantizer of multi_quantization under 'mo"
    ) as it:
        load_quantizer("q.pt")
    assert 'torch.save(quantizer.state_dict(), "icefall.pt")' in str(it.value)
    exec(str(it.value).partition("is read alone: ")[2].partition(", as of ")[0])
    assert load_quantizer("icefall.pt").id == load_quantizer(saved(package, tmp_path / "a.pt")).id


def test_a_state_dict_without_an_id_is_read(tmp_path):
    state = random_package(8, 2, 16).state_dict()
    del state["id_buf"]
    torch.save(state, tmp_path / "q.pt")
    assert load_quantizer(tmp_path / "q.pt").provenance == {}


@pytest.fixture(scope="module", params=["product", "additive"])
def own(request):
    """Trained here: D = 16, N = 4, K = 16, on frames far from the origin and not of unit scale."""
    return trained(30 + 5 * power_law_frames(3000, 16), request.param, 4, 16)


def test_its_first_codebooks_alone_are_refused_and_have_no_figures(tmp_path):
    quantizer = load_quantizer(saved(random_package(8, 4, 16), tmp_path / "q.pt"))
    with pytest.raises(ConfigError, match="first 2 codebooks of a multi_quantization quantizer"):
        quantizer.first(2)
    frames = power_law_frames(500, 8)
    assert evaluate(quantizer, frames, frames).error_by_num_codebooks == []


def test_an_export_decodes_to_our_vectors_and_keeps_our_id(own):
    package = loaded_package(package_state(own))
    codes = torch.randint(0, 16, (200, 4), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(package.decode(codes), own.decode(codes), rtol=1e-5)
    assert package.get_id() == own.id[:8]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rounds", [0, 5])
def test_an_exported_product_quantizer_gives_our_codes(seed, rounds):
    quantizer = random_product(4, 32, 16, seed)
    package = loaded_package(package_state(quantizer))
    frames = 30 + 2.5 * torch.randn(2000, 16, generator=torch.Generator().manual_seed(seed))
    for given in (frames, frames.half().float()):
        equal = package_codes(package, given, rounds) == quantizer.encode(given)
        assert equal.float().mean() >= 0.999


def test_an_exported_additive_quantizer_is_as_good_in_the_package():
    frames = 30 + 5 * power_law_frames(3000, 16)
    quantizer = trained(frames, "additive", 4, 16)
    package = loaded_package(package_state(quantizer))
    theirs = quantizer.decode(package_codes(package, frames))
    ours = quantizer.decode(quantizer.encode(frames))
    assert (theirs - frames).square().sum() < 1.05 * (ours - frames).square().sum()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 16), "quantizer_out_dim 3: .*--quantizer_out_dim 2"),
        ((4, 100), "quantizer_codebook_size 100: .*--quantizer_codebook_size 64"),
        ((4, 512), "quantizer_codebook_size 512: .*at most a byte.*256"),
    ],
)
def test_sizes_the_package_does_not_have_are_refused(sizes, message):
    quantizer = AdditiveQuantizer(torch.randn(*sizes, 8), torch.zeros(8), torch.ones(()))
    with pytest.raises(CheckpointError, match=rf"exp/q\.pt: {message}"):
        package_state(quantizer, "exp/q.pt")


def test_our_codes_train_the_packages_joint_codebook_loss(own):
    frames = 30 + 5 * power_law_frames(512, 16)
    package = loaded_package(package_state(own))
    for codes in (own.encode(frames), package_codes(package, frames)):
        torch.manual_seed(0)
        loss = multi_quantization.prediction.JointCodebookLoss(
            predictor_channels=16, num_codebooks=4, hidden_channels=32, codebook_size=16
        )
        optimizer = torch.optim.Adam(loss.parameters(), lr=0.01)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            total = loss((frames - 30) / 5, codes) / codes.numel()
            total.backward()
            optimizer.step()
            losses.append(total.item())
        assert losses[-1] < 0.8 * losses[0]


def test_an_export_read_back_decodes_alike(tmp_path):
    quantizer = ProductQuantizer(torch.randn(2, 16, 8), torch.zeros(8), torch.ones(()))
    torch.save(package_state(quantizer), tmp_path / "q.pt")
    codes = torch.randint(0, 16, (9, 2))
    decoded = load_quantizer(tmp_path / "q.pt").decode(codes)
    assert torch.allclose(decoded, quantizer.decode(codes), atol=1e-5)
