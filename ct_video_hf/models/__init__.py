"""Backbones, their heads and the processor, in the form that transformers knows."""

from .processing_ct import PROCESSOR_PRESETS, CTVideoProcessor

__all__ = ["PROCESSOR_PRESETS", "CTVideoProcessor"]
