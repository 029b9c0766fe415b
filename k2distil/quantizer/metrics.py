"""How good codes are, on frames that did not train the quantizer.

Students learn codes, so how well codes can be *predicted* counts beside how well they rebuild the
frame. A *probe* stands for the student: softmax regression from the first principal components of a
frame to the code of each codebook. N codebooks of K entries, D dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from k2distil.errors import DataError
from k2distil.quantizer.arithmetic import shielded
from k2distil.quantizer.model import MAX_CHUNK_SCORES, QUANTIZER_TYPES, Quantizer
from k2distil.quantizer.outliers import refuse_outliers

PROBE_FRAMES = 50_000  # of the training, that are enough to fit it
PROBE_DIM = 64  # principal components the probe sees
PROBE_STEPS = 400
PROBE_BATCH = 512  # frames
PROBE_RATE = 0.02  # of Adam, falling to 0 along a cosine
CHUNK = 4096  # frames of which the probe's (N, K) scores stand at once, at most
NOISE = (0.01, 0.05)  # of the frames' deviation


@dataclass(frozen=True)
class HeldOutFigures:
    """All on held-out frames.

    relative_error: sum |x - decode(encode(x))|^2 / sum |x - mean|^2, the held-out frames' mean.
    probe_cross_entropy: nats a code, mean over frames and codebooks; log K is chance.
    predicted_error: relative error of decode(the codes the probe finds most likely).
    flips_1, flips_5: share of codes that change when Gaussian noise is added whose deviation, the
        same in every dimension, is 1 % (5 %) of the frames' root-mean-square deviation.
    usage: mean over codebooks of perplexity / K; 1 when all entries are used alike.
    dead_codes: entries of all codebooks that neither the training frames given nor the held-out
        frames use.
    num_frames: held-out frames measured.
    error_by_num_codebooks: relative_error of the first 1, 2, .. N codebooks alone, the last too
        without the quantizer's correction; empty for a quantizer that has no `first`.
    """

    relative_error: float
    probe_cross_entropy: float
    predicted_error: float
    flips_1: float
    flips_5: float
    usage: float
    dead_codes: int
    num_frames: int
    error_by_num_codebooks: list[float]


def evaluate(
    quantizer: Quantizer, train_frames: Tensor, held_out_frames: Tensor, seed: int = 0
) -> HeldOutFigures:
    """Measure a quantizer; both frames: (num_frames, D) of any float dtype, at least one each.

    The probe is fitted to `train_frames`; nothing else but `dead_codes` looks at them.

    Raises:
        DataError: no frames, frames `encode` refuses, or (OutlierError) with a value so far from
            the others that float32 cannot hold its square.
    """
    if len(train_frames) == 0 or len(held_out_frames) == 0:
        raise DataError(
            f"{len(train_frames)} training and {len(held_out_frames)} held-out frames: at least "
            "one of each is needed to measure a quantizer; raise --num_audio"
        )
    if isinstance(quantizer, Quantizer):
        refuse_outliers(quantizer, train_frames, "training")
        refuse_outliers(quantizer, held_out_frames, "held-out")
    with shielded(held_out_frames.device):
        return _evaluate(quantizer, train_frames, held_out_frames, seed)


def _evaluate(
    quantizer: Quantizer, train_frames: Tensor, held_out_frames: Tensor, seed: int
) -> HeldOutFigures:
    generator = torch.Generator().manual_seed(seed)
    train_codes, codes = quantizer.encode(train_frames), quantizer.encode(held_out_frames)
    held_out = held_out_frames.float()
    centred = held_out - held_out.double().mean(0)  # squares of large values are beyond float32
    deviation = float(centred.square().mean().sqrt())
    flips = []
    for level in NOISE:
        noise = torch.randn(held_out.shape, generator=generator, dtype=torch.float32)
        noisy = quantizer.encode(held_out + level * deviation * noise.to(held_out.device))
        flips.append(float((noisy != codes).float().mean()))
    probe = fit_probe(train_frames, train_codes, quantizer.codebook_size, generator)
    cross_entropy, predicted = probe_scores(probe, held_out, codes)
    return HeldOutFigures(
        relative_error=relative_error(quantizer, codes, held_out),
        probe_cross_entropy=cross_entropy,
        predicted_error=relative_error(quantizer, predicted, held_out),
        flips_1=flips[0],
        flips_5=flips[1],
        usage=sum(usage(codes, quantizer.codebook_size)) / quantizer.num_codebooks,
        dead_codes=num_dead_codes(torch.cat([train_codes, codes]), quantizer.codebook_size),
        num_frames=len(held_out),
        error_by_num_codebooks=error_by_num_codebooks(quantizer, codes, held_out),
    )


def relative_error(quantizer: Quantizer, codes: Tensor, frames: Tensor) -> float:
    """Error of decode(codes) over the variance of frames: (B, N), (B, D); 0 for constant frames."""
    return _relative_error(quantizer.decode(codes), frames)


def _relative_error(decoded: Tensor, frames: Tensor) -> float:
    error = (decoded - frames).double().square().sum()
    variance = (frames - frames.double().mean(0)).square().sum()
    return float(error / variance) if variance > 0 else 0.0


def error_by_num_codebooks(quantizer: Quantizer, codes: Tensor, frames: Tensor) -> list[float]:
    """Relative errors of sums of 1 .. N codebooks; codes: (B, N) of all of them, frames: (B, D).

    Empty for quantizers of other makers.
    """
    if not isinstance(quantizer, tuple(QUANTIZER_TYPES.values())):
        return []
    errors = []
    for n in range(1, quantizer.num_codebooks + 1):
        part = quantizer.first(n)
        searched = part is not quantizer and part.type != "product"
        found = part.encode(frames) if searched else codes[:, :n]
        errors.append(_relative_error(part.decode(found, corrected=False), frames))
    return errors


def usage(codes: Tensor, codebook_size: int) -> list[float]:
    """Perplexity / K of each codebook; codes: (B, N)."""
    shares = _counts(codes, codebook_size).double() / len(codes)
    entropies = torch.special.entr(shares).sum(1)
    return (entropies.exp() / codebook_size).tolist()


def num_dead_codes(codes: Tensor, codebook_size: int) -> int:
    """Entries no frame uses, all codebooks together; codes: (B, N)."""
    return int(unused_entries(codes, codebook_size).sum())


def unused_entries(codes: Tensor, codebook_size: int) -> Tensor:
    """(N, K) bool: entries that no frame uses; codes: (B, N)."""
    return _counts(codes, codebook_size) == 0


def _counts(codes: Tensor, codebook_size: int) -> Tensor:
    """(B, N) -> (N, K) int64."""
    counts = [torch.bincount(one, minlength=codebook_size) for one in codes.long().unbind(1)]
    return torch.stack(counts)


@dataclass(frozen=True)
class Whitening:
    """The first principal components of frames, each with a variance of 1."""

    mean: Tensor  # (D,)
    unit: float  # a power of two: squares of large values are beyond float32, and of small ones
    components: Tensor  # (P, D)

    def __call__(self, frames: Tensor) -> Tensor:
        """(B, D) of any float dtype -> (B, P) float32."""
        return (frames.float() - self.mean) / self.unit @ self.components.T


@dataclass(frozen=True)
class Probe:
    """Softmax regression: components of frames -> scores (N, K)."""

    whitening: Whitening
    weight: Tensor  # (P, N * K)
    bias: Tensor  # (N * K,)
    codebook_size: int

    def scores(self, frames: Tensor) -> Tensor:
        """(B, D) -> (B, N, K), logarithms of unnormalised probabilities."""
        scores = self.whitening(frames) @ self.weight + self.bias
        return scores.view(len(frames), -1, self.codebook_size)


def fit_probe(
    frames: Tensor, codes: Tensor, codebook_size: int, generator: torch.Generator
) -> Probe:
    """Fit by Adam on seeded batches; frames: (B, D), codes: (B, N)."""
    with shielded(frames.device):
        whitening = _whitening(frames.float())
        features, targets = whitening(frames), codes.long()
        # Starting from how often each code comes, the probe never loses to knowing nothing else.
        counts = _counts(codes, codebook_size).float()
        shares = (counts + 0.5) / (len(codes) + 0.5 * codebook_size)
        weight = features.new_zeros(features.shape[1], shares.numel()).requires_grad_()
        bias = shares.log().flatten().requires_grad_()
        optimizer = torch.optim.Adam([weight, bias], lr=PROBE_RATE)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PROBE_STEPS)
        for _ in range(PROBE_STEPS):
            rows = torch.randint(len(frames), (PROBE_BATCH,), generator=generator)
            rows = rows.to(frames.device)
            with torch.enable_grad():
                scores = (features[rows] @ weight + bias).view(-1, codebook_size)
                loss = F.cross_entropy(scores, targets[rows].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return Probe(whitening, weight.detach(), bias.detach(), codebook_size)


def _whitening(frames: Tensor) -> Whitening:
    """Of (B, D) float32."""
    mean = frames.double().mean(0).float()
    centred = frames - mean
    largest = math.frexp(float(centred.abs().max()))[1] - 1  # its power of two
    unit = 2.0 ** max(largest, -126)  # float32 has its inverse too
    scaled = centred / unit
    values, axes = torch.linalg.eigh((scaled.T @ scaled / len(frames)).double())
    kept = values.argsort(descending=True)[:PROBE_DIM]
    # Directions without variance are rounding: they count for little. Of constant frames all are.
    deviations = values[kept].clamp(min=float(values.max()) * 1e-8).sqrt().clamp(min=1e-30)
    return Whitening(mean, unit, (axes[:, kept] / deviations).T.float())


def probe_scores(probe: Probe, frames: Tensor, codes: Tensor) -> tuple[float, Tensor]:
    """Mean cross entropy in nats of codes (B, N) given frames (B, D), and the likeliest codes."""
    total, predicted = 0.0, []
    size = max(1, min(CHUNK, MAX_CHUNK_SCORES // len(probe.bias)))
    with shielded(frames.device):
        for part, target in zip(frames.split(size), codes.long().split(size), strict=True):
            scores = probe.scores(part)
            loss = F.cross_entropy(scores.flatten(0, 1), target.flatten(), reduction="sum")
            total += float(loss)
            predicted.append(scores.argmax(-1))
    return total / codes.numel(), torch.cat(predicted)
