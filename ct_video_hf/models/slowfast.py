"""SlowFast networks: one pathway with few frames and many channels, one the other way round.

Feichtenhofer et al., "SlowFast Networks for Video Recognition", arXiv 1812.03982. Composed of
pytorchvideo's builders; preset ``slowfast_r50`` is the network of its hub function, key for key.
Takes one ``pixel_values`` like every other backbone and picks the slow pathway's frames itself.
"""

import math
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from pytorchvideo.models.resnet import create_bottleneck_block
from pytorchvideo.models.slowfast import FastToSlowFusionBuilder
from torch import nn

from .base import CTVideoBackbone, CTVideoClassifier, CTVideoConfig
from .pooling import make_head_pool
from .records import Backbone, WeightRecord
from .resnet_parts import (
    check_head_pool,
    check_lengths,
    check_odd,
    make_stage,
    make_stem,
    smallest_window,
)

__all__ = [
    "BACKBONES",
    "CTSlowFastConfig",
    "CTSlowFastForVideoClassification",
    "CTSlowFastModel",
    "slow_frames",
]


@strict
class CTSlowFastConfig(CTVideoConfig):
    """Sizes of a SlowFast network; the defaults are SlowFast-R50.

    Kernels and strides are (frame, row, column).
    """

    model_type = "ct_slowfast"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "CTSlowFastModel",
        "AutoModelForVideoClassification": "CTSlowFastForVideoClassification",
    }

    #: The slow pathway sees every alpha-th frame.
    alpha: int = 4
    #: The fast pathway has 1/beta of the slow one's channels.
    beta: int = 8
    #: Channels of the slow pathway after the stem.
    stem_width: int = 64
    #: Kernels of the stems, slow and fast.
    stem_kernels: list[list[int]] | None = None
    #: Residual blocks in each stage, of both pathways.
    depths: list[int] | None = None
    #: Frames that the first convolution of a block spans, for each stage, slow and fast.
    temporal_kernels: list[list[int]] | None = None
    #: Stride over rows and columns at the start of each stage.
    spatial_strides: list[int] | None = None
    #: Frames that the convolution from the fast to the slow pathway spans.
    fusion_kernel: int = 7
    #: That convolution's output channels over its input channels.
    fusion_ratio: int = 2
    #: "published": average a window at stride 1 in each pathway; "mean" and "max" pool everything.
    head_pool: str = "published"
    #: Window of head_pool "published" in the fast pathway; the slow one's is 1/alpha as long.
    head_pool_kernel: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.depths is None:
            self.depths = [3, 4, 6, 3]
        stages = len(self.depths)
        late = [1] * (stages // 2) + [3] * (stages - stages // 2)
        defaults = {
            "stem_kernels": [[1, 7, 7], [5, 7, 7]],
            "temporal_kernels": [late, [3] * stages],
            "spatial_strides": [1] + [2] * (stages - 1),
            "head_pool_kernel": [32, 7, 7],
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        super().__post_init__(**kwargs)

    @property
    def widths(self) -> list[int]:
        """Channels of the slow pathway after each stage."""
        return [self.stem_width * 4 * 2**stage for stage in range(len(self.depths))]

    @property
    def feature_size(self) -> int:
        """Channels of both pathways after the last stage."""
        return self.widths[-1] + self.widths[-1] // self.beta

    @property
    def smallest_clip(self) -> tuple[int, int, int]:
        """Fewest frames, rows and columns that fill the head's windows."""
        if self.head_pool != "published":
            return (1, 1, 1)
        spatial = 4 * math.prod(self.spatial_strides)
        return smallest_window(self.head_pool_kernel, (1, spatial, spatial))

    def check_clip(self, frames: int, rows: int, columns: int) -> None:
        """Refuse lengths at which the published windows of the two pathways do not meet."""
        if self.head_pool == "published" and frames != self.head_pool_kernel[0]:
            raise ValueError(
                f"pixel_values has {frames} frames; with head_pool 'published' SlowFast takes "
                f"exactly {self.head_pool_kernel[0]}. head_pool='mean', the same network at that "
                "length, takes any number."
            )

    def validate_architecture(self) -> None:
        """Refuse lists of different lengths, even kernels and widths that do not divide."""
        check_lengths(self, {"spatial_strides": len(self.depths), "head_pool_kernel": 3})
        check_lengths(self, {"stem_kernels": 2, "temporal_kernels": 2})
        if any(len(kernels) != len(self.depths) for kernels in self.temporal_kernels):
            raise ValueError(
                f"temporal_kernels is {self.temporal_kernels}; {len(self.depths)} values for each "
                "pathway are expected."
            )
        check_odd([*self.stem_kernels, *self.temporal_kernels, [self.fusion_kernel]])
        check_head_pool(self.head_pool)
        if self.stem_width % self.beta:
            raise ValueError(f"stem_width {self.stem_width} is not a multiple of beta {self.beta}.")
        if self.head_pool_kernel[0] % self.alpha:
            raise ValueError(
                f"head_pool_kernel spans {self.head_pool_kernel[0]} frames, not a multiple of "
                f"alpha {self.alpha}."
            )


def slow_frames(frames: int, alpha: int) -> list[int]:
    """Indices of the slow pathway's frames: evenly from the first to the last, rounded down.

    Whole-number arithmetic: a traced ``linspace`` in float picks frame 30 instead of 31 of 32.
    """
    count = -(-frames // alpha)
    return [index * (frames - 1) // max(count - 1, 1) for index in range(count)]


class _Pathways(nn.Module):
    """A stage of both pathways and the way from the fast to the slow one.

    pytorchvideo's MultiPathWayWithFuse with the same keys; it takes two tensors instead of a list,
    so that it can be recomputed, and leaves its input alone.
    """

    def __init__(self, pathways: list[nn.Module], fusion: nn.Module) -> None:
        super().__init__()
        self.multipathway_blocks = nn.ModuleList(pathways)
        self.multipathway_fusion = fusion

    def forward(self, slow: torch.Tensor, fast: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        slow_block, fast_block = self.multipathway_blocks
        slow, fast = self.multipathway_fusion([slow_block(slow), fast_block(fast)])
        return slow, fast


def _fusion(config: CTSlowFastConfig, stage: int) -> nn.Module:
    """From fast to slow after the stem (stage 0) and after all stages but the last."""
    builder = FastToSlowFusionBuilder(
        slowfast_channel_reduction_ratio=config.beta,
        conv_fusion_channel_ratio=config.fusion_ratio,
        conv_kernel_size=(config.fusion_kernel, 1, 1),
        conv_stride=(config.alpha, 1, 1),
        max_stage_idx=len(config.depths) - 1,
    )
    width = config.stem_width if stage == 0 else config.widths[stage - 1]
    return builder.create_module(width, stage)


def _stem(config: CTSlowFastConfig) -> nn.Module:
    widths = (config.stem_width, config.stem_width // config.beta)
    stems = [
        make_stem(config.num_channels, width, kernel, (1, 2, 2), (1, 2, 2))
        for width, kernel in zip(widths, config.stem_kernels, strict=True)
    ]
    return _Pathways(stems, _fusion(config, 0))


def _stage(config: CTSlowFastConfig, stage: int) -> nn.Module:
    before = config.stem_width if stage == 0 else config.widths[stage - 1]
    fused = before + before * config.fusion_ratio // config.beta
    width, spatial = config.widths[stage], config.spatial_strides[stage]
    sizes = ((fused, width), (before // config.beta, width // config.beta))
    pathways = []
    for (dim_in, dim_out), kernels in zip(sizes, config.temporal_kernels, strict=True):
        pathways.append(
            make_stage(
                depth=config.depths[stage],
                dim_in=dim_in,
                dim_inner=dim_out // 4,
                dim_out=dim_out,
                bottleneck=create_bottleneck_block,
                conv_a_kernel_size=(kernels[stage], 1, 1),
                conv_a_stride=(1, 1, 1),
                conv_a_padding=(kernels[stage] // 2, 0, 0),
                conv_b_kernel_size=(1, 3, 3),
                conv_b_stride=(1, spatial, spatial),
                conv_b_padding=(0, 1, 1),
            )
        )
    return _Pathways(pathways, _fusion(config, stage + 1))


class CTSlowFastModel(CTVideoBackbone):
    """A SlowFast network without classifier.

    ``hidden_states`` holds the slow and the fast tensor after the stem and after each stage, in
    turn. ``last_hidden_state`` is both pathways on the slow one's grid, the fast one averaged.
    """

    config_class = CTSlowFastConfig

    def __init__(self, config: CTSlowFastConfig) -> None:
        super().__init__(config)
        stages = [_stage(config, stage) for stage in range(len(config.depths))]
        self.blocks = nn.ModuleList([_stem(config), *stages])
        frames, rows, columns = config.head_pool_kernel
        windows = ((frames // config.alpha, rows, columns), (frames, rows, columns))
        self.head_pool = nn.ModuleList(
            [make_head_pool(config.head_pool, window) for window in windows]
        )
        self.post_init()

    def forward_features(
        self, video: torch.Tensor, keep_states: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        """Run both pathways, see :meth:`.base.CTVideoBackbone.forward_features`."""
        slow, fast = video[:, :, slow_frames(video.shape[2], self.config.alpha)], video
        states: list[torch.Tensor] = []
        for block in self.blocks:
            slow, fast = self.run_block(block, slow, fast)
            if keep_states:
                states += [slow, fast]
        pooled = [pool(path) for pool, path in zip(self.head_pool, (slow, fast), strict=True)]
        on_slow_grid = nn.functional.adaptive_avg_pool3d(fast, slow.shape[2:])
        return torch.cat([slow, on_slow_grid], 1), torch.cat(pooled, 1), tuple(states)

    def pool_last(self, last: torch.Tensor) -> torch.Tensor:
        """Pool both pathways on the slow one's grid: the same for averages, close for "max"."""
        return self.head_pool[0](last)


class CTSlowFastForVideoClassification(CTVideoClassifier):
    """A SlowFast network with a classifier."""

    config_class = CTSlowFastConfig
    backbone_class = CTSlowFastModel


CTSlowFastConfig.register_for_auto_class()
CTSlowFastModel.register_for_auto_class("AutoModel")
CTSlowFastForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")

BACKBONES = (
    Backbone(
        name="slowfast_r50",
        config_class=CTSlowFastConfig,
        model_class=CTSlowFastModel,
        classifier_class=CTSlowFastForVideoClassification,
        overrides={},
        tiny={
            "stem_width": 16,
            "depths": [1, 1, 1],
            "num_frames": 8,
            "image_size": 32,
            "head_pool_kernel": [8, 2, 2],
        },
        tiny_clip=(8, 32, 32),
        key_map=(("blocks.6.proj.", "classifier."), ("blocks.", "backbone.blocks.")),
        input_keys=(
            "backbone.blocks.0.multipathway_blocks.0.conv.weight",
            "backbone.blocks.0.multipathway_blocks.1.conv.weight",
        ),
        weights={
            "kinetics": WeightRecord(
                url="https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/"
                "SLOWFAST_8x8_R50.pyth",
                sha256=None,
                code_license="Apache-2.0",
                weight_license="not stated apart from the code's Apache-2.0",
                origin="Kinetics-400 videos",
                frames=32,
                stride=2,
                image_size=224,
                mean=(0.45, 0.45, 0.45),
                std=(0.225, 0.225, 0.225),
                labels=400,
                top1=76.94,
                protocol="pytorchvideo model zoo: 10 temporal x 3 spatial views",
                paper="arXiv 1812.03982",
            )
        },
        million_parameters=34.566,
    ),
)
