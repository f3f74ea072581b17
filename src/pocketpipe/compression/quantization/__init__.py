"""Uniform quantization of weights and activations, 2 to 8 bits: after training, and during it."""

from pocketpipe.compression.quantization.step import QuantizationStep

__all__ = ["QuantizationStep"]
