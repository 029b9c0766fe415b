"""Word and character error rates, and how well codes are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from unicodedata import east_asian_width, normalize

import torch
from torch import Tensor

from k2distil.distil.vocabulary import without_chinese_spaces
from k2distil.errors import DataError


@dataclass(frozen=True)
class Transcript:
    """One utterance: what was said, and what the student wrote."""

    key: str
    reference: str
    hypothesis: str


def error_rates(transcripts: Sequence[Transcript]) -> dict[str, float]:
    """wer and cer, by jiwer: errors per word or character of the references, 0.1 is 10 %.

    A space counts as a character of cer, but not beside a Chinese or Japanese one. Letters and
    their accents count the same composed and apart.

    Raises:
        DataError: nothing was transcribed.
    """
    import jiwer

    if not transcripts:
        raise DataError("no audio of the test list could be decoded; see the warnings above")
    references, hypotheses = zip(*map(_comparable, transcripts), strict=True)
    written, heard = (list(map(without_chinese_spaces, each)) for each in (references, hypotheses))
    return {
        "wer": float(jiwer.wer(list(references), list(hypotheses))),
        "cer": float(jiwer.cer(written, heard)),
    }


def has_words(texts: Sequence[str]) -> bool:
    """Whether spaces part words: in most of the texts, with more such words than CJK characters.

    >>> has_words(["play 周杰伦 的 歌"]), has_words(["we met in 北京 on monday"])
    (False, True)
    """
    wide = sum(_is_wide(each) for text in texts for each in text)
    words = sum(not any(map(_is_wide, word)) for text in texts for word in text.split())
    spaces = sum(" " in text for text in texts)
    return 2 * spaces > len(texts) and wide < words


def worst(transcripts: Sequence[Transcript], num: int) -> str:
    """jiwer's alignments of those with the most errors, of words or, without spaces, characters."""
    import jiwer

    by_word = has_words([each.reference for each in transcripts])
    process = jiwer.process_words if by_word else jiwer.process_characters
    shape = (lambda text: text) if by_word else without_chinese_spaces
    scored = [(process(*map(shape, _comparable(each))), each) for each in transcripts]
    scored.sort(key=lambda pair: -(pair[0].substitutions + pair[0].deletions + pair[0].insertions))
    shown = []
    for output, each in scored[:num]:
        text = jiwer.visualize_alignment(output, show_measures=False, skip_correct=False)
        rows = text.strip().splitlines()[1:]
        rows = rows if rows[0] else rows[1:]  # jiwer 4 has a blank line there, 3.1 has none
        shown.append("\n".join([each.key, *(rows if by_word else _aligned(rows))]))
    return "\n\n".join(shown)


def _comparable(transcript: Transcript) -> tuple[str, str]:
    """Reference and hypothesis; letters and their accents in one character."""
    return normalize("NFC", transcript.reference), normalize("NFC", transcript.hypothesis)


def _is_wide(character: str) -> bool:
    """Whether it takes two columns of a terminal."""
    return east_asian_width(character) in "WF"


def _aligned(rows: Sequence[str]) -> list[str]:
    """What is above and below a wide character becomes as wide by a space after it."""
    columns = []
    for column in zip_longest(*rows, fillvalue=" "):
        space = " " * any(map(_is_wide, column))
        columns.append([each if _is_wide(each) else each + space for each in column])
    return ["".join(row).rstrip() for row in zip(*columns, strict=True)]


class CodeScores:
    """Running sums over batches: how well each code was predicted, and how often it comes.

    Args:
        num_predicted: N * ratio codes of a student frame.
        codebook_size: K.
        num_codebooks: N; the ratio's parts of a codebook count together.
    """

    def __init__(self, num_predicted: int, codebook_size: int, num_codebooks: int) -> None:
        self.num_codebooks, self.size = num_codebooks, codebook_size
        self.ratio = num_predicted // num_codebooks
        self.sums = torch.zeros(3, num_codebooks, dtype=torch.float64)  # nats, right, codes
        self.counts = torch.zeros(num_codebooks, codebook_size, dtype=torch.float64)

    def add(self, logits: Tensor, codes: Tensor) -> None:
        """(R, N * ratio, K), (R, N * ratio) with -100 where there is none."""
        logits = logits.float().unflatten(1, (self.ratio, self.num_codebooks)).flatten(0, 1)
        codes = codes.long().unflatten(1, (self.ratio, self.num_codebooks)).flatten(0, 1)
        valid = codes >= 0
        target = codes.clamp(min=0)
        nats = -logits.log_softmax(-1).gather(-1, target[..., None])[..., 0]
        right = logits.argmax(-1) == target
        parts = [(nats * valid).sum(0), (right & valid).sum(0), valid.sum(0)]
        self.sums += torch.stack([part.double().cpu() for part in parts])
        for number in range(self.num_codebooks):
            chosen = target[valid[:, number], number].cpu()
            self.counts[number] += torch.bincount(chosen, minlength=self.size)

    def add_scores(self, other: CodeScores | None) -> None:
        """Take the sums of another process."""
        if other is not None:
            self.sums += other.sums
            self.counts += other.counts

    def figures(self) -> dict[str, float]:
        """Cross entropy and accuracy, over all codebooks and for each, beside the codes' entropy.

        The entropy is what a student would score that knew how often each code comes and no more;
        from few codes it would seem less, which Miller and Madow's term makes up for.
        """
        nats, right, number = self.sums
        if not number.sum():
            return {}
        share = self.counts / number.clamp(min=1)[:, None]
        missed = ((share > 0).sum(1) - 1).clamp(min=0) / (2 * number.clamp(min=1))
        entropy = -torch.xlogy(share, share).sum(1) + missed
        figures = {
            "codebook_cross_entropy": float(nats.sum() / number.sum()),
            "codebook_accuracy": float(right.sum() / number.sum()),
            "codebook_entropy": float(entropy.mean()),
        }
        for each in range(self.num_codebooks):
            figures[f"codebook_{each}_cross_entropy"] = float(nats[each] / number[each])
            figures[f"codebook_{each}_accuracy"] = float(right[each] / number[each])
        return figures
