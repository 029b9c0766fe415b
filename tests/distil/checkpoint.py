"""A checkpoint as the Trainer writes it, of next to nothing."""

import json

import torch
from safetensors.torch import save_file

from k2distil.distil.trainer import STATE_FILE


def write_checkpoint(folder, step):
    """Files of the kinds that the Trainer writes."""
    new = folder / f"checkpoint-{step}"
    new.mkdir()
    save_file({"a": torch.ones(3)}, new / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch.save({"step": step}, new / name)
    (new / STATE_FILE).write_text(json.dumps({"global_step": step}))
    return new
