#!/usr/bin/env python3
"""Train the demo's teacher, a small Whisper encoder, on digits that espeak-ng speaks.

    python train_teacher.py exp/teacher         # trains, then prints the WER on unseen voices
    python train_teacher.py --evaluate          # only the WER, of the committed teacher/

The voices of the demo's dev and test lists are never trained on. Two losses: each frame's phoneme,
which espeak-ng tells, from the start (CTC alone takes long to find the alignment); CTC over the
digits after FRAME_STEPS. English, Mandarin and Cantonese share the ten labels.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import jiwer
import torch
import torch.nn.functional as F
from make_speech import DEV_VOICES, DIGITS, TEST_VOICES, Recipe, plan
from numpy.random import default_rng
from safetensors.torch import load_file, save_file
from spoken_digits import PAUSE, Spoken, collate, groups, seconds, speak_recipe, training_recipes
from torch import Tensor, nn

from k2distil.batch import AudioBatch
from k2distil.teachers import Teacher, build_teacher
from k2distil.teachers.hf_whisper import NAMES
from k2distil.teachers.log_mel import mel_filters
from k2distil.teachers.tensors import translate
from k2distil.teachers.whisper_encoder import WhisperDims, WhisperEncoder

COMMITTED = Path(__file__).parent / "teacher"
DIMS = WhisperDims(num_mels=80, dim=144, num_heads=4, num_layers=4, ffn_dim=576, num_positions=1500)
BLANK = 10  # CTC labels 0..9 are the digits
FRAME_STEPS = 400  # steps before CTC joins
FRAME_WEIGHT = 0.3  # of the frame loss, once CTC is there
PEAK_LR = 1e-3
WARMUP_STEPS = 100


def new_encoder() -> WhisperEncoder:
    """An encoder with convolutions loud enough for the positions, whose std is 0.7."""
    encoder = WhisperEncoder(DIMS)
    for name, parameter in encoder.named_parameters():
        if parameter.dim() == 3:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        elif parameter.dim() == 2:
            nn.init.xavier_uniform_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    with torch.no_grad():
        encoder.conv2.weight.mul_(2)
    encoder.positional_embedding.copy_(sinusoids(DIMS.num_positions, DIMS.dim))
    return encoder


def sinusoids(length: int, dim: int) -> Tensor:
    """Whisper's position table, sines then cosines, periods 2 pi to 20,000 pi: (length, dim)."""
    step = math.log(10000) / (dim // 2 - 1)
    angles = torch.arange(length)[:, None] * torch.exp(-step * torch.arange(dim // 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def learning_rate(step: int, num_steps: int) -> float:
    """Linear warm-up, then a cosine to 2 % of the peak."""
    if step < WARMUP_STEPS:
        return PEAK_LR * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, num_steps - WARMUP_STEPS)
    return PEAK_LR * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))


def train(
    spoken: list[Spoken], num_steps: int, batch_size: int, seed: int
) -> tuple[WhisperEncoder, nn.Linear]:
    """Train from scratch -> encoder, CTC head (dim -> 11)."""
    torch.manual_seed(seed)
    rng = default_rng(seed)
    names = sorted({name for item in spoken for name in item.phones} | {PAUSE})
    phone_ids = {name: index for index, name in enumerate(names)}
    filters = mel_filters(DIMS.num_mels)
    encoder, head = new_encoder(), nn.Linear(DIMS.dim, BLANK + 1)
    phone_head = nn.Linear(DIMS.dim, len(names))
    model = nn.ModuleList([encoder, head, phone_head])
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, betas=(0.9, 0.98))
    stream = groups(spoken, batch_size, seed)
    for step in range(num_steps):
        batch = collate(next(stream), phone_ids, filters, rng)
        hidden = encoder(batch.mel, batch.num_mel, DIMS.num_frames(batch.mel.shape[-1]))
        frame_loss = F.cross_entropy(phone_head(hidden).flatten(0, 1), batch.phones.flatten())
        ctc_loss = F.ctc_loss(
            head(hidden).log_softmax(-1).transpose(0, 1),
            batch.digits,
            torch.tensor([DIMS.num_frames(length) for length in batch.num_mel]),
            batch.num_digits,
            blank=BLANK,
        )
        loss = frame_loss if step < FRAME_STEPS else ctc_loss + FRAME_WEIGHT * frame_loss
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(
                f"step {step + 1}/{num_steps}: phonemes {frame_loss.item():.3f}, "
                f"CTC {ctc_loss.item():.3f}, {cpu_minutes():.1f} CPU minutes",
                flush=True,
            )
    return encoder, head


