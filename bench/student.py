"""The student of `students.py`: log-mel frames -> text by CTC, and a teacher's codes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TOKENS = {"letters": list(" efghinorstuvwxz"), "digits": DIGITS}  # 0 is CTC's blank, beside these
RATIO = 2  # teacher frames (20 ms) a student frame (40 ms)
NUM_BINS = 80


class Student(nn.Module):
    """Two convolutions of stride 2, then blocks of attention, convolution and feed-forward."""

    def __init__(self, tokens: str = "letters", dim: int = 96, num_blocks: int = 2) -> None:
        super().__init__()
        self.tokens, self.separator = TOKENS[tokens], " " if tokens == "digits" else ""
        self.dim = dim
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(size, dim, 3, stride=2, padding=1) for size in (NUM_BINS, dim)]
        )
        self.blocks = nn.ModuleList([Block(dim) for _ in range(num_blocks)])
        self.norm = nn.LayerNorm(dim)
        self.to_tokens = nn.Linear(dim, 1 + len(self.tokens))

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 80), (B,) -> (B, ceil(T / 4), dim), (B,); padding does not count."""
        x = features.transpose(1, 2)
        for convolution in self.convolutions:
            x, lengths = F.gelu(convolution(x)), (lengths + 1) // 2
            x = x * valid_frames(lengths, x.shape[2])[:, None]
        x, valid = x.transpose(1, 2), valid_frames(lengths, x.shape[2])
        for block in self.blocks:
            x = block(x, valid)
        return self.norm(x), lengths

    def log_probs(self, hidden: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, 1 + tokens)."""
        return self.to_tokens(hidden).log_softmax(-1)

    def encode_text(self, text: str) -> Tensor:
        """A text's tokens, as (L,) int64."""
        parts = text.split(self.separator) if self.separator else text
        return torch.tensor([1 + self.tokens.index(part) for part in parts])

    def decode(self, hidden: Tensor, lengths: Tensor) -> list[str]:
        """(B, T, dim), (B,) -> the greedy texts: repeats joined, blanks left out."""
        texts = []
        best = self.to_tokens(hidden).argmax(-1)
        for row, length in zip(best, lengths.tolist(), strict=True):
            found = [i for i in torch.unique_consecutive(row[:length]).tolist() if i]
            texts.append(self.separator.join(self.tokens[i - 1] for i in found))
        return texts


class Block(nn.Module):
    """A conformer block of half the usual parts."""

    def __init__(self, dim: int, num_heads: int = 4, kernel: int = 15, hidden: int = 144) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(4)])
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.gate = nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.pointwise = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, hidden), nn.SiLU(), nn.Dropout(0.1), nn.Linear(hidden, dim)
        )

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, T, dim), (B, T) bool -> (B, T, dim)."""
        y = F.glu(self.gate(self.norms[0](x))) * valid[..., None]
        y = self.depthwise(y.transpose(1, 2)).transpose(1, 2)
        x = x + self.pointwise(F.silu(self.norms[1](y)))
        y = self.norms[2](x)
        x = x + self.attention(y, y, y, key_padding_mask=~valid, need_weights=False)[0]
        return x + self.feed_forward(self.norms[3](x))


class CodebookHead(nn.Linear):
    """A softmax for each codebook."""

    def __init__(self, dim: int, num_codebooks: int, codebook_size: int) -> None:
        super().__init__(dim, num_codebooks * codebook_size)
        self.codebook_size = codebook_size

    def forward(self, hidden: Tensor, lengths: Tensor, codes: Tensor) -> Tensor:
        """Mean cross entropy of codes (B, T, N), -100 where there is none, given (B, T, dim)."""
        valid = valid_frames(lengths, hidden.shape[1])
        parts = (hidden[valid], self.weight, self.bias, codes[valid], self.codebook_size)
        return _CrossEntropy.apply(*parts)


class _CrossEntropy(torch.autograd.Function):
    """Linear layer and cross entropy of a few frames at a time, so that scores stay in the cache.

    Half the time of torch's two functions, and the same gradients, which `forward` computes.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, codes, size):
        gradients = [torch.zeros_like(each) for each in (hidden, weight, bias)]
        known, codes = codes >= 0, codes.clamp(min=0)
        total, count = hidden.new_zeros(()), known.sum()
        for part in torch.arange(len(hidden)).split(128):
            rows = slice(int(part[0]), int(part[-1]) + 1)
            x, code, counts = hidden[rows], codes[rows].view(-1, 1), known[rows].view(-1, 1)
            scores = torch.addmm(bias, x, weight.T).view(-1, size).softmax(-1)
            chosen = scores.gather(1, code)
            total -= (chosen.clamp(min=1e-30).log() * counts).sum()
            scores.scatter_(1, code, chosen - 1)
            if not counts.all():
                scores *= counts
            scores = scores.view(len(x), -1)
            gradients[0][rows] = scores @ weight
            gradients[1].addmm_(scores.T, x)
            gradients[2] += scores.sum(0)
        ctx.save_for_backward(*(each / count for each in gradients))
        return total / count

    @staticmethod
    def backward(ctx, gradient):
        return *(gradient * each for each in ctx.saved_tensors), None, None


def valid_frames(lengths: Tensor, size: int) -> Tensor:
    """(B,) -> (B, size) bool."""
    return torch.arange(size) < lengths[:, None]
