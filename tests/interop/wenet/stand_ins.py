"""Models with the signatures of WeNet's main, so that nothing of WeNet is needed."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

DIM, FEATS, VOCAB = 8, 4, 6


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(DIM, DIM)

    def forward(self, xs: torch.Tensor, mask: torch.Tensor):
        return xs + self.linear(xs).relu(), mask, torch.zeros(0), torch.zeros(0)


class Encoder(nn.Module):
    """Subsamples by 4 as conv2d does: ((T - 1) // 2 - 1) // 2 frames."""

    def __init__(self, gradient_checkpointing: bool = False):
        super().__init__()
        self.embed = nn.Linear(FEATS, DIM)
        self.encoders = nn.ModuleList([Layer() for _ in range(3)])
        self.after_norm = nn.LayerNorm(DIM)
        self.gradient_checkpointing = gradient_checkpointing

    def output_size(self) -> int:
        return DIM

    def forward(self, xs: torch.Tensor, xs_lens: torch.Tensor):
        lengths = torch.div(
            torch.div(xs_lens - 1, 2, rounding_mode="floor") - 1, 2, rounding_mode="floor"
        )
        xs = self.embed(xs[:, 2::4][:, : int(lengths.max())])
        mask = (torch.arange(xs.size(1)).unsqueeze(0) < lengths.unsqueeze(1)).unsqueeze(1)
        if self.gradient_checkpointing:
            xs = self.layers_checkpointed(xs, mask)
        else:
            for layer in self.encoders:
                xs, _, _, _ = layer(xs, mask)
        return self.after_norm(xs), mask

    @torch.jit.unused
    def layers_checkpointed(self, xs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for layer in self.encoders:
            xs, _, _, _ = checkpoint(layer.__call__, xs, mask, use_reentrant=False)
        return xs


class ASRModel(nn.Module):
    def __init__(self, gradient_checkpointing: bool = False):
        super().__init__()
        self.encoder = Encoder(gradient_checkpointing)
        self.ctc = nn.Linear(DIM, VOCAB)

    @torch.jit.unused
    def forward(self, batch: dict, device: torch.device) -> dict[str, torch.Tensor | None]:
        speech, speech_lengths = batch["feats"].to(device), batch["feats_lengths"].to(device)
        encoder_out, encoder_mask = self.encoder(speech, speech_lengths)
        loss_ctc = nn.functional.ctc_loss(
            self.ctc(encoder_out).log_softmax(2).transpose(0, 1),
            *(batch["target"], encoder_mask.squeeze(1).sum(1), batch["target_lengths"]),
        )
        return {"loss": loss_ctc, "loss_att": None, "loss_ctc": loss_ctc, "th_accuracy": None}

    @torch.jit.export
    def ctc_activation(self, xs: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.ctc(xs), dim=2)


def padding(samples):
    """Sorted by length, longest first; keys that it does not know are dropped."""
    ordered = sorted(samples, key=lambda sample: -len(sample["feat"]))
    lengths = torch.tensor([len(sample["feat"]) for sample in ordered], dtype=torch.int32)
    return {
        "keys": [sample["key"] for sample in ordered],
        "feats": nn.utils.rnn.pad_sequence([sample["feat"] for sample in ordered], True),
        "feats_lengths": lengths,
        "target": torch.ones(len(ordered), 3, dtype=torch.long),
        "target_lengths": torch.full((len(ordered),), 3),
    }
