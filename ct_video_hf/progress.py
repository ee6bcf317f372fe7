"""Progress bars that others show without being asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["no_transformers_bars"]


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
