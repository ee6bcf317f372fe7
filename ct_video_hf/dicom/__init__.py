"""Scans on disk to :class:`CTVolume`; knows numpy and pydicom, nothing of learning."""

from .errors import CTReadError
from .limits import Limits
from .reader import find_series, read_ct
from .report import Finding, GeometryReport
from .series import SeriesInfo
from .volume import AIR_HU, CTVolume, VolumeMemory
from .write import write_series

__all__ = [
    "AIR_HU",
    "CTReadError",
    "CTVolume",
    "Finding",
    "GeometryReport",
    "Limits",
    "SeriesInfo",
    "VolumeMemory",
    "find_series",
    "read_ct",
    "write_series",
]
