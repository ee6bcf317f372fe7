"""The error of the data room."""

from __future__ import annotations

from ..errors import CTVideoError

__all__ = ["CTDataError"]


class CTDataError(CTVideoError):
    """A labels table, split, prepared set or clip request that cannot be used as it is."""
