"""Errors that a user can act on.

Every error that this package raises on purpose about input, parameters or files derives from
:class:`CTVideoError`. Its text says what is wrong, where, which value was found and what to do.
"""

from __future__ import annotations

__all__ = ["CTVideoError", "first_line"]


class CTVideoError(ValueError):
    """Base of the package's own errors; the command line shows its text without a traceback."""


def first_line(error: BaseException, length: int = 200) -> str:
    """What a foreign error says, in one line of at most ``length`` characters; else its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:length]
