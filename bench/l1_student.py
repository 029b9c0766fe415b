"""train_distil.sh with L1 to the teacher's stored frames in the place of codes: a peer of them.

    python bench/l1_student.py --embedding EMBEDDING.h5 --codebook_path FRAMES.h5 ...

`--codebook_path` has each frame's row among all frames (`digit_codes.py`), so that audio, batches
and alignment are those of codes; the rest are flags of train_distil.sh, without --cv_data.
"""

import sys

import torch
from torch import Tensor, nn

from k2distil.bin.main import main
from k2distil.distil.codebook_head import CodebookHead
from k2distil.pipeline import train_distil
from k2distil.storage import EmbeddingReader


class FrameLoss(nn.Module):
    """Mean absolute error of frames predicted by a linear layer, each dimension of deviation 1."""

    def __init__(self, student_dim: int, frames: Tensor, frames_ratio: int) -> None:
        super().__init__()
        self.register_buffer("frames", (frames - frames.mean(0)) / frames.std(0), persistent=False)
        self.linear = nn.Linear(student_dim, frames_ratio * frames.shape[1])
        self.ratio = frames_ratio

    def forward(self, student: Tensor, rows: Tensor, num_targets: Tensor) -> Tensor:
        """(B, T, D), (B, T, ratio) with -100 where there is none -> () mean over values."""
        predicted = self.linear(student).unflatten(-1, (self.ratio, -1))
        wanted = self.frames[rows.long().clamp(min=0)]
        errors = (predicted - wanted).abs().mean(-1)
        return errors[rows >= 0].sum() / num_targets.clamp(min=1)


if __name__ == "__main__":
    place = sys.argv.index("--embedding")
    path = sys.argv[place + 1]
    del sys.argv[place : place + 2]
    reader = EmbeddingReader(path)
    table = torch.cat([torch.from_numpy(reader[key]).float() for key in reader])
    assert hasattr(train_distil, "_codebook_head")
    train_distil._codebook_head = lambda job, checkpoint: CodebookHead(
        FrameLoss(job.student.dim, table, job.codes.frames_ratio), {}
    )
    sys.exit(main(["train_distil", *sys.argv[1:]]))
