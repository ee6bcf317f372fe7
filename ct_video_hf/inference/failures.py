"""Why a scan of several could not be predicted, in words that may be passed on."""

from __future__ import annotations

import os
import re
import traceback
from pathlib import Path
from typing import Any

import torch

from ..errors import CTVideoError

__all__ = ["PredictionFailed", "failure"]

#: What looks like a place on a disk: at least two steps from the root, or from a drive.
_PLACE = re.compile(r"(?<![\w.:/])(?:[A-Za-z]:[\\/]|/)[^\s'\",;:]+[\\/][^\s'\",;:]*")


class PredictionFailed(CTVideoError):
    """A scan failed for a reason that nobody foresaw; ``__cause__`` is the error itself."""


def failure(scan: Any, error: Exception) -> CTVideoError:
    """The error of a scan, its words free of places on this machine's disks.

    Such places often name patients, and tables of results are passed on. What this package raises
    keeps its type; anything else becomes :class:`PredictionFailed`. What the failed functions still
    held (a volume, a batch of clips) is let go.

    Parameters
    ----------
    scan : object
        As it was given; a path stands in the words by its last part alone.
    error : Exception
        What was raised.
    """
    traceback.clear_frames(error.__traceback__)
    if isinstance(error, CTVideoError):
        words = _without_places(str(error), scan)
        if words != str(error):
            error.args = (words,)
        return error
    told = PredictionFailed(_without_places(_words(error), scan))
    told.__cause__ = error
    return told


def _words(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
        return "The GPU's memory ran out. Use a smaller batch_size, or the CPU."
    no_memory = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if isinstance(error, MemoryError) or no_memory:
        return "Memory ran out. Use a smaller batch_size, or a machine with more memory."
    if isinstance(error, OSError):  # its own words name the file with the folders above it
        return f"The scan could not be read: {error.strerror or type(error).__name__}."
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _without_places(words: str, scan: Any) -> str:
    if isinstance(scan, str | os.PathLike):
        path = Path(scan)
        places = {os.fspath(scan), str(path), str(path.absolute()), str(path.resolve())}
        for place in sorted(places, key=len, reverse=True):  # one may be the end of another
            if len(Path(place).parts) > 1:
                words = words.replace(place, Path(place).name)
    return _PLACE.sub(lambda found: re.split(r"[\\/]", found[0].rstrip("\\/"))[-1], words)
