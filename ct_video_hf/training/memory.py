"""Keeps freed memory in the process, which training on a CPU asks for again at every step."""

from __future__ import annotations

import ctypes
import logging
import platform

__all__ = ["keep_freed_memory"]

logger = logging.getLogger(__name__)

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Tell the C library to keep large freed blocks instead of returning them to the system.

    A training step on a CPU allocates and frees the same activations over and over. glibc gives
    each large block back at once, and the system has to hand out and clear new pages at the next
    step. The setting holds for the whole process, whose memory then stays at its peak until it
    ends. Other C libraries are left as they are.

    Returns
    -------
    bool
        Whether the setting was accepted.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    accepted = all(
        library.mallopt(parameter, 2**31 - 1)
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)
    )
    if not accepted:
        logger.info("the C library does not keep freed memory; training is a little slower")
    return accepted
