"""What makes training on a CPU faster and leaves its results: memory kept, and its layout."""

from __future__ import annotations

import ctypes
import logging
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["keep_freed_memory", "prepare_cpu_training", "to_channels_last"]

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


def to_channels_last(model: nn.Module) -> None:
    """Keep the weights of convolutions channels last; what they compute then is, too."""
    import torch

    formats = {4: torch.channels_last, 5: torch.channels_last_3d}  # 2D networks read slices
    for parameter in model.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])


def prepare_cpu_training(model: nn.Module, dtype: torch.dtype) -> None:
    """Set up a process for training ``model`` on its CPU.

    Freed memory is kept (:func:`keep_freed_memory`). For 16-bit training the weights of
    convolutions are laid out channels last, the layout that 16-bit convolutions compute in: with
    another every one of them copies its input, its result and both gradients.

    Parameters
    ----------
    model : torch.nn.Module
    dtype : torch.dtype
        Of the arithmetic; never changed here.
    """
    keep_freed_memory()
    if dtype.itemsize == 2:
        to_channels_last(model)
