"""Trained quantizers: frames -> codes -> frames.

    quantizer = load_quantizer("exp/quantizer.pt")
    codes = quantizer.encode(frames)  # (*, dim) -> (*, num_codebooks) uint8
    approximation = quantizer.decode(codes)  # (*, dim): the chosen centers' sum, and a correction

N codebooks of K entries, D dimensions. Frames are centred and scaled before anything else, so that
neither an offset nor a unit of the data costs precision.
"""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from k2distil.errors import ConfigError, DataError
from k2distil.quantizer.arithmetic import exact
from k2distil.quantizer.correction import Correction
from k2distil.quantizer.search.additive import (
    beam_search,
    entry_rows,
    gram_products,
    has_gram_table,
    interaction_tables,
    refine,
    unary_scores,
    vector_products,
)
from k2distil.quantizer.search.fused import (
    CHUNK_VALUES,
    KernelCache,
    Search,
    additive_search,
    check_once,
    give_up,
    has_kernels,
    product_search,
)
from k2distil.quantizer.search.slices import find_axes, saves_work, sliced_scores

MAX_CODEBOOK_SIZE = 65_536  # entries; codes stay within 16 bits

# Frames are searched in chunks of exactly this many (the last is padded): memory is bounded, and a
# matrix product of one fixed shape gives a frame the same bits whatever frames stand beside it.
CHUNK_FRAMES = {"cpu": 128, "cuda": 4096}
MAX_CHUNK_SCORES = 2**28  # of one chunk's scores, (B, N, K) and more, 1 GiB


