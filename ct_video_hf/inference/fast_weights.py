"""Convolutions and linear layers by oneDNN, with weights laid out once for one input shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

__all__ = ["ConvolutionWeights", "LinearWeights", "PackedConvolution", "PackedLinear"]

#: Columns from which rows are not joined, by bytes of a number.
_WIDE_ENOUGH = {4: 16, 2: 8}


def _triple(value: Any, dims: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


@dataclass(frozen=True)
class ConvolutionWeights:
    """A convolution as it is: kernel, bias, geometry, and the shape of its input."""

    kernel: torch.Tensor
    bias: torch.Tensor | None
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    input_size: list[int]

    @classmethod
    def of(
        cls, node: fx.Node, value: Callable[[Any], Any], shape: Sequence[int]
    ) -> ConvolutionWeights | None:
        """From a recorded call; None where its weights are no constants."""
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        kernel = value(given["weight"])
        bias = value(given.get("bias"))
        if kernel is None or (given.get("bias") is not None and bias is None):
            return None
        if isinstance(given.get("padding"), str):
            return None
        dims = kernel.ndim - 2
        return cls(
            kernel,
            bias,
            _triple(given.get("stride", 1), dims),
            _triple(given.get("padding", 0), dims),
            _triple(given.get("dilation", 1), dims),
            given.get("groups", 1),
            list(shape),
        )

    @property
    def along_time_on_narrow_rows(self) -> bool:
        """Whether rows should be joined: kernel (frames, 1, 1), on rows that oneDNN is slow with.

        oneDNN works on one row of the grid at a time, and one of 7 places fills half of a tile of
        an AMX unit: 2048 to 512 channels on 32 x 7 x 7 took 181 ms in bfloat16, joined 8.5 ms. In
        float32 a row of 14 is still too narrow (92 ms, joined 62 ms); in 16 bits it no longer is.
        """
        if self.kernel.ndim != 5 or self.groups != 1:
            return False
        frames, *within = self.kernel.shape[2:]
        still = within == [1, 1] and self.stride[1:] == [1, 1] and self.padding[1:] == [0, 0]
        return (
            still and frames > 1 and self.input_size[4] < _WIDE_ENOUGH[self.kernel.element_size()]
        )

    def on_rows_as_one(self) -> ConvolutionWeights:
        """The same function on (clip, channel, frame, row x column)."""
        clips, channels, frames, rows, columns = self.input_size
        return ConvolutionWeights(
            self.kernel.flatten(3),
            self.bias,
            self.stride[:2],
            self.padding[:2],
            self.dilation[:2],
            self.groups,
            [clips, channels, frames, rows * columns],
        )


class PackedConvolution:
    """Convolution, and if wanted plus a tensor, and if wanted cut off below zero.

    Parameters
    ----------
    weights : ConvolutionWeights
    relu : bool
        Cut off below zero.

    Attributes
    ----------
    overwrite : bool
        A tensor that is added may be written over.
    """

    def __init__(self, weights: ConvolutionWeights, relu: bool) -> None:
        self.grid = weights.input_size[3:] if weights.along_time_on_narrow_rows else None
        if self.grid is not None:
            weights = weights.on_rows_as_one()
        self.layout = {5: torch.channels_last_3d, 4: torch.channels_last}[weights.kernel.ndim]
        self.kernel = torch.ops.mkldnn._reorder_convolution_weight(
            weights.kernel.contiguous(memory_format=self.layout),
            weights.padding,
            weights.stride,
            weights.dilation,
            weights.groups,
            weights.input_size,
        )
        self.bias = weights.bias
        self.geometry = (weights.padding, weights.stride, weights.dilation, weights.groups)
        self.activation = "relu" if relu else "none"
        self.overwrite = False

    def __call__(self, video: torch.Tensor, shortcut: torch.Tensor | None = None) -> torch.Tensor:
        video = self._laid_out(video)
        ops = torch.ops.mkldnn
        after = ("add", 1.0, "relu" if self.activation == "relu" else None, [], None)
        if shortcut is None:
            result = ops._convolution_pointwise(
                video, self.kernel, self.bias, *self.geometry, self.activation, [], ""
            )
        elif self.overwrite:
            result = ops._convolution_pointwise_(
                self._laid_out(shortcut), video, self.kernel, self.bias, *self.geometry, *after
            )
        else:
            result = ops._convolution_pointwise(
                video, self._laid_out(shortcut), self.kernel, self.bias, *self.geometry, *after
            )
        return result if self.grid is None else self._in_rows(result)

    def _in_rows(self, result: torch.Tensor) -> torch.Tensor:
        """With rows again; of one clip unflatten would give strides that look channels-first."""
        clips, channels, frames, _ = result.shape
        rows, columns = self.grid
        strides = [channels * columns * rows, channels * columns, channels]
        return result.as_strided(
            (clips, channels, frames, rows, columns), (frames * strides[0], 1, *strides)
        )

    def _laid_out(self, video: torch.Tensor) -> torch.Tensor:
        """Channels innermost; where rows are one, that is a view of channels innermost in 3D."""
        if self.grid is not None:
            video = video.contiguous(memory_format=torch.channels_last_3d).flatten(3)
        return video.contiguous(memory_format=self.layout)


@dataclass(frozen=True)
class LinearWeights:
    """A linear layer as it is."""

    matrix: torch.Tensor
    bias: torch.Tensor | None

    @classmethod
    def of(cls, node: fx.Node, value: Callable[[Any], Any]) -> LinearWeights | None:
        """From a recorded call; None where its weights are no constants."""
        matrix = value(node.args[1])
        given = node.args[2] if len(node.args) > 2 else None
        bias = value(given)
        if matrix is None or (given is not None and bias is None):
            return None
        return cls(matrix, bias)


class PackedLinear:
    """Linear layer and, if wanted, its GELU ("none" for the exact one, or "tanh")."""

    def __init__(self, weights: LinearWeights, gelu: str | None, rows: int) -> None:
        self.matrix = torch.ops.mkldnn._reorder_linear_weight(weights.matrix.contiguous(), rows)
        self.bias = weights.bias
        self.after = ("none", [], "") if gelu is None else ("gelu", [], gelu)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows, self.matrix, self.bias, *self.after)
