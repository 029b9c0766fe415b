"""A teacher's codes at a student's frame rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2distil.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy import ndarray
    from torch import Tensor

IGNORE_INDEX = -100  # where there is no code; cross_entropy's own default
OTHER_AUDIO = "the codes are of other audio"
TOLERANCE = 3  # student frames that the two lengths may differ by


def align_codes(
    codes: Tensor | ndarray,
    num_frames: int,
    frames_ratio: int = 1,
    codebook_offset: int = 0,
    key: str = "",
) -> Tensor:
    """Give each student frame the `frames_ratio` teacher frames it covers.

    Student frame t gets teacher frames ratio * t + offset and following. Teacher frames beyond the
    student's end are dropped; where the teacher has none, -100 stands.

    Args:
        codes: (T, N) integers, one row per teacher frame.
        num_frames: the student's, without padding.
        frames_ratio: teacher frames per student frame.
        codebook_offset: teacher frames to skip at the beginning; negative: that are missing there,
            as for a student whose subsampling eats the first frames.
        key: of the utterance, for errors.

    Returns:
        (num_frames, N * frames_ratio) int64, codes of the earliest teacher frame first.

    Raises:
        ConfigError: frames_ratio is not above 0.
        DataError: no (T, N) integers, or lengths that differ by more than 3 * frames_ratio teacher
            frames: they are of other audio, or another frames_ratio is needed.
    """
    import torch

    rows = torch.as_tensor(codes)
    _check_ratio(frames_ratio)
    if rows.dim() != 2 or rows.is_floating_point():
        raise DataError(
            f"{key}: expected codes (num_frames, num_codebooks) of whole numbers, got "
            f"{tuple(rows.shape)} {rows.dtype}; make them with save_codebook.sh --save_codebook"
        )
    check_lengths(len(rows), num_frames, frames_ratio, codebook_offset, key)  # no codes, too
    lengths = torch.tensor([len(rows)]), torch.tensor([num_frames])
    return align_batch(rows[None], *lengths, num_frames, [key], frames_ratio, codebook_offset)[0]


def align_batch(
    codes: Tensor,
    num_codes: Tensor,
    num_frames: Tensor,
    max_frames: int,
    keys: Sequence[str],
    frames_ratio: int = 1,
    codebook_offset: int = 0,
) -> Tensor:
    """`align_codes` of a padded batch, where the student's lengths are known late.

    Args:
        codes: (B, T, N) integers; beyond num_codes any.
        num_codes: (B,) teacher frames of each utterance; 0: it has no codes.
        num_frames: (B,) student frames of each.
        max_frames: of the student's padded batch.
        keys: B, for errors.
        frames_ratio, codebook_offset: see `align_codes`.

    Returns:
        (B, max_frames, N * frames_ratio) int64 on the device of `codes`.

    Raises:
        ConfigError, DataError: see `align_codes`.
    """
    import torch

    _check_ratio(frames_ratio)
    for key, there, wanted in zip(keys, num_codes.tolist(), num_frames.tolist(), strict=True):
        if there:
            check_lengths(there, wanted, frames_ratio, codebook_offset, key)
    num_rows = max_frames * frames_ratio
    first = max(0, -codebook_offset)  # row of `aligned` that the first teacher frame kept goes to
    aligned = codes.new_full((len(codes), num_rows, codes.shape[2]), IGNORE_INDEX, dtype=torch.long)
    kept = codes[:, max(0, codebook_offset) :][:, : max(0, num_rows - first)]
    aligned[:, first : first + kept.shape[1]] = kept
    ends = torch.minimum(num_frames.cpu() * frames_ratio, num_codes.cpu() - codebook_offset)
    beyond = torch.arange(num_rows) >= ends[:, None]
    aligned.masked_fill_(beyond.to(codes.device).unsqueeze(-1), IGNORE_INDEX)
    return aligned.view(len(codes), max_frames, frames_ratio * codes.shape[2])


def check_lengths(
    num_teacher_frames: int, num_frames: int, frames_ratio: int, codebook_offset: int, key: str
) -> None:
    """Refuse codes that cannot be of the audio that the student hears.

    Raises:
        DataError: naming the key, both lengths and the likely causes.
    """
    usable, wanted = num_teacher_frames - codebook_offset, num_frames * frames_ratio
    if abs(usable - wanted) > TOLERANCE * frames_ratio:
        offset = f" after an offset of {codebook_offset}" if codebook_offset else ""
        raise DataError(
            f"{key}: {num_teacher_frames} teacher frames{offset}, but {num_frames} student frames "
            f"of {frames_ratio} each; {OTHER_AUDIO} (speed perturbation, another "
            "sample rate or segment), or --frames_ratio is another one"
        )


def _check_ratio(frames_ratio: int) -> None:
    if frames_ratio < 1:
        raise ConfigError(f"--frames_ratio {frames_ratio}: expected a whole number above 0")
