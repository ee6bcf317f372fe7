"""Scans on disk to :class:`CTVolume`; knows numpy and pydicom, nothing of learning."""

from .errors import CTReadError
from .report import Finding, GeometryReport
from .volume import CTVolume

__all__ = ["CTReadError", "CTVolume", "Finding", "GeometryReport"]
