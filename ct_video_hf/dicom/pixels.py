"""Pixels: frames to HU, plane by plane, straight into the caller's array."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..progress import Progress, counter
from .codecs import check_decodable, decode_frame
from .frame import Frame
from .framebytes import FrameBytes
from .rescale import PlaneStats, Stored, looks_like_hu, plane_to_hu, stored_values
from .syntax import BIG_ENDIAN, syntax_of

__all__ = ["PixelNote", "PixelSummary", "read_plane", "read_planes"]

_MOST_WORKERS = 4
#: By how much an inverted reading has to look more like HU than the standard's.
_CLEARLY_BETTER = 0.1


@dataclass(frozen=True)
class PixelNote:
    """Something about stored values that a report should say; ``files`` are names, no folders."""

    code: str
    message: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class PixelSummary:
    """What was seen while planes were read, at full resolution.

    Attributes
    ----------
    hu_min, hu_max : int
        Over all voxels, padding counting as air.
    padded_voxels : int
        Set to air because the header announces them as padding.
    clipped_voxels : int
        Beyond int16.
    notes : tuple of PixelNote
        ``monochrome1``, ``monochrome1_inverted``, ``padding_in_tissue``.
    """

    hu_min: int
    hu_max: int
    padded_voxels: int = 0
    clipped_voxels: int = 0
    notes: tuple[PixelNote, ...] = field(default=())


def read_plane(frame: Frame, out: np.ndarray | None = None) -> np.ndarray:
    """One plane in HU, as it is stored: neither turned nor resized.

    Parameters
    ----------
    frame : Frame
    out : numpy.ndarray, optional
        int16 (rows, columns) to write into.

    Returns
    -------
    numpy.ndarray
        int16 (rows, columns).

    Raises
    ------
    CTReadError
        See :func:`read_planes`.
    """
    if out is None:
        out = np.empty((frame.rows, frame.columns), np.int16)
    read_planes([frame], out[None], flip_rows=False, flip_columns=False)
    return out


def read_planes(
    frames: Sequence[Frame],
    out: np.ndarray,
    *,
    flip_rows: bool,
    flip_columns: bool,
    size: int | None = None,
    workers: int | None = None,
    progress: Progress = False,
) -> PixelSummary:
    """Read frames into the planes of an array, one after the other or in threads.

    MONOCHROME1 says how an image is shown, not what its values mean (PS3.3 C.7.6.3.1.2), so HU
    follow from the rescale as ever; only where that gives no HU and turned values do, they are
    turned round. One plane decides for all, and a note says so.

    Parameters
    ----------
    frames : sequence of Frame
    out : numpy.ndarray
        int16 (frame, row, column), or (frame, size, size) with ``size``.
    flip_rows, flip_columns : bool
        Turn each plane's rows or columns round.
    size : int, optional
        Fit each plane into ``size`` x ``size`` on the way.
    workers : int, optional
        Threads; by default one for uncompressed pixels, else one a core, at most 4. Memory grows by
        about three planes a worker.
    progress : bool or callable
        Show a bar on stderr, or call with (planes done, planes).

    Returns
    -------
    PixelSummary

    Raises
    ------
    CTReadError
        ``no_decoder``, ``truncated_pixels``, ``corrupt_pixels``, and what reading a source raises.
    ValueError
        For an array of another shape or type.
    """
    _check_output(frames, out, size)
    for frame in {frame.transfer_syntax: frame for frame in frames}.values():
        check_decodable(frame)
    reader = _PlaneReader(flip_rows, flip_columns, size)
    monochrome1 = [frame for frame in frames if frame.photometric == "MONOCHROME1"]
    if monochrome1:
        reader.invert = _is_inverted(monochrome1[len(monochrome1) // 2], reader)
    if workers is None:
        workers = _default_workers(frames)
    stats = _track(_map(reader, frames, out, workers), len(frames), progress)
    return _summarise(list(stats), frames, monochrome1, reader.invert)


class _PlaneReader:
    """Reads one frame after another with the same settings; safe to use from several threads."""

    def __init__(self, flip_rows: bool, flip_columns: bool, size: int | None) -> None:
        self.bytes = FrameBytes()
        self.invert = False
        self.convert = partial(
            plane_to_hu, flip_rows=flip_rows, flip_columns=flip_columns, size=size
        )

    def __call__(self, frame: Frame, target: np.ndarray) -> PlaneStats:
        invert = self.invert and frame.photometric == "MONOCHROME1"
        return self.convert(self.stored(frame), frame, target, invert=invert)

    def stored(self, frame: Frame) -> Stored:
        """A frame's stored values. Uncompressed ones stay valid until this thread's next frame."""
        syntax = syntax_of(frame.transfer_syntax)
        if syntax.encapsulated:
            cells = decode_frame(self.bytes.compressed(frame), frame)
        else:
            cells = _cells(self.bytes.raw(frame), frame)
        return stored_values(cells, frame, lossy_codec=frame.lossy and syntax.encapsulated)


def _cells(data: np.ndarray, frame: Frame) -> np.ndarray:
    """Bytes to unsigned cells in native order, the value in their low bits."""
    width = frame.bits_allocated // 8
    big = frame.transfer_syntax == BIG_ENDIAN
    if width == 1 and big and frame.pixel_vr == "OW" and len(data) % 2 == 0:
        data = data.view("u2").byteswap().view("u1")  # OW swaps pairs of bytes
    cells = data.view(f"{'>' if big else '<'}u{width}").reshape(frame.rows, frame.columns)
    if not cells.dtype.isnative:
        cells = cells.astype(cells.dtype.newbyteorder("="))
    shift = 0 if frame.high_bit is None else frame.high_bit + 1 - frame.bits_stored
    return cells >> cells.dtype.type(shift) if shift else cells


def _check_output(frames: Sequence[Frame], out: np.ndarray, size: int | None) -> None:
    if not frames:
        raise ValueError("there are no frames to read")
    planes = {(frame.rows, frame.columns) if size is None else (size, size) for frame in frames}
    if len(planes) > 1 or out.shape != (len(frames), *planes.copy().pop()):
        raise ValueError(
            f"output of shape {out.shape} for {len(frames)} planes of {sorted(planes)}"
        )
    if out.dtype != np.int16:
        raise ValueError(f"output must be int16, got {out.dtype}")


def _default_workers(frames: Sequence[Frame]) -> int:
    if not any(syntax_of(frame.transfer_syntax).encapsulated for frame in frames):
        return 1
    return max(1, min(_MOST_WORKERS, os.cpu_count() or 1, len(frames)))


def _map(
    reader: _PlaneReader, frames: Sequence[Frame], out: np.ndarray, workers: int
) -> Iterator[PlaneStats]:
    """In order; the first error stops the rest."""
    if workers <= 1 or len(frames) == 1:
        yield from map(reader, frames, out)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ct-planes")
    try:
        yield from pool.map(reader, frames, out)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _track(stats: Iterable[PlaneStats], total: int, progress: Progress) -> Iterator[PlaneStats]:
    with counter(total, progress, what="reading slices", unit="slice") as advance:
        for one in stats:
            yield one
            advance(1)


def _is_inverted(frame: Frame, reader: _PlaneReader) -> bool:
    """Whether a MONOCHROME1 frame looks like HU only when its values are turned round."""
    plane = np.empty((2, frame.rows, frame.columns), np.int16)
    stored = reader.stored(frame)
    for index, invert in enumerate((False, True)):
        plane_to_hu(stored, frame, plane[index], invert=invert)
    measured = slice(None) if stored.padding is None else ~stored.padding
    if stored.padding is not None and stored.padding.all():
        return False
    straight, turned = (looks_like_hu(hu[measured]) for hu in plane)
    return turned > straight + _CLEARLY_BETTER


def _summarise(
    stats: list[PlaneStats], frames: Sequence[Frame], monochrome1: list[Frame], inverted: bool
) -> PixelSummary:
    notes = []
    if monochrome1:
        files = tuple(frame.label for frame in monochrome1)
        if inverted:
            text = "values were stored turned round: only so are they HU, and so they were read"
        else:
            text = "values are HU as they stand; only their display is turned round"
        code = "monochrome1_inverted" if inverted else "monochrome1"
        notes.append(PixelNote(code, f"MONOCHROME1: {text}", files))
    doubtful = [
        frame.label for frame, plane in zip(frames, stats, strict=True) if plane.doubtful_padding
    ]
    if doubtful:
        notes.append(
            PixelNote(
                "padding_in_tissue",
                f"the header's padding value {frames[0].padding_value} is one that tissue takes as "
                "well: only areas that touch the image's edge were counted as padding",
                tuple(doubtful),
            )
        )
    return PixelSummary(
        hu_min=min(plane.hu_min for plane in stats),
        hu_max=max(plane.hu_max for plane in stats),
        padded_voxels=sum(plane.padded for plane in stats),
        clipped_voxels=sum(plane.clipped for plane in stats),
        notes=tuple(notes),
    )
