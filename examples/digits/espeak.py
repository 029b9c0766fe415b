"""Speech from espeak-ng's shared library, which PyPI's ``espeakng-loader`` brings along.

espeak-ng keeps its state in C globals (flutter, echo, noise), so what it says depends on what it
said before. `speak` loads the library anew for each utterance: the result is a function of its
arguments alone. One process must not speak from two threads.

API: espeak-ng 1.52, src/include/espeak-ng/speak_lib.h.
"""

import _ctypes
import ctypes
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import soxr

SAMPLE_RATE = 16000  # Hz, of what `speak` returns

# speak_lib.h
_SYNCHRONOUS, _PHONEME_EVENTS, _DONT_EXIT = 2, 0x0001, 0x8000
_CHARS_UTF8 = 1
_RATE, _PITCH, _RANGE, _WORDGAP = 1, 3, 4, 7  # espeak_PARAMETER
_EVENT_END, _EVENT_PHONEME = 0, 7  # espeak_EVENT_TYPE


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("phoneme", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True)
class Speech:
    """What was said."""

    samples: np.ndarray  # (num_samples,) float32 in [-1, 1], SAMPLE_RATE
    phones: list[tuple[float, str]]  # (start in s, espeak's phoneme name), "_..." is a pause


def _loader() -> ModuleType:
    try:
        import espeakng_loader
    except ImportError as error:
        raise SystemExit(
            'error: espeakng_loader is not installed: pip install "k2distil[demo]"'
        ) from error
    return espeakng_loader


def variants() -> list[str]:
    """Names of the voices espeak-ng can put on any language, sorted."""
    folder = Path(_loader().get_data_path()) / "voices" / "!v"
    return sorted(path.name for path in folder.iterdir())


def speak(
    text: str, voice: str, *, rate: int, pitch: int, pitch_range: int, word_gap: int
) -> Speech:
    """Say `text` as `voice` ("en-us+f2" is language + variant).

    rate: words per minute, 80 to 450. pitch, pitch_range: 0 to 99. word_gap: pause between words
    in 10 ms. Raises ValueError for a voice that espeak-ng does not have.
    """
    loader = _loader()
    if voice.partition("+")[2] not in variants():  # which espeak-ng would replace silently
        raise ValueError(f"espeak-ng has no voice {voice!r}")
    library = ctypes.CDLL(loader.get_library_path())
    pieces: list[np.ndarray] = []
    phones: list[tuple[float, str]] = []

    def receive(samples: Any, num_samples: int, events: Any) -> int:  # called from C
        if samples and num_samples:
            pieces.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        index = 0
        while (event := events[index]).type != _EVENT_END:
            if event.type == _EVENT_PHONEME:
                phones.append((event.sample / native_rate, event.phoneme.decode("utf-8")))
            index += 1
        return 0

    try:
        ctypes.CDLL(None).srand(1)  # its noise comes from the C library's rand()
        native_rate = library.espeak_Initialize(
            _SYNCHRONOUS, 0, loader.get_data_path().encode(), _PHONEME_EVENTS | _DONT_EXIT
        )
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # breath; by default the time of day
        callback = _Callback(receive)
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in (
            (_RATE, rate),
            (_PITCH, pitch),
            (_RANGE, pitch_range),
            (_WORDGAP, word_gap),
        ):
            library.espeak_SetParameter(parameter, value, 0)
        data = text.encode() + b"\0"
        library.espeak_Synth(data, len(data), 0, 1, 0, _CHARS_UTF8, None, None)
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)
    samples = np.concatenate(pieces).astype(np.float32) / 32768
    return Speech(np.clip(soxr.resample(samples, native_rate, SAMPLE_RATE), -1, 1), phones)
