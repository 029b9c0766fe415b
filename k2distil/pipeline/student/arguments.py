"""Our options -> transformers' TrainingArguments: device, precision, optimizer, schedule."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import torch

from k2distil.config import TrainDistilConfig
from k2distil.device import use_device
from k2distil.errors import ConfigError
from k2distil.torchaudio_guard import hide_broken_torchaudio

if TYPE_CHECKING:
    from transformers import TrainingArguments

logger = logging.getLogger(__name__)

BETAS = (0.9, 0.98)  # of AdamW, as FastConformer is trained
DAY = 86_400  # seconds


def training_arguments(
    config: TrainDistilConfig, find_unused_parameters: bool
) -> TrainingArguments:
    """Build them; a process that torchrun started joins the others here.

    Raises:
        ConfigError: a device this machine lacks, or a dtype the device lacks.
    """
    hide_broken_torchaudio()
    from transformers import TrainingArguments

    device = use_device(config.gpu)
    on_cpu = device.type == "cpu"
    bf16, fp16 = _precision(config.dtype, on_cpu)
    args = TrainingArguments(
        output_dir=str(config.save_path),
        max_steps=config.max_steps,
        gradient_accumulation_steps=config.accumulate_batches,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch",
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        bf16=bf16,
        fp16=fp16,
        use_cpu=on_cpu,
        seed=config.seed,
        eval_strategy="no" if config.cv_data is None else "steps",
        eval_steps=config.eval_steps,
        save_strategy="steps",
        save_steps=config.save_steps,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        report_to=["tensorboard"],
        disable_tqdm=not sys.stderr.isatty(),
        remove_unused_columns=False,
        ddp_find_unused_parameters=find_unused_parameters,
        ddp_timeout=DAY,  # the first process looks at all utterances while the others wait
        average_tokens_across_devices=False,  # get_batch_samples counts for all processes
    )
    if args.world_size == 1 and not on_cpu:
        # It has made the first GPU the current one, and would use all there are.
        torch.cuda.set_device(device)
        args._setup_devices, args._n_gpu = device, 1
    return args


def dtype_of(args: TrainingArguments) -> str:
    """What --dtype comes to on this device."""
    return "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"


def _precision(dtype: str, on_cpu: bool) -> tuple[bool, bool]:
    """--dtype -> (bf16, fp16)."""
    has_bf16 = on_cpu or torch.cuda.is_bf16_supported(including_emulation=False)
    if dtype == "bfloat16" and not has_bf16:
        raise ConfigError("--dtype bfloat16: this device lacks it; use auto, float16 or float32")
    if dtype == "float16" and on_cpu:
        raise ConfigError("--dtype float16: needs a GPU; use auto, bfloat16 or float32")
    if dtype == "auto":
        dtype = "float32" if on_cpu else "bfloat16" if has_bf16 else "float16"
    return dtype == "bfloat16", dtype == "float16"
