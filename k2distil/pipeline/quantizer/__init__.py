"""A quantizer's training."""
