"""conf/*.yaml and flags -> one frozen dataclass per command. No torch here: --help is instant."""

from k2distil.config.fields import (
    AudioOptions,
    DataOptions,
    EvaluateConfig,
    ExportConfig,
    InspectConfig,
    ListOptions,
    MergeConfig,
    ReportConfig,
    SaveCodebookConfig,
    SaveEmbeddingConfig,
    TeacherOptions,
    TrainDistilConfig,
    TrainQuantizerConfig,
    VerifyConfig,
)
from k2distil.config.load import load_config

__all__ = [
    "AudioOptions",
    "DataOptions",
    "EvaluateConfig",
    "ExportConfig",
    "InspectConfig",
    "ListOptions",
    "MergeConfig",
    "ReportConfig",
    "SaveCodebookConfig",
    "SaveEmbeddingConfig",
    "TeacherOptions",
    "TrainDistilConfig",
    "TrainQuantizerConfig",
    "VerifyConfig",
    "load_config",
]
