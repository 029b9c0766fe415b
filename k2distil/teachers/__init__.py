"""Frozen encoders that turn audio into frames: Whisper, HuBERT, wav2vec2, WavLM."""

from k2distil.teachers.base import Teacher
from k2distil.teachers.build import build_teacher

__all__ = ["Teacher", "build_teacher"]
