"""Bounds on what visitors of the demo may ask of the machine."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DemoLimits"]

_MIB, _GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class DemoLimits:
    """Bounds, above any usual chest CT (1,500 slices of 512 x 512 pass).

    Attributes
    ----------
    upload_bytes : int
        All files of one upload together.
    files : int
        Files of one upload, or members of a zip archive.
    expanded_bytes : int
        What a zip archive may expand to.
    voxels : int
        Of one volume.
    scans : int
        Scans of one batch.
    read_seconds, score_seconds : float
        For one scan.
    read_memory_bytes : int
        Address space of the process that reads a scan.
    arriving_bytes : int
        All uploads that have not been read yet.
    arrived_seconds : float
        How long an upload may wait to be read; it goes earlier when its page is closed.
    waiting : int
        Visitors who may wait; who comes after them is told to come back later.
    keep_seconds : float
        How long a scan stays to be looked at when its page is not closed.
    keep_bytes : int
        All volumes that are kept; the oldest go first.
    """

    upload_bytes: int = 1 * _GIB
    files: int = 4000
    expanded_bytes: int = 4 * _GIB
    voxels: int = 1500 * 512 * 512
    scans: int = 20
    read_seconds: float = 180.0
    score_seconds: float = 600.0
    read_memory_bytes: int = 8 * _GIB
    arriving_bytes: int = 8 * _GIB
    arrived_seconds: float = 1800.0
    waiting: int = 20
    keep_seconds: float = 3600.0
    keep_bytes: int = 8 * _GIB

    def words(self) -> str:
        """The limits that a visitor should know, as one sentence."""
        return (
            f"At most {self.upload_bytes // _MIB:,} MB and {self.files:,} files an upload, "
            f"{self.voxels // (512 * 512):,} slices of 512 x 512, "
            f"{self.read_seconds / 60:g} minutes to read and {self.score_seconds / 60:g} to score."
        )
