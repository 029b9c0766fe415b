"""The codebook loss in a WeNet model.

Written for the ASRModel of WeNet's main (wenet/models/transformer/asr_model.py): its
`forward(batch, device)` calls `self.encoder(speech, speech_lengths)` -> (frames, mask) once and
returns a dict with `loss`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from k2distil.distil import CodebookLoss, align_batch
from k2distil.errors import CheckpointError, ConfigError, DataError
from k2distil.interop.wenet.options import CodebookOptions, read_options

HEAD = "codebook_loss"  # the attribute, and so the first part of its keys in a state dict


class WithCodebookLoss(nn.Module):
    """What `with_codebook_loss` adds to the class of a model.

    Attributes, not annotated for TorchScript's sake: `codebook_loss`, `codebook_options`, and
    `codebook_weight`, which a training loop may change from step to step.
    """

    @torch.jit.unused
    def forward(self, batch: dict, device: torch.device) -> dict[str, Tensor | None]:
        """WeNet's forward, with codebook_weight * loss_codebook added to its `loss`.

        The frames are taken from the same forward pass. A batch without `codes` is left as it is
        in evaluation.

        Args:
            batch: WeNet's, with `codes` and `codes_lengths` of `add_padded_codes`.
            device: of the model.

        Raises:
            DataError: a training batch without codes, or codes of other audio.
        """
        if "codes" not in batch:
            if self.training:
                raise DataError(
                    f"{', '.join(batch['keys'][:3])}, ...: a training batch without codes; map "
                    "AddCodes over the dataset and pad with add_padded_codes"
                )
            return super().forward(batch, device)
        options, taken = cast(CodebookOptions, self.codebook_options), {}
        if batch["codes"].shape[2] != options.num_codebooks:
            raise DataError(
                f"{batch['keys'][0]}: codes of {batch['codes'].shape[2]} codebooks, but "
                f"num_codebooks is {options.num_codebooks}; correct the yaml"
            )

        def take(module: nn.Module, args: Any, output: Any) -> None:
            taken[module] = output

        encoder: Any = self.encoder
        layer = (
            encoder if options.student_layer == -1 else encoder.encoders[options.student_layer - 1]
        )
        # For this pass only: TorchScript would try to compile a hook that stays, and gradient
        # checkpointing calls it again in the backward pass.
        handles = [module.register_forward_hook(take) for module in {encoder, layer}]
        try:
            result = super().forward(batch, device)
        finally:
            for handle in handles:
                handle.remove()
        frames, mask = taken[layer][0], taken[encoder][1]
        codes = align_batch(
            batch["codes"],
            batch["codes_lengths"],
            mask.squeeze(1).sum(1).cpu(),
            frames.shape[1],
            batch["keys"],
            options.frames_ratio,
            options.codebook_offset,
        )
        loss = cast(CodebookLoss, self.codebook_loss)(frames, codes.to(frames.device))
        result["loss_codebook"] = loss
        result["loss"] = result["loss"] + self.codebook_weight * loss
        return result


def with_codebook_loss(
    model: nn.Module,
    configs: Mapping[str, Any],
    checkpoint: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """Add the codebook loss to a model of WeNet, in place, before the optimizer is made.

    The model's class becomes a subclass of its own and of `WithCodebookLoss`, as PyTorch's
    fully_shard does it; so the names in its state dict stay, and only `codebook_loss.*` are new.

    Args:
        model: an ASRModel, or what has its forward and its encoder.
        configs: WeNet's; see `CodebookOptions` for the keys.
        checkpoint: that a training goes on from; WeNet has loaded the model from it before, and
            here the head is, where the checkpoint has one.

    Returns:
        The same model.

    Raises:
        ConfigError: see `read_options`; or the encoder has no such student_layer.
        CheckpointError: the checkpoint has a head of another size.
    """
    options = read_options(configs)
    encoder: Any = model.encoder
    num_layers = len(encoder.encoders)
    if options.student_layer != -1 and not 1 <= options.student_layer <= num_layers:
        raise ConfigError(
            f"student_layer: {options.student_layer}, but the encoder has {num_layers} layers; "
            f"give 1 to {num_layers}, or -1 for the last with the final norm"
        )
    head = CodebookLoss(
        encoder.output_size(),
        options.num_codebooks,
        options.codebook_size,
        options.frames_ratio,
        options.codebook_head,
    )
    if checkpoint is not None:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        own = {name.removeprefix(f"{HEAD}."): each for name, each in state.items() if _is_own(name)}
        try:
            head.load_state_dict(own or head.state_dict())
        except RuntimeError as error:
            raise CheckpointError(
                f"{checkpoint}: its codebook loss is of another size ({error}); give the options "
                "it was trained with, or another checkpoint"
            ) from error
    kind, extended = type(model), cast(Any, model)
    model.__class__ = type(f"{kind.__name__}WithCodebookLoss", (WithCodebookLoss, kind), {})
    extended.codebook_options = options
    extended.codebook_weight = options.codebook_weight
    extended.codebook_loss = head.to(next(model.parameters()).device)
    return model


def without_codebook_loss(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the model alone, which a plain ASRModel loads strictly."""
    return {name: tensor for name, tensor in state.items() if not _is_own(name)}


def _is_own(name: str) -> bool:
    return name.startswith(f"{HEAD}.")
