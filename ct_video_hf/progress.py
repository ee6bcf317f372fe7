"""Progress: a bar on a terminal, lines in a log, and none that others show unasked."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Progress", "counter", "no_transformers_bars", "study_progress"]

#: Whether to show a bar, or what to call with (done, total) instead. It may raise, to end the work.
Progress = bool | Callable[[int, int], None]

#: Seconds between lines where standard error is no terminal, as in the log of a batch job.
_LINE_EVERY = 30.0


def study_progress(
    studies: Iterable[Any], total: int, *, done: int = 0, what: str = "preparing", show: bool = True
) -> Iterator[Any]:
    """The same studies, with count, rate and remaining time on standard error.

    Parameters
    ----------
    studies : iterable
    total, done : int
        Of all studies, and of those that were done before.
    what : str
    show : bool
    """
    if not show:
        yield from studies
        return
    if sys.stderr.isatty():
        from tqdm.auto import tqdm

        yield from tqdm(studies, total=total, initial=done, desc=what, unit="study")
        return
    began = said = time.monotonic()
    for count, study in enumerate(studies, start=1):
        yield study
        now = time.monotonic()
        if now - said >= _LINE_EVERY:
            said = now
            sys.stderr.write(f"{what}: {_line(done + count, total, count / (now - began))}\n")
            sys.stderr.flush()


def _line(done: int, total: int, rate: float) -> str:
    """``120 of 7279 studies (2 %), 1.4 a second, 1 h 25 min left``"""
    speed = f"{rate:.1f} a second" if rate >= 1 else f"{60 * rate:.1f} a minute"
    left = round((total - done) / rate / 60)
    hours, minutes = divmod(left, 60)
    time_left = f"{hours} h {minutes} min" if hours else f"{minutes} min" if left else "< 1 min"
    share = round(100 * done / total) if total else 100
    return f"{done} of {total} studies ({share} %), {speed}, {time_left} left"


@contextmanager
def counter(
    total: int, progress: Progress, *, unit: str, what: str | None = None
) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of things done since the last call.

    Parameters
    ----------
    total : int
    progress : bool or callable
        True shows a bar on standard error; a callable is told (done, total), at the start as well.
    unit, what : str
        Words of the bar.
    """
    if callable(progress):
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress(done, total)

        advance(0)
        yield advance
        return
    if not progress:
        # not a bar that is off: it would take a semaphore, which a worker that is killed leaves
        yield _uncounted
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=what, unit=unit) as bar:
        yield bar.update


def _uncounted(count: int) -> None:
    """Nobody is told."""


@contextmanager
def no_transformers_bars() -> Iterator[None]:
    """Transformers shows a bar for each file that it loads or saves, which takes an instant."""
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
