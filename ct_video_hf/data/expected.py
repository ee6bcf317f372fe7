"""What a generated set will hold, before any of it is made."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..models.hu_clips import clip_start_indices
from .phantom import PhantomParameters
from .phantom_video import VideoParameters
from .prepare_options import PrepareOptions
from .sources import GENERATED, SOURCES

__all__ = ["ExpectedSet", "expected_set"]

_HEADER = 2000  # bytes of a generated DICOM file besides its pixels, about


@dataclass(frozen=True)
class ExpectedSet:
    """A set that a generated source will become.

    Attributes
    ----------
    studies : dict of str to int
        Of each split.
    slices : range
        What a study may have, each count as likely as the others.
    matrix, size : int
        Sides in pixels of the planes of the scans and of the set.
    bytes_a_pixel : int
        In the set: 2, or 1 where it keeps a window.
    """

    studies: dict[str, int]
    slices: range
    matrix: int
    size: int
    bytes_a_pixel: int

    def clips(self, split: str, num_frames: int, stride: int | None, tail: str) -> float:
        """The clips that a split will have on average; 0 of a split that there is not."""
        step = num_frames if stride is None else stride
        each = [len(clip_start_indices(count, num_frames, step, tail)) for count in self.slices]
        return self.studies.get(split, 0) * float(np.mean(each))

    @property
    def bytes(self) -> int:
        """On disk: the scans as DICOM and the prepared set."""
        slices = sum(self.studies.values()) * float(np.mean(self.slices))
        scan = 2 * self.matrix**2 + _HEADER
        return round(slices * (scan + self.bytes_a_pixel * self.size**2))


def expected_set(source: str, options: Mapping[str, Any]) -> ExpectedSet | None:
    """What :func:`.sources.prepare` will make of a source with these options.

    Parameters
    ----------
    source : str
        A name in :data:`.sources.SOURCES`.
    options : mapping
        Options of the source and fields of ``PrepareOptions``.

    Returns
    -------
    ExpectedSet or None
        None for sources that are not generated: what they hold is seen in their scans alone.
    """
    if source not in GENERATED:
        return None
    said = {
        key: entry.default for key, entry in inspect.signature(SOURCES[source]).parameters.items()
    }
    said |= options
    if source == "phantom":
        kind: Any = said["parameters"] or PhantomParameters()
        if isinstance(kind, Mapping):
            kind = PhantomParameters(**kind)
        low, high = kind.slices
    else:
        kind = VideoParameters()
        low = high = kind.frames
    fields = {key: options[key] for key in PrepareOptions.__dataclass_fields__ if key in options}
    prepared = PrepareOptions(**fields)
    return ExpectedSet(
        {split: int(said[split]) for split in ("train", "validation", "test")},
        range(low, high + 1),
        kind.matrix,
        prepared.size,
        2 if prepared.store_window is None else 1,
    )