def save_teacher(encoder: WhisperEncoder, head: nn.Linear, folder: Path) -> None:
    """Write an ordinary Hugging Face Whisper folder, float16, and the head beside it."""
    config = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "d_model": DIMS.dim,
        "num_mel_bins": DIMS.num_mels,
        "encoder_layers": DIMS.num_layers,
        "encoder_attention_heads": DIMS.num_heads,
        "encoder_ffn_dim": DIMS.ffn_dim,
        "max_source_positions": DIMS.num_positions,
        "activation_function": "gelu",
        # transformers wants a decoder too: the least there can be; its tensors are not in the file
        "decoder_layers": 1,
        "decoder_attention_heads": DIMS.num_heads,
        "decoder_ffn_dim": DIMS.dim,
        "max_target_positions": 8,
        "vocab_size": 4,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    }
    extractor = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": DIMS.num_mels,
        "sampling_rate": 16000,
        "n_fft": 400,
        "hop_length": 160,
        "chunk_length": 30,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("config.json", config), ("preprocessor_config.json", extractor)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    tensors = {
        f"model.encoder.{translate(name, NAMES)}": tensor.half()
        for name, tensor in encoder.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    head_tensors = {name: tensor.half() for name, tensor in head.state_dict().items()}
    save_file(head_tensors, folder / "ctc_head.safetensors")


@dataclass(frozen=True)
class Recogniser:
    """A saved teacher, loaded as the pipeline loads it, and its CTC head."""

    teacher: Teacher
    head: nn.Linear

    @classmethod
    def load(cls, folder: Path) -> "Recogniser":
        """Raises CheckpointError where `folder` holds no teacher."""
        teacher = build_teacher("huggingface-whisper", str(folder))
        head = nn.Linear(teacher.dim, BLANK + 1)
        head.load_state_dict(load_file(folder / "ctc_head.safetensors"))
        return cls(teacher, head)

    @torch.inference_mode()
    def hear(self, samples: Tensor) -> list[int]:
        """(num_samples,) float32 -> digits by greedy CTC, the utterance alone and unpadded."""
        batch = AudioBatch(["utterance"], samples[None], torch.tensor([len(samples)]))
        labels = self.head(self.teacher.embed(batch).embedding[0]).argmax(-1)
        return [label for label in labels.unique_consecutive().tolist() if label != BLANK]


def word_error_rate(recogniser: Recogniser, recipes: list[Recipe]) -> float:
    """WER over freshly spoken recipes."""
    wanted, heard = [], []
    for item in map(speak_recipe, recipes):
        words = DIGITS[item.recipe.lang]
        digits = recogniser.hear(torch.from_numpy(item.samples))
        wanted.append(" ".join(words[digit] for digit in item.recipe.digits))
        heard.append(" ".join(words[digit] for digit in digits))
    return jiwer.wer(wanted, heard)


def evaluate(recogniser: Recogniser, num_utterances: int) -> None:
    """Print the WER on the voices that no training has heard."""
    for lang in DIGITS:
        for split, voices in (("dev", DEV_VOICES), ("test", TEST_VOICES)):
            wer = word_error_rate(recogniser, plan(lang, voices, num_utterances, 0))
            print(f"{lang} {split}: WER {100 * wer:.2f} %, {num_utterances} utterances", flush=True)


def cpu_minutes() -> float:
    """User and system time of this process so far."""
    return time.process_time() / 60


def main(argv: list[str] | None = None) -> None:
    """Parse the command line; train or evaluate."""
    parser = argparse.ArgumentParser(
        description="Train the demo's teacher on espeak-ng's digits, or evaluate one on voices "
        "it has never heard.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("folder", type=Path, nargs="?", default=COMMITTED, help="the teacher")
    parser.add_argument("--evaluate", action="store_true", help="do not train, print the WER")
    parser.add_argument("--num_utterances", type=int, default=9000, help="to train on")
    parser.add_argument("--num_steps", type=int, default=4000, help="training steps")
    parser.add_argument("--batch_size", type=int, default=8, help="utterances per step")
    parser.add_argument("--num_eval", type=int, default=200, help="utterances per WER")
    parser.add_argument("--seed", type=int, default=0, help="of speech, weights and order")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # so that CPU minutes are minutes of one core
    if not args.evaluate:
        if (args.folder / "config.json").exists():
            parser.error(f"{args.folder} holds a teacher: name another folder or remove it")
        spoken = [speak_recipe(r) for r in training_recipes(args.num_utterances, args.seed)]
        print(
            f"{len(spoken)} utterances, {seconds(spoken) / 3600:.1f} h, "
            f"spoken in {cpu_minutes():.1f} CPU minutes",
            flush=True,
        )
        encoder, head = train(spoken, args.num_steps, args.batch_size, args.seed)
        save_teacher(encoder, head, args.folder)
        print(f"trained in {cpu_minutes():.1f} CPU minutes: {args.folder}")
    evaluate(Recogniser.load(args.folder), args.num_eval)


if __name__ == "__main__":
    main()
