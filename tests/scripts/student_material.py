"""What train_distil.sh needs, made for its tests: audio, text, codes, a tiny student."""

import json
import re
from pathlib import Path

import h5py
import numpy as np

from tests.scripts.conftest import (
    Corpus,
    speech,
)

WORDS = ["one", "two", "three"]
YAML = """\
student:
  model_type: parakeet_ctc
  encoder_config:
    hidden_size: 32
    num_hidden_layers: 2
    num_attention_heads: 2
    intermediate_size: 48
    subsampling_factor: 4
    subsampling_conv_channels: 8
    {dropout}
max_steps: 12
warmup_steps: 2
batch_seconds: 6
eval_steps: 6
save_steps: 4
logging_steps: 1
num_workers: 0
gpu: cpu
"""
NO_DROPOUT = "dropout: 0.0\n    attention_dropout: 0.0\n    activation_dropout: 0.0"
WAV2VEC2 = """\
student:
  model_type: wav2vec2
  hidden_size: 32
  num_hidden_layers: 2
  num_attention_heads: 2
  intermediate_size: 48
  conv_dim: [16, 16, 16, 16, 16, 16, 16]
  num_conv_pos_embeddings: 16
  num_conv_pos_embedding_groups: 4
  mask_time_prob: 0.0
  hidden_dropout: 0.0
  attention_dropout: 0.0
  activation_dropout: 0.0
  feat_proj_dropout: 0.0
  final_dropout: 0.0
"""


def text_of(index: int) -> str:
    return " ".join(WORDS[(index + n) % 3] for n in range(1 + index % 3))


def make_material(tmp_path: Path) -> Corpus:
    """20 utterances of 0.9 to 1.9 s, the last 8 without text, and codes of all at 50 a second."""
    folder = tmp_path / "data"
    folder.mkdir()
    corpus = Corpus(folder)
    generator = np.random.default_rng(0)
    with h5py.File(tmp_path / "codes.h5", "w") as file:
        file.attrs.update(num_codebooks=2, codebook_size=16, frame_shift=0.02, kind="codes")
        file.attrs["format_version"] = 1
        for index in range(20):
            seconds = 0.9 + 0.05 * index
            corpus.add(f"utt{index:02}", speech(seconds, seed=index))
            entry = json.loads(corpus.lines[-1])
            entry["txt"] = text_of(index)
            if index >= 12:
                del entry["txt"]
            corpus.lines[-1] = json.dumps(entry)
            file[f"utt{index:02}"] = generator.integers(0, 16, (round(seconds * 50), 2), np.uint8)
    (tmp_path / "cv.list").write_text(
        "".join(
            json.dumps({"key": f"utt{i:02}", "wav": f"data/utt{i:02}.wav", "txt": text_of(i)})
            + "\n"
            for i in range(4)
        )
    )
    (tmp_path / "conf.yaml").write_text(YAML.format(dropout="dropout: 0.1"))
    return corpus


def flags(corpus: Corpus, *more: object) -> list[object]:
    parent = corpus.folder.parent
    return [
        *("--config", parent / "conf.yaml", "--train_data", corpus.path),
        *("--codebook_path", parent / "codes.h5", "--cv_data", parent / "cv.list"),
        *("--save_path", parent / "student", *more),
    ]


def losses(log: str) -> list[tuple[float, float]]:
    """(ctc, codebook) of each step."""
    found = re.findall(r"ctc_loss (\S+), codebook_loss ([^,\s]+)", log)
    return [(float(ctc), float(codebook)) for ctc, codebook in found]
