"""Our options, as transformers' Trainer takes them."""

from k2distil.config import TrainDistilConfig, load_config
from k2distil.pipeline.student.arguments import training_arguments

OF_THE_SAME_NAME = {
    "learning_rate": 0.25,
    "warmup_steps": 3,
    "weight_decay": 0.125,
    "max_grad_norm": 2.5,
    "max_steps": 70,
    "eval_steps": 5,
    "save_steps": 7,
    "logging_steps": 2,
    "seed": 11,
}


def test_optimizer_and_schedule_are_as_asked(tmp_path):
    given = {"train_data": ("a.list",), "save_path": tmp_path / "s", "gpu": "cpu"}
    given |= {"cv_data": ("b.list",), "accumulate_batches": 3, **OF_THE_SAME_NAME}
    args = training_arguments(load_config(TrainDistilConfig, None, [], given), False)
    assert {name: getattr(args, name) for name in OF_THE_SAME_NAME} == OF_THE_SAME_NAME
    assert args.gradient_accumulation_steps == 3
    assert args.lr_scheduler_type == "cosine"
    assert (args.adam_beta1, args.adam_beta2) == (0.9, 0.98)
    assert args.eval_strategy == "steps"
    assert args.save_total_limit is None  # DistilTrainer removes old checkpoints itself
