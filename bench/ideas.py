"""Product codes that might serve students better at the same bytes: ideas, for `distil.py`.

Each changes one thing in how product codes of all frames are made:

whitened: frames are half whitened, by C^(-1/4) of their covariance C, before anything else.
predictable: frames get the covariance of what a student's log-mels explain of them, by ridge
    regression from 340 ms around a frame: directions that the audio says little of become small.
averaged: the quantizer is trained on means of 3 frames, so entries stand for what lasts.
flattened: frames train it less often where they are many, by (frames of their code)^(-1/2) of one
    codebook: silence and repetition weigh less.
prior: codes are chosen for less error and more likelihood under a probe of the frame, and entries
    and probe fitted again, five times: codes that are easier to predict.
sliced: slices are cut along the axes of what log-mels explain, as in "predictable", the most
    explained first, each with the same share of it: few axes are coded finely, the rest coarsely.

    python bench/distil.py --students codes "idea: whitened" --steps 640 --seeds 3
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from k2distil.quantizer import FrameReservoir, QuantizerTrainer
from k2distil.quantizer.metrics import PROBE_FRAMES, fit_probe
from k2distil.quantizer.model import Quantizer

IDEAS = ("whitened", "predictable", "averaged", "flattened", "prior", "sliced")
BATCH_SIZE, CODEBOOK_SIZE = 512, 256
RESERVOIR_FRAMES = 500_000
CONTEXT = range(-8, 9, 2)  # frames of 20 ms around one, whose log-mels explain it
RIDGE = 1e-2  # of the log-mels' mean variance
AVERAGED = 3  # frames
PRIOR, PRIOR_ROUNDS = 3.0, 5  # a nat against half a squared unit of scaled error

Encode = Callable[[Tensor], Tensor]  # (T, D) -> (T, N)
Frames = Mapping[str, Tensor]  # of utterances, (T, D)


def codes_of_idea(
    idea: str, frames: Frames, mels: Frames, wanted: Sequence[str], num_codebooks: int, seed: int
) -> dict[str, Tensor]:
    """Codes (T, N) of the utterances `wanted`.

    frames: float32 of everything that trains. mels: (T, 160), log-mels of some of these.
    """
    everything = torch.cat(list(frames.values()))
    mean = everything.mean(0)
    change = torch.eye(len(mean))
    if idea == "whitened":
        change = _power(_covariance(everything), -0.25)
    elif idea == "predictable":
        change = _to_explained(frames, mels)
    changed = {key: (each - mean) @ change for key, each in frames.items()}
    if idea == "averaged":
        training = [_averaged(each) for each in changed.values()]
    elif idea == "flattened":
        training = [_flattened(torch.cat(list(changed.values())), seed)]
    else:
        training = list(changed.values())
    if idea == "sliced":
        encode = _in_slices(training, _explained(frames, mels), num_codebooks, seed)
    else:
        quantizer = train_product(training, num_codebooks, seed)
        encode = quantizer.encode
    if idea == "prior":
        encode = _with_prior(quantizer, torch.cat(training), seed)
    return {key: encode(changed[key]) for key in wanted}


def train_product(utterances: Sequence[Tensor], num_codebooks: int, seed: int) -> Quantizer:
    """As `train_quantizer_offline.sh` does, of frames (T, D) of each utterance."""
    dim = utterances[0].shape[1]
    reservoir = FrameReservoir(RESERVOIR_FRAMES, dim, seed)
    for each in utterances:
        reservoir.add(each)
    trainer = QuantizerTrainer("product", dim, num_codebooks, CODEBOOK_SIZE, seed=seed)
    while not trainer.done:
        trainer.step(reservoir.batch(trainer.steps_done, BATCH_SIZE))
    return trainer.quantizer


def _covariance(frames: Tensor) -> Tensor:
    centred = frames - frames.mean(0)
    return centred.T @ centred / len(frames)


def _power(covariance: Tensor, exponent: float) -> Tensor:
    """Of a symmetric matrix; eigenvalues below 1e-6 of the greatest count as that."""
    values, axes = torch.linalg.eigh(covariance.double())
    values = values.clamp(min=float(values.max()) * 1e-6)
    return ((axes * values**exponent) @ axes.T).float()


def _to_explained(frames: Frames, mels: Frames) -> Tensor:
    """(D, D): frames times it have the covariance of what log-mels around them explain."""
    meant = torch.cat([frames[key] for key in mels])
    return _power(_covariance(meant), -0.5) @ _power(_explained(frames, mels), 0.5)


def _explained(frames: Frames, mels: Frames) -> Tensor:
    """(D, D): covariance of what log-mels around frames explain of them."""
    pairs = [(_with_context(mels[key]), frames[key]) for key in mels]
    heard = torch.cat([heard[: len(each)] for heard, each in pairs])
    meant = torch.cat([each[: len(heard)] for heard, each in pairs])
    heard, meant = heard - heard.mean(0), meant - meant.mean(0)
    moment = heard.T @ heard
    ridge = RIDGE * moment.diagonal().mean() * torch.eye(len(moment))
    return _covariance(heard @ torch.linalg.solve(moment + ridge, heard.T @ meant))


def _with_context(mels: Tensor) -> Tensor:
    """(T, F) -> (T, F * len(CONTEXT)); edges repeat."""
    at = torch.arange(len(mels))
    return torch.cat([mels[(at + shift).clamp(0, len(mels) - 1)] for shift in CONTEXT], 1)


def _averaged(frames: Tensor) -> Tensor:
    """(T, D) -> (T - AVERAGED + 1, D); shorter utterances as they are."""
    return frames.unfold(0, AVERAGED, 1).mean(-1) if len(frames) >= AVERAGED else frames


def _flattened(frames: Tensor, seed: int) -> Tensor:
    """As many frames, drawn again with the chances of the module's docstring."""
    codes = train_product([frames], 1, seed).encode(frames)[:, 0].long()
    chances = torch.bincount(codes, minlength=CODEBOOK_SIZE)[codes].double() ** -0.5
    places = chances.cumsum(0) / chances.sum()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(len(frames), generator=generator, dtype=torch.float64)
    return frames[torch.searchsorted(places, drawn).clamp(max=len(frames) - 1)]


