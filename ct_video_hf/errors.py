"""Errors that a user can act on.

Every error that this package raises on purpose about input, parameters or files derives from
:class:`CTVideoError`. Its text says what is wrong, where, which value was found and what to do.
"""

from __future__ import annotations

__all__ = ["CTVideoError"]


class CTVideoError(ValueError):
    """Base of the package's own errors; the command line shows its text without a traceback."""
