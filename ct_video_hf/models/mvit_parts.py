"""What both generations of MViT have in common: sizes, initialisation, and the run over stages."""

import math
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from pytorchvideo.layers import SpatioTemporalClsPositionalEncoding
from torch import nn
from torchvision.models.video.mvit import MultiscaleAttention, PositionalEncoding
from transformers import initialization as init

from .base import CTVideoBackbone, CTVideoConfig
from .pooling import make_head_pool
from .resnet_parts import check_lengths, check_odd

__all__ = ["CTMultiscaleConfig", "init_attention_part", "make_token_pool", "run_stages"]


@strict
class CTMultiscaleConfig(CTVideoConfig):
    """Sizes that both generations have. Kernels and strides are (frame, row, column).

    From stage to stage channels and heads double, and tokens are pooled by ``query_stride``.
    """

    head_init_std: float | int = 0.02
    #: Channels of the first stage.
    width: int = 96
    #: Attention heads of the first stage.
    heads: int = 1
    #: Blocks in each stage.
    depths: list[int] | None = None
    #: Kernel of the convolution that makes patches; sizes are odd.
    patch_kernel: list[int] | None = None
    #: Stride of that convolution: the size of a patch's own share.
    patch_stride: list[int] | None = None
    #: Kernel of the poolings of queries, keys and values; sizes are odd.
    pool_kernel: list[int] | None = None
    #: Stride of queries at the start of each stage but the first.
    query_stride: list[int] | None = None
    #: Stride of keys and values in the first stage; query_stride divides it from stage to stage.
    key_value_stride: list[int] | None = None
    #: Probability of leaving out the last block for a sample while training; 0 at the first block
    #: and rising evenly. The published networks were trained with some; pytorchvideo's hub function
    #: has none, torchvision's 0.2.
    stochastic_depth: float | int = 0.0
    #: "class_token" (published) before the classifier, or "mean" or "max" over the other tokens.
    head_pool: str = "class_token"

    def __post_init__(self, **kwargs: Any) -> None:
        defaults = {
            "depths": [1, 2, 11, 2],
            "patch_kernel": [3, 7, 7],
            "patch_stride": [2, 4, 4],
            "pool_kernel": [3, 3, 3],
            "query_stride": [1, 2, 2],
            "key_value_stride": [1, 8, 8],
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        super().__post_init__(**kwargs)

    @property
    def feature_size(self) -> int:
        """Channels of the last stage."""
        return self.width * 2 ** (len(self.depths) - 1)

    def _grid(self, clip: tuple[int, int, int]) -> tuple[int, int, int]:
        # Odd kernels, padded by half of them.
        return tuple(
            (size - 1) // step + 1 for size, step in zip(clip, self.patch_stride, strict=True)
        )

    @property
    def patch_grid(self) -> tuple[int, int, int]:
        """Patches over frames, rows and columns that the positions are for."""
        return self._grid((self.num_frames, self.image_size, self.image_size))

    @property
    def smallest_clip(self) -> tuple[int, int, int]:
        """Fewest frames, rows and columns that make the configured grid of patches."""
        grid = zip(self.patch_grid, self.patch_stride, strict=True)
        return tuple((size - 1) * step + 1 for size, step in grid)

    @property
    def other_clips(self) -> str:
        """How to come to a network for other clips."""
        return (
            f"Its positions are learned for {self.num_frames} frames of {self.image_size}x"
            f"{self.image_size}. For other clips make the model with num_frames and image_size: "
            "positions of its weights are then interpolated."
        )

    def check_clip(self, frames: int, rows: int, columns: int) -> None:
        """Refuse clips that make another grid of patches than the positions are for."""
        clip = (frames, rows, columns)
        if self._grid(clip) != self.patch_grid:
            most = [
                size * step for size, step in zip(self.patch_grid, self.patch_stride, strict=True)
            ]
            raise ValueError(
                f"pixel_values has {frames} frames of {rows}x{columns} pixels; this model takes "
                f"{self.smallest_clip[0]} to {most[0]} frames of {self.smallest_clip[1]} to "
                f"{most[1]} rows and columns. {self.other_clips}"
            )

    def key_value_strides(self, stage: int) -> list[int]:
        """Stride of keys and values in a stage."""
        steps = zip(self.key_value_stride, self.query_stride, strict=True)
        return [max(size // step**stage, 1) for size, step in steps]

    def drop_rate(self, stage: int, index: int) -> float:
        """Stochastic depth of a block."""
        position = sum(self.depths[:stage]) + index
        return self.stochastic_depth * position / max(sum(self.depths) - 1, 1)

    def validate_architecture(self) -> None:
        """Refuse even kernels, lists of other lengths and rates outside 0..1."""
        strides = ("patch_stride", "query_stride", "key_value_stride")
        check_lengths(self, dict.fromkeys(("patch_kernel", "pool_kernel", *strides), 3))
        check_odd([self.patch_kernel, self.pool_kernel])
        if min(self.depths, default=0) < 1:
            raise ValueError(f"depths is {self.depths}; every stage has at least one block.")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}.")
        if not 0 <= self.stochastic_depth < 1:
            raise ValueError(f"stochastic_depth is {self.stochastic_depth}; 0 to below 1.")
        if self.head_pool not in ("class_token", "mean", "max"):
            raise ValueError(f"head_pool is {self.head_pool!r}; allowed: class_token, mean, max.")


def init_attention_part(module: nn.Module, head_init_std: float) -> None:
    """Initialise a module as both originals do; only calls that skip what is loaded already.

    Linear layers, the class token and positions: normal, cut off at two units. The convolutions,
    of patches and of poolings, start as torch makes them: evenly within 1 / sqrt(fan in).
    """
    if isinstance(module, nn.Linear):
        init.trunc_normal_(module.weight, std=head_init_std)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, nn.Conv3d):
        bound = 1 / math.sqrt(module.weight[0].numel())
        init.uniform_(module.weight, -bound, bound)
        if module.bias is not None:
            init.uniform_(module.bias, -bound, bound)
    elif isinstance(module, SpatioTemporalClsPositionalEncoding | PositionalEncoding):
        for parameter in module.parameters():
            init.trunc_normal_(parameter, std=0.02)
    elif isinstance(module, MultiscaleAttention):
        for table in (module.rel_pos_h, module.rel_pos_w, module.rel_pos_t):
            init.trunc_normal_(table, std=0.02)


def make_token_pool(kind: str) -> nn.Module | None:
    """Pooling over the tokens' grid, None where the class token is taken."""
    return None if kind == "class_token" else make_head_pool(kind, ())


def _on_grid(tokens: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """(batch, 1 + t*h*w, channel) -> (batch, channel, t, h, w), without the class token."""
    return tokens[:, 1:].transpose(1, 2).unflatten(2, tuple(grid))


def run_stages(
    model: CTVideoBackbone, video: torch.Tensor, keep_states: bool
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    """Run stem, stages and last norm of ``model``; see CTVideoBackbone.forward_features.

    Where the model has no ``head_pool``, the pooled grid is the class token, at one position.
    """
    stem, *stages = model.blocks
    tokens, grid = stem(video), model.config.patch_grid
    states = [_on_grid(tokens, grid)] if keep_states else []
    for stage in stages:
        for layer in stage:
            tokens, grid = model.run_block(layer, tokens, tuple(grid))
        if keep_states:
            states.append(_on_grid(tokens, grid))
    tokens = model.norm(tokens)
    last, token = _on_grid(tokens, grid), tokens[:, 0, :, None, None, None]
    return last, token if model.head_pool is None else model.head_pool(last), tuple(states)
