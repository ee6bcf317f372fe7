"""Parts that the pytorchvideo ResNets have in common."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pytorchvideo.models.resnet import create_res_stage
from pytorchvideo.models.stem import create_res_basic_stem
from torch import nn

from .pooling import HEAD_POOLS

__all__ = [
    "check_head_pool",
    "check_lengths",
    "check_odd",
    "make_stage",
    "make_stem",
    "norm_builder",
    "smallest_window",
]


def check_lengths(config: Any, lengths: dict[str, int]) -> None:
    """Refuse list fields of ``config`` that do not have the length given for their name."""
    for name, length in lengths.items():
        value = getattr(config, name)
        if len(value) != length:
            raise ValueError(f"{name} is {value}; {length} values are expected.")


def check_odd(kernels: Iterable[Sequence[int]]) -> None:
    """Refuse kernels with even sizes: they would shift the grid."""
    for kernel in kernels:
        if any(size % 2 == 0 for size in kernel):
            raise ValueError(f"A kernel is {list(kernel)}; odd sizes are expected.")


def check_head_pool(kind: str) -> None:
    """Refuse a head_pool that does not exist."""
    if kind not in HEAD_POOLS:
        raise ValueError(f"head_pool is {kind!r}; allowed: {', '.join(HEAD_POOLS)}.")


def smallest_window(window: Sequence[int], strides: Sequence[int]) -> tuple[int, int, int]:
    """Smallest input (frames, rows, columns) whose features fill ``window`` after ``strides``."""
    return tuple((size - 1) * stride + 1 for size, stride in zip(window, strides, strict=True))


def _group_norm(num_features: int, eps: float, momentum: float, channels: int) -> nn.Module:
    groups = math.gcd(num_features, max(num_features // channels, 1))
    return nn.GroupNorm(groups, num_features, eps)


def norm_builder(kind: str, group_channels: int = 8) -> Callable[..., nn.Module]:
    """What pytorchvideo's builders call to make a norm: "batch" or "group".

    Raises
    ------
    ValueError
        For another kind.
    """
    if kind == "batch":
        return nn.BatchNorm3d
    if kind == "group":
        return functools.partial(_group_norm, channels=group_channels)
    raise ValueError(f"norm is {kind!r}; allowed: batch, group.")


def make_stage(**sizes: Any) -> nn.Module:
    """What pytorchvideo's ``create_res_stage`` makes of ``sizes``.

    It leaves numpy integers in the strides of shortcuts, at which torch.compile gives up.
    """
    stage = create_res_stage(**sizes)
    for module in stage.modules():
        if isinstance(module, nn.Conv3d):
            module.stride = tuple(int(step) for step in module.stride)
    return stage


def make_stem(
    channels: int,
    width: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    pool_stride: Sequence[int],
    norm: Callable[..., nn.Module] = nn.BatchNorm3d,
) -> nn.Module:
    """A convolution, norm, ReLU and, unless ``pool_stride`` is [1, 1, 1], max pooling.

    The pooling's kernel is 3 along the axes where it strides.
    """
    pool_kernel = [3 if step > 1 else 1 for step in pool_stride]
    return create_res_basic_stem(
        in_channels=channels,
        out_channels=width,
        conv_kernel_size=tuple(kernel),
        conv_stride=tuple(stride),
        conv_padding=tuple(size // 2 for size in kernel),
        pool=None if max(pool_stride) == 1 else nn.MaxPool3d,
        pool_kernel_size=tuple(pool_kernel),
        pool_stride=tuple(pool_stride),
        pool_padding=tuple(size // 2 for size in pool_kernel),
        norm=norm,
    )
