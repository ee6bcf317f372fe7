"""Functional groups of enhanced multi-frame CT (PS3.3 A.38 and C.7.6.16)."""

from __future__ import annotations

from .errors import CTReadError
from .values import Values

__all__ = ["WANTED", "FunctionalGroups"]

SHARED = 0x52009229
PER_FRAME = 0x52009230
PIXEL_MEASURES = 0x00289110
PIXEL_TRANSFORM = 0x00289145
FRAME_CONTENT = 0x00209111
PLANE_POSITION = 0x00209113
PLANE_ORIENTATION = 0x00209116
FRAME_TYPE = 0x00189329
ACQUISITION_DETAILS = 0x00189304
RECONSTRUCTION = 0x00189314
XRAY_DETAILS = 0x00189325

WANTED = frozenset({SHARED, PER_FRAME})

_EMPTY = Values({}, "<")


class FunctionalGroups:
    """The macros of each frame: its own where it has one, else the shared one."""

    def __init__(self, values: Values, frames: int, name: str) -> None:
        shared = values.items(SHARED)
        self._shared = shared[0] if shared else _EMPTY
        self._frames = values.items(PER_FRAME)
        if len(self._frames) != frames:
            raise CTReadError(
                f"{name} announces {frames} frames but has functional groups for "
                f"{len(self._frames)}: the positions of its frames are not known",
                code="bad_header",
            )

    def macro(self, frame: int, sequence: int) -> Values:
        """The first item of a macro's sequence for a 0-based frame; an empty one if missing."""
        for group in (self._frames[frame], self._shared):
            items = group.items(sequence)
            if items:
                return items[0]
        return _EMPTY