class Quantizer(nn.Module):
    """What all types share; a subclass brings the search.

    Attributes:
        type: the name in `--quantizer_type` and in files.
        dim, num_codebooks, codebook_size: D, N, K.
        table: (N, K, D) float32, the entries for centred and scaled frames.
        bias: (N, K) float32, -|entry|^2 / 2.
        mean: (D,) float32; scale: () float32.
        correction: of the sum, in `decode`; None: the sum it is. No code depends on it.
        provenance: plain values that say what it was trained on (teacher, layer, dtype, ...).
        figures: held-out figures by name (metrics.py), empty until measured.
    """

    type: ClassVar[str]  # type: ignore[assignment]  # hides Module.type(dtype); use .to()
    tensor_names: ClassVar[tuple[str, ...]] = ("table", "mean", "scale")
    table: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    correction: Correction | None

    def __init__(self, table: Tensor, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        if table.ndim != 3 or mean.shape != table.shape[2:] or scale.shape != ():
            shapes = [tuple(each.shape) for each in (table, mean, scale)]
            raise ValueError(f"shapes {shapes}")
        if not 0 < scale.float() < torch.inf:
            raise ValueError(f"a scale of {float(scale)}: expected a float32 above 0")
        self.num_codebooks, self.codebook_size, self.dim = table.shape
        self.register_buffer("table", table.float().contiguous())
        self.register_buffer("bias", -0.5 * self.table.square().sum(-1))
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", scale.float())
        self.correction = None
        self.provenance: dict[str, str | int | float | bool | None] = {}
        self.figures: dict[str, float | list[float]] = {}
        self._kernels = KernelCache()

    @property
    def centers(self) -> Tensor:
        """(N, K, D) float32: an uncorrected decode is the sum of one center a codebook."""
        return self.table * self.scale + self.mean / self.num_codebooks

    @property
    def code_dtype(self) -> torch.dtype:
        """uint8 up to 256 entries, int16 up to 32,768, else int32."""
        if self.codebook_size <= 256:
            return torch.uint8
        return torch.int16 if self.codebook_size <= 32_768 else torch.int32

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor arguments beside the tensors; they are part of the file and of the id."""
        return {}

    def entries(self) -> dict[str, Tensor]:
        """The constructor's tensors; all others follow from them."""
        return {name: getattr(self, name) for name in self.tensor_names}

    @property
    def id(self) -> str:
        """16 hex digits: a digest of all that decides the codes. The same training, the same id."""
        digest = hashlib.sha256(f"{self.type} {tuple(self.table.shape)} {self.settings}".encode())
        for tensor in self.entries().values():
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def first(self, num_codebooks: int) -> Quantizer:
        """The first codebooks alone, with an id of their own; all of them: this quantizer itself.

        Of a product quantizer its codes are the first columns of the whole one's; of an additive
        one they are searched anew, and not corrected. `provenance` says `first_of` how many and the
        `whole_id`.

        Raises:
            ConfigError: not 1 to N, or a quantizer whose codebooks are of no use alone.
        """
        if not 1 <= num_codebooks <= self.num_codebooks:
            raise ConfigError(
                f"the first {num_codebooks} codebooks of a quantizer of {self.num_codebooks}: "
                f"give 1 to {self.num_codebooks}"
            )
        if num_codebooks == self.num_codebooks:
            return self
        table = self.table[:num_codebooks].clone()
        part = type(self)(table, self.mean, self.scale, **self.settings)
        part.provenance = {
            "first_of": self.num_codebooks,
            "whole_id": self.id,
            **self.provenance,  # a part of a part is one of the whole
        }
        return part

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """frames: (*, D) float16 to float64 -> codes: (*, N) of `code_dtype`, on the same device.

        Deterministic; a frame's codes do not depend on the frames beside it. Extra memory is
        bounded, whatever the number of frames.

        Raises:
            DataError: another dimension, not floating point, NaN or infinite values.
        """
        self._check_frames(frames)
        rows = frames.reshape(-1, self.dim)
        codes = self._encode_by_kernels(rows)
        if codes is None:
            codes, are_finite = self.encode_by_torch(rows)
            if not are_finite:
                raise self._bad_frames(rows)
        return codes.view(*frames.shape[:-1], self.num_codebooks).to(frames.device)

    def encode_by_torch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) -> codes (B, N), and whether all frames are finite, () bool; see `encode`."""
        codes = self._no_codes(len(rows))
        size = chunk_frames(codes.device, self._scores_per_frame)
        are_finite = torch.ones((), dtype=torch.bool, device=codes.device)
        with exact(codes.device):
            for start in range(0, len(rows), size):
                chunk = self.normalise(rows[start : start + size])
                are_finite &= chunk.isfinite().all()
                padded = F.pad(chunk, (0, 0, 0, size - len(chunk)))
                codes[start : start + size] = self._search(padded)[: len(chunk)]
        return codes, are_finite

    def _encode_by_kernels(self, rows: Tensor) -> Tensor | None:
        """(B, D) -> codes (B, N); None: there are no kernels for it."""
        device = self.table.device
        if rows.dtype == torch.float64 or not has_kernels(device):
            return None
        try:
            search = self._kernels.of(self)
            if search is None:
                return None
            with torch.cuda.device_of(self.table):
                codes, is_bad = self._search_by_kernels(search, rows)
                found = bool(is_bad.any())
                if not found:
                    check_once(self, rows, codes)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # what Triton raises has no base class of its own
            give_up(device, error)
            return None
        if found:
            codes[is_bad], are_finite = self.encode_by_torch(rows[is_bad.to(rows.device)])
            if not are_finite:
                raise self._bad_frames(rows)
        return codes

    def _search_by_kernels(self, search: Search, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) -> codes (B, N), is_bad (B,) bool."""
        codes = self._no_codes(len(rows))
        is_bad = torch.zeros(len(rows), dtype=torch.bool, device=codes.device)
        size = max(1, CHUNK_VALUES // search.values_per_frame)
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            codes[part], is_bad[part] = search.run(rows[part].to(codes.device))
        return codes, is_bad

    def _no_codes(self, num_frames: int) -> Tensor:
        shape = (num_frames, self.num_codebooks)
        return torch.empty(shape, dtype=self.code_dtype, device=self.table.device)

    @torch.no_grad()
    def decode(self, codes: Tensor, corrected: bool = True) -> Tensor:
        """codes: (*, N) integers in 0 .. K-1 -> (*, D) float32.

        The sum of the chosen centers, and where there is one, and `corrected`, the correction.

        Raises:
            DataError: another number of codebooks, not integers, or a code outside 0 .. K-1.
        """
        is_integer = codes.dtype != torch.bool and not (
            codes.is_floating_point() or codes.is_complex()
        )
        if codes.shape[-1:] != (self.num_codebooks,) or not is_integer:
            raise DataError(
                f"codes {tuple(codes.shape)} {codes.dtype}: expected integers "
                f"(*, {self.num_codebooks}) as this quantizer has {self.num_codebooks} codebooks"
            )
        rows = codes.reshape(-1, self.num_codebooks).to(self.table.device, torch.int64)
        if rows.numel() and not 0 <= rows.min() <= rows.max() < self.codebook_size:
            raise DataError(
                f"codes from {rows.min()} to {rows.max()}: this quantizer has entries 0 to "
                f"{self.codebook_size - 1}; remove padding, or use the quantizer that made them"
            )
        sums = self.sum_entries(rows)
        if corrected and self.correction is not None:
            sums = sums + self.correction(sums)
        frames = sums * self.scale + self.mean
        return frames.view(*codes.shape[:-1], self.dim).to(codes.device)

    def sum_entries(self, codes: Tensor) -> Tensor:
        """(B, N) int64 -> (B, D) float32: what they decode to, centred and scaled, uncorrected."""
        rows = entry_rows(codes, self.codebook_size)
        return F.embedding_bag(rows, self.table.flatten(0, 1), mode="sum")

    @torch.no_grad()
    def residuals(self, frames: Tensor, codes: Tensor) -> Tensor:
        """(B, D), (B, N) -> (B, D) float32: what the sums leave of frames, centred and scaled."""
        sums = self.sum_entries(codes.to(self.table.device, torch.int64))
        return self.normalise(frames) - sums

    def normalise(self, frames: Tensor) -> Tensor:
        """(B, D) of any float dtype -> (B, D) float32, centred and scaled, on the own device."""
        return ((frames.to(self.mean.device) - self.mean) / self.scale).float()

    @property
    def _scores_per_frame(self) -> int:
        """How many float32 of a frame stand at once in the search."""
        return self.num_codebooks * self.codebook_size

    def _bad_frames(self, rows: Tensor) -> DataError:
        """What is wrong with rows, (B, D), that were not all finite; looked at chunk by chunk."""
        size = chunk_frames(self.table.device, self._scores_per_frame)
        is_bad = torch.empty(len(rows), dtype=torch.bool, device=self.table.device)
        for chunk, place in zip(rows.split(size), is_bad.split(size), strict=True):
            place.copy_(~self.normalise(chunk).isfinite().all(-1))
        bad = is_bad.nonzero().flatten()
        return DataError(
            f"{len(bad)} of {len(rows)} frames hold NaN, infinite values or values beyond float32 "
            f"(the first is frame {int(bad[0])}): look at the audio, or use --dtype float32"
        )

    def _search(self, frames: Tensor) -> Tensor:
        """frames: (B, D) normalised -> (B, N) int64."""
        raise NotImplementedError

    def kernel_search(self) -> Search | None:
        """The search by kernels; None: there is none for it."""
        return None

    def _check_frames(self, frames: Tensor) -> None:
        if frames.shape[-1:] != (self.dim,):
            raise DataError(
                f"frames {tuple(frames.shape)}: this quantizer was trained on {self.dim} "
                "dimensions; give it frames of the same teacher, or train another quantizer"
            )
        if not frames.is_floating_point():
            raise DataError(f"frames of {frames.dtype}: expected float16 to float64")


class ProductQuantizer(Quantizer):
    """Orthogonal codebooks: the best code of each is found alone, exactly.

    Jegou et al., "Product quantization for nearest neighbor search", TPAMI 2011; rotated as in
    Ge et al., "Optimized product quantization", TPAMI 2014. The rotation is part of the table.

    Args:
        axes: (N, d, D), of the slices that the entries lie in; None: found from the table.
    """

    type = "product"
    axes: Tensor | None
    sliced: Tensor | None  # (N, d, K), the entries along the axes

    def __init__(
        self, table: Tensor, mean: Tensor, scale: Tensor, axes: Tensor | None = None
    ) -> None:
        super().__init__(table, mean, scale)
        if axes is None:
            axes = find_axes(self.table)
        elif not saves_work(axes.shape[1], self.codebook_size, self.dim):
            axes = None
        with exact(table.device):
            sliced = None if axes is None else axes @ self.table.transpose(1, 2)
        self.register_buffer("axes", axes)
        self.register_buffer("sliced", sliced)

    def _search(self, frames: Tensor) -> Tensor:
        if self.axes is None or self.sliced is None:
            return unary_scores(frames, self.table, self.bias).argmax(-1)
        return sliced_scores(frames, self.axes, self.sliced, self.bias).argmax(-1).T

    def kernel_search(self) -> Search | None:
        """None: where entries are compared whole, or all of them are alike."""
        if self.axes is None or self.sliced is None or not self.axes.numel():
            return None
        return product_search(self.axes, self.sliced, self.bias, self.mean, self.scale)


class AdditiveQuantizer(Quantizer):
    """Any codebooks: less error at the same bytes, found by a search.

    Inner products of entries are looked up in `interactions`, (N, N * K, K); with many entries
    there is no such table and they are computed as they are needed (search/additive.py).

    Args:
        beam: prefixes kept; num_sweeps: how often each code is chosen again at the end.
    """

    type = "additive"
    interactions: Tensor | None

    def __init__(
        self, table: Tensor, mean: Tensor, scale: Tensor, beam: int = 16, num_sweeps: int = 2
    ) -> None:
        super().__init__(table, mean, scale)
        self.beam, self.num_sweeps = beam, num_sweeps
        few = has_gram_table(self.num_codebooks, self.codebook_size)
        self.register_buffer("interactions", interaction_tables(self.table) if few else None)

    @property
    def settings(self) -> dict[str, Any]:
        """The search: it decides the codes as the entries do."""
        return {"beam": self.beam, "num_sweeps": self.num_sweeps}

    @property
    def _scores_per_frame(self) -> int:
        # Beside all scores, those of each prefix's continuations and what is subtracted from them.
        return (self.num_codebooks + 2 * self.beam) * self.codebook_size

    def _search(self, frames: Tensor) -> Tensor:
        table = self.interactions
        products = vector_products(self.table) if table is None else gram_products(table)
        unary = unary_scores(frames, self.table, self.bias)
        codes = beam_search(unary, products, self.beam)
        return refine(unary, products, codes, self.num_sweeps)

    def kernel_search(self) -> Search | None:
        """None: without a Gram table, or of sizes that no kernel takes."""
        if self.interactions is None:
            return None
        entries = (self.table, self.bias, self.mean, self.scale)
        return additive_search(*entries, self.interactions, self.beam, self.num_sweeps)


QUANTIZER_TYPES: dict[str, type[Quantizer]] = {
    quantizer.type: quantizer for quantizer in (ProductQuantizer, AdditiveQuantizer)
}


def chunk_frames(device: torch.device, scores_per_frame: int) -> int:
    """How many frames are searched at once; depends on nothing that varies between batches."""
    return max(1, min(CHUNK_FRAMES.get(device.type, 4096), MAX_CHUNK_SCORES // scores_per_frame))
