"""Frozen encoders that turn audio into frames: Whisper in four formats, HuBERT in two."""

from k2distil.teachers.base import Teacher
from k2distil.teachers.build import ENCODER_TYPES, build_teacher

__all__ = ["ENCODER_TYPES", "Teacher", "build_teacher"]
