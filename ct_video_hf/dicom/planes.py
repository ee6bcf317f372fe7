"""From a stack of frames to an array: the byte side's planes on the patient's axes.

The fast path hands the whole output to :func:`ct_video_hf.dicom.pixels.read_planes`. Where planes
have to be moved or swapped, they pass in chunks through a small buffer, so that the volume of full
size is never there twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..progress import Progress, counter
from .errors import CTReadError
from .frame import Frame
from .geometry import Stack
from .pixels import PixelNote, PixelSummary, read_plane, read_planes
from .repair import Grid, blend_slices, move_plane
from .resample import fit_in_plane
from .volume import VolumeMemory

__all__ = ["Pixels", "StackReader", "fitted_affine", "same_pixels", "unfitted_affine"]

#: Planes in the buffer when planes cannot be read straight into the output.
CHUNK = 16


@dataclass
class Pixels:
    """A read volume and what was seen on the way (before any in-plane fit)."""

    hu: np.ndarray
    hu_min: int
    hu_max: int
    summary: PixelSummary


def same_pixels(one: Frame, other: Frame) -> bool:
    """Whether two frames hold the same HU everywhere."""
    if (one.rows, one.columns) != (other.rows, other.columns):
        return False
    return bool(np.array_equal(read_plane(one), read_plane(other)))


def fitted_affine(affine: np.ndarray, rows: int, columns: int, size: int) -> np.ndarray:
    """The affine of planes after ``fit_in_plane(planes, size)``.

    The plane is padded to a square, centred, and a new pixel covers ``side / size`` old ones, so
    the centre of the first moves by half the difference of their widths.
    """
    side = max(rows, columns)
    scale = side / size
    result = affine.copy()
    for axis, length in ((1, rows), (2, columns)):
        before = (side - length) // 2
        result[:3, 3] += affine[:3, axis] * ((scale - 1) / 2 - before)
        result[:3, axis] = affine[:3, axis] * scale
    return result


def unfitted_affine(affine: np.ndarray, rows: int, columns: int, size: int) -> np.ndarray:
    """What :func:`fitted_affine` was given, from what it gave."""
    side = max(rows, columns)
    scale = side / size
    result = affine.copy()
    for axis, length in ((1, rows), (2, columns)):
        before = (side - length) // 2
        result[:3, axis] = affine[:3, axis] / scale
        result[:3, 3] -= result[:3, axis] * ((scale - 1) / 2 - before)
    return result


class StackReader:
    """Reads the pixels of a stack onto its own grid, or onto a repaired one."""

    def __init__(
        self,
        stack: Stack,
        grid: Grid | None,
        in_plane: int | None,
        workers: int | None,
        progress: Progress,
        memory: VolumeMemory | None = None,
    ) -> None:
        self.stack = stack
        self.grid = grid
        self.in_plane = in_plane
        self.workers = workers
        self.progress = progress
        self.memory = memory or VolumeMemory(most_bytes=0)

    def read(self) -> Pixels:
        """All planes. Raises CTReadError where one cannot be decoded."""
        moved = self.grid is not None and self.grid.moves_planes
        hu, summary = self._in_chunks() if moved or self._swaps_shape else self._straight()
        hu_min, hu_max = summary.hu_min, summary.hu_max
        if self.grid is not None and self.grid.blends:
            hu = blend_slices(hu, self.grid)
        return Pixels(hu, hu_min, hu_max, summary)

    def damaged_frames(self) -> list[Frame]:
        """The frames that cannot be decoded each by itself, unless no decoder exists at all."""
        bad = []
        for frame in self.stack.frames:
            try:
                read_plane(frame)
            except CTReadError as error:
                if error.code == "no_decoder":
                    return []
                bad.append(frame)
        return bad if len(bad) < len(self.stack.frames) else []

    @property
    def _swaps_shape(self) -> bool:
        """Swapped planes of another shape cannot be read in place."""
        first = self.stack.frames[0]
        return self.stack.transpose and self.in_plane is None and first.rows != first.columns

    def _read_into(
        self, frames: list[Frame], out: np.ndarray, size: int | None, progress: Progress
    ) -> PixelSummary:
        return read_planes(
            frames,
            out,
            flip_rows=self.stack.flip_rows,
            flip_columns=self.stack.flip_columns,
            size=size,
            workers=self.workers,
            progress=progress,
        )

    def _straight(self) -> tuple[np.ndarray, PixelSummary]:
        stack = self.stack
        first = stack.frames[0]
        plane = (first.rows, first.columns) if self.in_plane is None else (self.in_plane,) * 2
        hu = self.memory.array((len(stack.frames), *plane))
        summary = self._read_into(stack.frames, hu, self.in_plane, self.progress)
        if stack.transpose:
            for plane in hu:
                plane[...] = plane.T.copy()
        return hu, summary

    def _in_chunks(self) -> tuple[np.ndarray, PixelSummary]:
        stack, grid = self.stack, self.grid
        count = len(stack.frames)
        first = stack.frames[0]
        rows, columns = stack.shape if grid is None else grid.shape[1:]
        size = self.in_plane
        hu = self.memory.array((count, size or rows, size or columns))
        buffer = np.empty((min(CHUNK, count), first.rows, first.columns), np.int16)
        wide = np.empty((rows, columns), np.int16)
        total: PixelSummary | None = None
        with counter(count, self.progress, what="reading slices", unit="slice") as advance:
            for start in range(0, count, CHUNK):
                frames = stack.frames[start : start + CHUNK]
                summary = self._read_into(frames, buffer[: len(frames)], None, False)
                total = summary if total is None else _together(total, summary)
                for offset, plane in enumerate(buffer[: len(frames)]):
                    if stack.transpose:
                        plane = plane.T
                    if grid is None:
                        wide[...] = plane
                    else:
                        move_plane(plane, grid.moves[start + offset], wide)
                    hu[start + offset] = wide if size is None else fit_in_plane(wide, size)
                advance(len(frames))
        return hu, total


def _together(one: PixelSummary, other: PixelSummary) -> PixelSummary:
    return replace(
        one,
        hu_min=min(one.hu_min, other.hu_min),
        hu_max=max(one.hu_max, other.hu_max),
        padded_voxels=one.padded_voxels + other.padded_voxels,
        clipped_voxels=one.clipped_voxels + other.clipped_voxels,
        notes=_merged_notes([*one.notes, *other.notes]),
    )


def _merged_notes(notes: list[PixelNote]) -> tuple[PixelNote, ...]:
    """One note of each kind, with the files of all."""
    merged: dict[str, PixelNote] = {}
    for note in notes:
        known = merged.get(note.code)
        files = note.files if known is None else known.files + note.files
        merged[note.code] = replace(known or note, files=files)
    return tuple(merged.values())
