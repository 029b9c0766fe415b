"""conf/*.yaml and flags -> one frozen dataclass per command. No torch here: --help is instant."""

from k2distil.config.fields import (
    AudioOptions,
    EvaluateConfig,
    ExportConfig,
    ListOptions,
    SaveCodebookConfig,
    SaveEmbeddingConfig,
    TeacherOptions,
    TrainDistilConfig,
    TrainQuantizerConfig,
)
from k2distil.config.load import load_config

__all__ = [
    "AudioOptions",
    "EvaluateConfig",
    "ExportConfig",
    "ListOptions",
    "SaveCodebookConfig",
    "SaveEmbeddingConfig",
    "TeacherOptions",
    "TrainDistilConfig",
    "TrainQuantizerConfig",
    "load_config",
]
