"""What both generations of MViT have in common: sizes, initialisation, and the run over stages."""

import math
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from pytorchvideo.layers import SpatioTemporalClsPositionalEncoding
from torch import nn
from torchvision.models.video.mvit import MultiscaleAttention, PositionalEncoding
from transformers import initialization as init

from .base import CTVideoBackbone, CTVideoConfig, CTVideoModelOutput
from .pooling import make_head_pool
from .resnet_parts import check_lengths, check_odd

__all__ = ["CTMultiscaleBackbone", "CTMultiscaleConfig", "CTMultiscaleInit"]


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


def _init_part(module: nn.Module, head_init_std: float) -> None:
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


class CTMultiscaleInit:
    """Initialises networks of this kind; stands before a class of transformers."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        _init_part(module, self.config.head_init_std)


def _on_grid(tokens: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """(batch, 1 + t*h*w, channel) -> (batch, channel, t, h, w), without the class token."""
    return tokens[:, 1:].transpose(1, 2).unflatten(2, tuple(grid))


class CTMultiscaleBackbone(CTMultiscaleInit, CTVideoBackbone):
    """Tokens through stem, stages and a last norm; subclasses build the stem and the layers.

    ``pooler_output`` is the class token after the last norm (or what ``head_pool`` says),
    ``last_hidden_state`` the other tokens on their grid.
    """

    def __init__(self, config: CTMultiscaleConfig) -> None:
        super().__init__(config)
        stages = [
            nn.ModuleList([self.make_layer(config, stage, index) for index in range(depth)])
            for stage, depth in enumerate(config.depths)
        ]
        self.blocks = nn.ModuleList([self.make_stem(config), *stages])
        self.norm = nn.LayerNorm(config.feature_size, eps=1e-6)
        kind = config.head_pool
        self.head_pool = None if kind == "class_token" else make_head_pool(kind, ())
        self.post_init()

    @staticmethod
    def make_stem(config: Any) -> nn.Module:
        """Clip to tokens (batch, 1 + t*h*w, channel)."""
        raise NotImplementedError

    @staticmethod
    def make_layer(config: Any, stage: int, index: int) -> nn.Module:
        """A block: tokens, grid -> tokens, grid."""
        raise NotImplementedError

    def forward_features(
        self, video: torch.Tensor, keep_states: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        """Run the network, see :meth:`.base.CTVideoBackbone.forward_features`."""
        stem, *stages = self.blocks
        tokens, grid = stem(video), self.config.patch_grid
        states = [_on_grid(tokens, grid)] if keep_states else []
        for stage in stages:
            for layer in stage:
                tokens, grid = self.run_block(layer, tokens, tuple(grid))
            if keep_states:
                states.append(_on_grid(tokens, grid))
        last, pooled = self._finish(tokens, grid)
        return last, pooled, tuple(states)

    def to_explain(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As :meth:`.base.CTVideoBackbone.to_explain`; a class token looks at tokens in blocks.

        Then tokens before the last block and, on their grid, what its attention sees, after its
        norm: before a norm gradient times feature is zero, for a norm does not see the length of
        what it gets.
        """
        if self.head_pool is not None:
            return super().to_explain(pixel_values)
        *layers, final = (layer for stage in self.blocks[1:] for layer in stage)
        tokens = self.blocks[0](self.check_pixel_values(pixel_values).transpose(1, 2))
        size: Any = self.config.patch_grid
        for layer in layers:
            tokens, size = layer(tokens, tuple(size))
        return tokens, _on_grid(final.norm1(tokens), size).contiguous()

    def explain_from(
        self, last: torch.Tensor, pooled_grid: torch.Tensor
    ) -> tuple[CTVideoModelOutput, torch.Tensor, torch.Tensor]:
        """As :meth:`.base.CTVideoBackbone.explain_from`, from what :meth:`to_explain` gave."""
        if self.head_pool is not None:
            return super().explain_from(last, pooled_grid)
        tokens, normed = last, pooled_grid
        final = self.blocks[-1][-1]
        with torch.no_grad():
            token = final.norm1(tokens[:, :1])
        with torch.enable_grad():
            grid = normed.detach().requires_grad_()
            seen = torch.cat([token, grid.flatten(2).transpose(1, 2)], 1)
            swap = final.norm1.register_forward_hook(lambda *_: seen)
            try:
                last, pooled = self._finish(*final(tokens, tuple(grid.shape[2:])))
            finally:
                swap.remove()
        features = CTVideoModelOutput(
            last_hidden_state=last.detach(),
            pooler_output=pooled.detach().mean((2, 3, 4)),
            pooled_grid=pooled.detach(),
        )
        return features, grid, pooled

    def _finish(self, tokens: torch.Tensor, grid: Any) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.norm(tokens)
        last, token = _on_grid(tokens, grid), tokens[:, 0, :, None, None, None]
        return last, token if self.head_pool is None else self.head_pool(last)
