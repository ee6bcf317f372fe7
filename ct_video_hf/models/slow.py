"""Slow networks: 3D ResNets that look across slices mainly in their late stages.

Feichtenhofer et al., "SlowFast Networks for Video Recognition", arXiv 1812.03982. Composed of
pytorchvideo's builders; preset ``slow_r50`` is the network of its hub function, key for key.
"""

import math
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from pytorchvideo.models.resnet import create_bottleneck_block
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
    norm_builder,
    smallest_window,
)
from .slices import leading_slice_stages

__all__ = ["BACKBONES", "CTSlowConfig", "CTSlowForVideoClassification", "CTSlowModel"]


@strict
class CTSlowConfig(CTVideoConfig):
    """Sizes of a Slow network; the defaults are Slow-R50.

    Kernels and strides are (frame, row, column).
    """

    model_type = "ct_slow"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "CTSlowModel",
        "AutoModelForVideoClassification": "CTSlowForVideoClassification",
    }

    #: Channels after the stem.
    stem_width: int = 64
    #: Kernel of the stem's convolution; sizes are odd.
    stem_kernel: list[int] | None = None
    #: Stride of the stem's convolution.
    stem_stride: list[int] | None = None
    #: Stride of the stem's max pooling, [1, 1, 1] for none; its kernel is 3 where it strides.
    stem_pool_stride: list[int] | None = None
    #: Residual blocks in each stage.
    depths: list[int] | None = None
    #: Channels after each stage; None starts at 4 x stem_width and doubles.
    widths: list[int] | None = None
    #: A block's inner channels are its stage's width divided by this.
    bottleneck: int = 4
    #: Frames that the first convolution of a block spans, for each stage.
    temporal_kernels: list[int] | None = None
    #: Kernel of a block's middle convolution, for each stage.
    spatial_kernels: list[list[int]] | None = None
    #: Stride over frames at the start of each stage.
    temporal_strides: list[int] | None = None
    #: Stride over rows and columns at the start of each stage.
    spatial_strides: list[int] | None = None
    #: Groups of the middle convolution, for each stage (above 1: ResNeXt).
    groups: list[int] | None = None
    #: "batch" or "group".
    norm: str = "batch"
    #: Channels in one group of norm "group".
    norm_group_channels: int = 8
    #: Start the last norm of every block at zero, as published.
    zero_init_last_norm: bool = True
    #: "published": average a window of head_pool_kernel at stride 1, classify, average; "mean" and
    #: "max" pool everything before the classifier.
    head_pool: str = "published"
    #: Window of head_pool "published".
    head_pool_kernel: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        defaults = {
            "stem_kernel": [1, 7, 7],
            "stem_stride": [1, 2, 2],
            "stem_pool_stride": [1, 2, 2],
            "depths": [3, 4, 6, 3],
            "head_pool_kernel": [8, 7, 7],
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        stages = len(self.depths)
        late = [1] * (stages // 2) + [3] * (stages - stages // 2)
        per_stage = {
            "widths": [self.stem_width * 4 * 2**stage for stage in range(stages)],
            "temporal_kernels": late,
            "spatial_kernels": [[1, 3, 3] for _ in range(stages)],
            "temporal_strides": [1] * stages,
            "spatial_strides": [1] + [2] * (stages - 1),
            "groups": [1] * stages,
        }
        for name, value in per_stage.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        super().__post_init__(**kwargs)

    @property
    def feature_size(self) -> int:
        """Channels of the last stage."""
        return self.widths[-1]

    @property
    def smallest_clip(self) -> tuple[int, int, int]:
        """Fewest frames, rows and columns that fill the head's window."""
        if self.head_pool != "published":
            return (1, 1, 1)
        spatial = math.prod(self.spatial_strides)
        stages = (math.prod(self.temporal_strides), spatial, spatial)
        steps = zip(self.stem_stride, self.stem_pool_stride, stages, strict=True)
        return smallest_window(self.head_pool_kernel, [math.prod(step) for step in steps])

    def validate_architecture(self) -> None:
        """Refuse lists of different lengths, even kernels and widths that do not divide."""
        per_stage = ("widths", "temporal_kernels", "spatial_kernels", "groups")
        strides = ("temporal_strides", "spatial_strides")
        triples = ("stem_kernel", "stem_stride", "stem_pool_stride", "head_pool_kernel")
        check_lengths(self, dict.fromkeys(per_stage + strides, len(self.depths)))
        check_lengths(self, dict.fromkeys(triples, 3))
        check_odd([self.stem_kernel, self.temporal_kernels, *self.spatial_kernels])
        check_head_pool(self.head_pool)
        norm_builder(self.norm)
        for width, groups in zip(self.widths, self.groups, strict=True):
            if width % (self.bottleneck * groups):
                raise ValueError(
                    f"A stage's width {width} is not a multiple of bottleneck {self.bottleneck} "
                    f"times groups {groups}."
                )


def _stage(config: CTSlowConfig, stage: int) -> nn.Module:
    frames, kernel = config.temporal_kernels[stage], config.spatial_kernels[stage]
    spatial = config.spatial_strides[stage]
    return make_stage(
        depth=config.depths[stage],
        dim_in=config.stem_width if stage == 0 else config.widths[stage - 1],
        dim_inner=config.widths[stage] // config.bottleneck,
        dim_out=config.widths[stage],
        bottleneck=create_bottleneck_block,
        conv_a_kernel_size=(frames, 1, 1),
        conv_a_stride=(config.temporal_strides[stage], 1, 1),
        conv_a_padding=(frames // 2, 0, 0),
        conv_b_kernel_size=tuple(kernel),
        conv_b_stride=(1, spatial, spatial),
        conv_b_padding=tuple(size // 2 for size in kernel),
        conv_b_num_groups=config.groups[stage],
        norm=norm_builder(config.norm, config.norm_group_channels),
    )


class CTSlowModel(CTVideoBackbone):
    """A Slow network without classifier."""

    config_class = CTSlowConfig

    def __init__(self, config: CTSlowConfig) -> None:
        super().__init__(config)
        stem = make_stem(
            config.num_channels,
            config.stem_width,
            config.stem_kernel,
            config.stem_stride,
            config.stem_pool_stride,
            norm_builder(config.norm, config.norm_group_channels),
        )
        stages = [_stage(config, stage) for stage in range(len(config.depths))]
        self.blocks = nn.ModuleList([stem, *stages])
        self.head_pool = make_head_pool(config.head_pool, config.head_pool_kernel)
        if not config.zero_init_last_norm:
            for module in self.modules():
                if hasattr(module, "block_final_bn"):
                    module.block_final_bn = False
        self.post_init()

    @property
    def slice_stages(self) -> int:
        """Up to the first kernel or stride over slices; of Slow-R50 the stem and two stages."""
        config = self.config
        if config.norm != "batch":
            return 0
        stem = (config.stem_kernel[0], config.stem_stride[0], config.stem_pool_stride[0])
        middle = [kernel[0] for kernel in config.spatial_kernels]
        stages = zip(config.temporal_kernels, middle, config.temporal_strides, strict=True)
        return leading_slice_stages([stem, *stages])


class CTSlowForVideoClassification(CTVideoClassifier):
    """A Slow network with a classifier."""

    config_class = CTSlowConfig
    backbone_class = CTSlowModel


CTSlowConfig.register_for_auto_class()
CTSlowModel.register_for_auto_class("AutoModel")
CTSlowForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")

_KEY_MAP = (("blocks.5.proj.", "classifier."), ("blocks.", "backbone.blocks."))

_SLOW_R50_KINETICS = WeightRecord(
    url="https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/SLOW_8x8_R50.pyth",
    sha256=None,
    code_license="Apache-2.0",
    weight_license="not stated apart from the code's Apache-2.0",
    origin="Kinetics-400 videos",
    frames=8,
    stride=8,
    image_size=224,
    mean=(0.45, 0.45, 0.45),
    std=(0.225, 0.225, 0.225),
    labels=400,
    top1=74.58,
    protocol="pytorchvideo model zoo: 10 temporal x 3 spatial views",
    paper="arXiv 1812.03982",
)

# Small enough to learn from scratch on one CPU core: no stride over slices, kernels over slices in
# every stage, half the in-plane resolution until the second stage (a nodule of the phantom is a few
# pixels wide: with a stride in the first stage the network did not learn it in 150 steps), and a
# maximum over all positions, so that one nodule decides a clip's score. scripts/quickstart.py
# trains it and prints how well it does.
_SLOW_TINY = {
    "num_frames": 16,
    "image_size": 64,
    "num_channels": 1,
    "stem_width": 8,
    "stem_kernel": [3, 5, 5],
    "stem_stride": [1, 2, 2],
    "stem_pool_stride": [1, 1, 1],
    "depths": [1, 1, 1],
    "widths": [32, 32, 32],
    "bottleneck": 2,
    "temporal_kernels": [3, 3, 3],
    "spatial_strides": [1, 2, 1],
    "dropout": 0.0,
    "head_pool": "max",
}

_TINY_TEST = {
    "stem_width": 4,
    "depths": [1, 2, 1, 1],
    "widths": [8, 16, 16, 24],
    "head_pool_kernel": [2, 1, 1],
    "num_frames": 4,
    "image_size": 32,
}

BACKBONES = (
    Backbone(
        name="slow_r50",
        config_class=CTSlowConfig,
        model_class=CTSlowModel,
        classifier_class=CTSlowForVideoClassification,
        overrides={},
        tiny=_TINY_TEST,
        tiny_clip=(4, 32, 32),
        key_map=_KEY_MAP,
        input_keys=("backbone.blocks.0.conv.weight",),
        weights={"kinetics": _SLOW_R50_KINETICS},
        million_parameters=32.454,
    ),
    Backbone(
        name="slow_tiny",
        config_class=CTSlowConfig,
        model_class=CTSlowModel,
        classifier_class=CTSlowForVideoClassification,
        overrides=_SLOW_TINY,
        tiny={"stem_width": 4, "widths": [8, 8, 8], "num_frames": 4, "image_size": 16},
        tiny_clip=(4, 16, 16),
        input_keys=("backbone.blocks.0.conv.weight",),
    ),
    # The control that cannot see across slices: the same network, every kernel one frame long.
    Backbone(
        name="slow_tiny_2d",
        config_class=CTSlowConfig,
        model_class=CTSlowModel,
        classifier_class=CTSlowForVideoClassification,
        overrides=_SLOW_TINY | {"stem_kernel": [1, 5, 5], "temporal_kernels": [1, 1, 1]},
        tiny={"stem_width": 4, "widths": [8, 8, 8], "num_frames": 4, "image_size": 16},
        tiny_clip=(4, 16, 16),
        input_keys=("backbone.blocks.0.conv.weight",),
    ),
)
