"""Audio lists and audio: `read_list` -> utterances -> `decode_ahead` -> `batch_by_seconds`."""

from k2distil.data.audio import MAX_OVERSHOOT, audio_seconds, load_audio
from k2distil.data.batching import batch_by_seconds
from k2distil.data.decode import decode_ahead
from k2distil.data.manifest import ListAccess, read_list, sample_utterances
from k2distil.data.packed import PackedUtterances

__all__ = [
    "MAX_OVERSHOOT",
    "ListAccess",
    "PackedUtterances",
    "audio_seconds",
    "batch_by_seconds",
    "decode_ahead",
    "load_audio",
    "read_list",
    "sample_utterances",
]
