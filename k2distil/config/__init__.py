"""conf/*.yaml and flags -> one frozen dataclass per command. No torch here: --help is instant."""

from k2distil.config.commands import (
    AverageConfig,
    EvaluateConfig,
    ExportConfig,
    InspectConfig,
    MergeConfig,
    ReportConfig,
    SaveCodebookConfig,
    SaveEmbeddingConfig,
    TrainDistilConfig,
    TrainQuantizerConfig,
    VerifyConfig,
)
from k2distil.config.load import load_config
from k2distil.config.options import (
    AudioOptions,
    DataOptions,
    ListOptions,
    RunOptions,
    TeacherOptions,
)

__all__ = [
    "AudioOptions",
    "AverageConfig",
    "DataOptions",
    "EvaluateConfig",
    "ExportConfig",
    "InspectConfig",
    "ListOptions",
    "MergeConfig",
    "ReportConfig",
    "RunOptions",
    "SaveCodebookConfig",
    "SaveEmbeddingConfig",
    "TeacherOptions",
    "TrainDistilConfig",
    "TrainQuantizerConfig",
    "VerifyConfig",
    "load_config",
]