def _in_slices(
    utterances: Sequence[Tensor], explained: Tensor, num_codebooks: int, seed: int
) -> Encode:
    """See `sliced` in the module's docstring; a slice has one axis at least."""
    values, axes = torch.linalg.eigh(explained.double())
    axes = axes.flip(1).float()  # the most explained first
    share = values.flip(0).clamp(min=0).cumsum(0) / values.clamp(min=0).sum()
    starts = [0]
    for n in range(1, num_codebooks):
        start = int(torch.searchsorted(share, n / num_codebooks)) + 1
        starts.append(min(max(start, starts[-1] + 1), len(axes) - num_codebooks + n))
    slices = [axes[:, a:b] for a, b in zip(starts, [*starts[1:], len(axes)], strict=True)]
    quantizers = [train_product([each @ part for each in utterances], 1, seed) for part in slices]

    def encode(frames: Tensor) -> Tensor:
        pairs = zip(quantizers, slices, strict=True)
        return torch.cat([quantizer.encode(frames @ part) for quantizer, part in pairs], 1)

    return encode


def _with_prior(quantizer: Quantizer, frames: Tensor, seed: int) -> Encode:
    """See `prior` in the module's docstring."""
    table = quantizer.table.clone()  # (N, K, D), each codebook in a subspace of its own
    projectors = []
    for entries in table:
        axes = torch.linalg.svd(entries, full_matrices=False)
        basis = axes.Vh[: int((axes.S / axes.S[0] > 1e-4).sum())]
        projectors.append(basis.T @ basis)
    generator = torch.Generator().manual_seed(seed)
    probed = frames[torch.randperm(len(frames), generator=generator)[:PROBE_FRAMES]]
    codes, probe = quantizer.encode(probed), None

    def encode(frames: Tensor) -> Tensor:
        parts = []
        for part in frames.split(4096):
            scaled = quantizer.normalise(part)
            scores = torch.einsum("bd,nkd->bnk", scaled, table) - table.square().sum(-1) / 2
            likely = probe.scores(part).log_softmax(-1)
            parts.append((scores + PRIOR * likely).argmax(-1))
        return torch.cat(parts)

    scaled = quantizer.normalise(probed)
    for _ in range(PRIOR_ROUNDS):
        probe = fit_probe(probed, codes, CODEBOOK_SIZE, generator)
        codes = encode(probed)
        for n, projector in enumerate(projectors):
            counts = torch.bincount(codes[:, n], minlength=CODEBOOK_SIZE).float()
            sums = torch.zeros(CODEBOOK_SIZE, scaled.shape[1])
            sums.index_add_(0, codes[:, n], scaled @ projector)
            used = counts > 0
            table[n, used] = sums[used] / counts[used, None]
    return encode
