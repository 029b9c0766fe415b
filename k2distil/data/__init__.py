"""Audio lists and audio: `read_list` -> utterances -> `decode_ahead` -> `batch_by_seconds`."""

from k2distil.data.audio import MAX_OVERSHOOT, audio_seconds, load_audio
from k2distil.data.batching import batch_by_seconds
from k2distil.data.decode import (
    as_it_is,
    decode_ahead,
    start_worker,
    unwrapped,
    worker_remedy,
)
from k2distil.data.manifest import ListAccess, read_list, sample_utterances
from k2distil.data.packed import PackedUtterances

__all__ = [
    "MAX_OVERSHOOT",
    "ListAccess",
    "PackedUtterances",
    "as_it_is",
    "audio_seconds",
    "batch_by_seconds",
    "decode_ahead",
    "load_audio",
    "read_list",
    "sample_utterances",
    "start_worker",
    "unwrapped",
    "worker_remedy",
]
