"""A classifier as one program of plain operations: clips in, logits and class activations out.

Of a model whose study scores are made by learned attention the program also gives what the
classifier takes, the features that the attention head weighs clips by.

``torch.export`` records it for any number of clips of one shape. The activation that key slices
are chosen by is a gradient of the head; its operations are recorded beforehand, so that the
program holds them like any others and whatever runs it needs no differentiation.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from ..evaluation.score import ClassifierInput
from ..inference.localization import parts_forward
from ..models.base import CTVideoClassifier

__all__ = ["ACTIVATION_LABELS", "record", "to_record"]

aten = torch.ops.aten

#: Of models with more labels than this no activations are exported: each takes a backward pass.
ACTIVATION_LABELS = 16


class _Logits(nn.Module):
    """Any classifier: its logits, and if wanted its features (clip, feature)."""

    def __init__(self, model: nn.Module, features: bool) -> None:
        super().__init__()
        self.model = model
        self.names = ("logits", "features") if features else ("logits",)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if len(self.names) == 1:
            return (self.model(pixel_values=pixel_values, return_dict=True).logits,)
        seen = ClassifierInput(self.model)
        with seen.watched():
            logits = self.model(pixel_values=pixel_values, return_dict=True).logits
        return logits, seen.taken()


class _Scores(nn.Module):
    """One of this package's networks: logits (clip, label), activations (clip, label, frame), and
    if wanted features (clip, feature)."""

    def __init__(self, model: CTVideoClassifier, clip: torch.Tensor, features: bool) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.names = ("logits", "activation", *(["features"] if features else []))
        self.head = _record_head(model, model.backbone.to_explain(clip), clip.shape[1], features)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.head(*self.backbone.to_explain(pixel_values))


def to_record(model: nn.Module, clip: torch.Tensor, features: bool = False) -> nn.Module:
    """The module to record, with ``names`` of what it gives.

    A score read from a class token is no sum over frames: its activation would be a gradient
    through the last blocks, which neither runtime has all operations of. Those networks, others
    than this package's, and those with many labels give logits alone.

    Parameters
    ----------
    model : torch.nn.Module
        A classifier in eval mode, on the CPU, in float32.
    clip : torch.Tensor
        (1, frame, channel, row, column).
    features : bool
        Give what the classifier takes, too, see :class:`..evaluation.score.ClassifierInput`.
    """
    own = isinstance(model, CTVideoClassifier) and model.config.num_labels <= ACTIVATION_LABELS
    if not own or getattr(model.config, "head_pool", None) == "class_token":
        return _Logits(model, features).eval()
    with torch.no_grad(), _PlainOperations():
        return _Scores(model, clip, features).eval()


def record(network: nn.Module, clip: torch.Tensor) -> ExportedProgram:
    """The program of a module from :func:`to_record`, for any number of clips like ``clip``."""
    clips = clip.repeat(2, 1, 1, 1, 1)  # a size of 1 would be taken for a constant
    with torch.no_grad(), _PlainOperations(), warnings.catch_warnings():
        # a recurrent layer makes the list of its weights anew, which changes nothing
        warnings.filterwarnings("ignore", r"The tensor attributes? .* assigned during export")
        return torch.export.export(
            network, (clips,), dynamic_shapes=({0: Dim("clips", min=1)},), strict=False
        )


def _record_head(
    model: CTVideoClassifier, parts: tuple[torch.Tensor, ...], frames: int, features: bool
) -> torch.fx.GraphModule:
    """Logits and activations of all labels as operations on what ``to_explain`` gives."""

    def head(*parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen = ClassifierInput(model) if features else None
        with seen.watched() if seen else nullcontext():
            found = [
                parts_forward(model, parts, label, frames)
                for label in range(model.config.num_labels)
            ]
        activations = torch.stack([activation for _, activation in found], 1)
        return found[0][0], activations, *([seen.taken()] if seen else [])

    # Sizes are recorded as symbols, equal ones as the same: the number of clips has to be no other.
    taken = {frames, *(size for part in parts for size in part.shape[1:])}
    clips = next(count for count in range(3, len(taken) + 4) if count not in taken)
    examples = [part.expand(clips, *part.shape[1:]).clone() for part in parts]
    recorded = make_fx(
        head, decomposition_table=_BACKWARD, tracing_mode="symbolic", _allow_non_fake_inputs=True
    )
    return recorded(*examples)


def _convolution_backward(
    gradient: torch.Tensor,
    video: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    wanted: list[bool],
) -> tuple[torch.Tensor | None, None, None]:
    """The gradient by a convolution's input, as a transposed convolution; no other is asked for."""
    if transposed or wanted[1] or wanted[2]:
        raise NotImplementedError("Only a plain convolution's input is differentiated here.")
    spare = _not_reached(video, gradient, weight.shape[2:], stride, padding, dilation)
    turned = aten.convolution(
        gradient, weight, None, stride, padding, dilation, True, spare, groups
    )
    return turned, None, None


def _average_backward(
    gradient: torch.Tensor,
    video: torch.Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> torch.Tensor:
    """The gradient of ``avg_pool3d``, as a transposed convolution of each channel."""
    if ceil_mode or divisor_override or (any(padding) and not count_include_pad):
        raise NotImplementedError("Only averages over whole windows are differentiated here.")
    stride, ones = stride or kernel, [1, 1, 1]
    spare = _not_reached(video, gradient, kernel, stride, padding, ones)
    share = gradient.new_full((1, 1, *kernel), 1 / math.prod(kernel))
    planes = gradient.flatten(0, 1).unsqueeze(1)
    turned = aten.convolution(planes, share, None, stride, padding, ones, True, spare, 1)
    return turned.squeeze(1).unflatten(0, gradient.shape[:2])


def _not_reached(
    video: torch.Tensor,
    result: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """How many places at the end of each axis of ``video`` no window covers."""
    axes = zip(video.shape[2:], result.shape[2:], kernel, stride, padding, dilation, strict=True)
    return [
        full - ((size - 1) * step - 2 * pad + apart * (span - 1) + 1)
        for full, size, span, step, pad, apart in axes
    ]


#: Gradients of operations for which the formats have no operation of their own.
_BACKWARD = {
    aten.convolution_backward.default: _convolution_backward,
    aten.avg_pool3d_backward.default: _average_backward,
}


class _PlainOperations(TorchFunctionMode):
    """Within it, what a graph format lacks is computed by operations that it has."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _PLAIN.get(function, function)(*args, **(kwargs or {}))


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """``scaled_dot_product_attention``, whose result need not lie in memory as a program says."""
    if dropout_p or is_causal or enable_gqa:
        raise NotImplementedError("Attention with dropout, causal or grouped, is not exported.")
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ value


def _adaptive_average(video: torch.Tensor, output_size: Any) -> torch.Tensor:
    """``adaptive_avg_pool3d``, axis by axis; ONNX has it for a single place only."""
    if isinstance(output_size, int):
        output_size = (output_size,) * 3
    for axis, wanted in enumerate(output_size, video.ndim - 3):
        size = video.shape[axis]
        if wanted == 1:
            video = video.mean(axis, keepdim=True)
        elif wanted not in (None, size):
            shares = torch.zeros(size, wanted, dtype=video.dtype)
            for place in range(wanted):
                first, stop = place * size // wanted, -(-(place + 1) * size // wanted)
                shares[first:stop, place] = 1 / (stop - first)
            video = (video.movedim(axis, -1) @ shares).movedim(-1, axis)
    return video


_PLAIN = {
    nn.functional.scaled_dot_product_attention: _attention,
    nn.functional.adaptive_avg_pool3d: _adaptive_average,
}
