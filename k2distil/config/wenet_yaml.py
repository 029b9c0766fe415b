"""What a WeNet train.yaml says that matters to a teacher's audio."""

from dataclasses import dataclass
from typing import Any

from k2distil.errors import ConfigError

TEACHERS_KEYS = (  # that a train.yaml need not have, in sections of dataset_conf
    *("pad_or_trim", "padding", "max_duration", "n_fft", "hop_length", "num_mel_bins"),
    *("min_length", "max_length", "resample_rate"),
)
FRAME = 0.01  # seconds; filter_conf counts in 10 ms frames


def is_wenet_yaml(tree: dict[str, Any]) -> bool:
    """True for WeNet's train.yaml: it has sections that none of our yaml files has."""
    return any(isinstance(tree.get(key), dict) for key in ("encoder_conf", "dataset_conf"))


@dataclass(frozen=True)
class DurationLimits:
    """Utterances outside are dropped. Seconds."""

    shortest: float = 0.0
    longest: float = float("inf")

    def reason(self, seconds: float) -> str | None:
        """Why an utterance of so many seconds is dropped; None: it is kept."""
        if self.shortest <= seconds <= self.longest:
            return None
        return (
            f"{seconds:.2f} s is outside filter_conf's {self.shortest:g} to {self.longest:g} s"
            " of the WeNet yaml"
        )


def duration_limits(tree: dict[str, Any] | None) -> DurationLimits:
    """WeNet's filter_conf; its token limits concern its own tokenizer and are not applied.

    Raises:
        ConfigError: it is not what WeNet would take.
    """
    try:
        filter_conf = ((tree or {}).get("dataset_conf") or {}).get("filter_conf")
        if not filter_conf:
            return DurationLimits()
        return DurationLimits(
            shortest=filter_conf.get("min_length", 10) * FRAME,
            longest=filter_conf.get("max_length", 10240) * FRAME,
        )
    except (AttributeError, TypeError):
        raise ConfigError(
            "dataset_conf.filter_conf of the WeNet yaml: expected min_length and max_length in "
            "10 ms frames; correct them or remove filter_conf"
        ) from None
