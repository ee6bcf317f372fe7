"""Channel-separated networks: channels mix in 1x1x1 convolutions, space and time in depthwise ones.

Tran et al., "Video Classification with Channel-Separated Convolutional Networks", arXiv 1904.02811.
Composed of pytorchvideo's builders; preset ``csn_r101`` is the network of its hub function, key for
key. Depthwise 3D convolutions are slow on a CPU.
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

__all__ = ["BACKBONES", "CTCSNConfig", "CTCSNForVideoClassification", "CTCSNModel"]


@strict
class CTCSNConfig(CTVideoConfig):
    """Sizes of a channel-separated network; the defaults are CSN-R101.

    Kernels and strides are (frame, row, column).
    """

    model_type = "ct_csn"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "CTCSNModel",
        "AutoModelForVideoClassification": "CTCSNForVideoClassification",
    }

    #: Probability of zeroing a feature before the classifier while training; published: none.
    dropout: float | int = 0.0
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
    #: Channels in a group of a block's middle convolution; 1 is depthwise.
    group_width: int = 1
    #: Kernel of a block's middle convolution, for each stage.
    kernels: list[list[int]] | None = None
    #: Stride over frames at the start of each stage.
    temporal_strides: list[int] | None = None
    #: Stride over rows and columns at the start of each stage.
    spatial_strides: list[int] | None = None
    #: "batch" or "group".
    norm: str = "batch"
    #: Channels in one group of norm "group".
    norm_group_channels: int = 8
    #: "published": average a window of head_pool_kernel at stride 1, classify, average; "mean" and
    #: "max" pool everything before the classifier.
    head_pool: str = "published"
    #: Window of head_pool "published".
    head_pool_kernel: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.depths is None:
            self.depths = [3, 4, 23, 3]
        stages = len(self.depths)
        defaults = {
            "stem_kernel": [3, 7, 7],
            "stem_stride": [1, 2, 2],
            "stem_pool_stride": [1, 2, 2],
            "widths": [self.stem_width * 4 * 2**stage for stage in range(stages)],
            "kernels": [[3, 3, 3] for _ in range(stages)],
            "temporal_strides": [1] + [2] * (stages - 1),
            "spatial_strides": [1] + [2] * (stages - 1),
            "head_pool_kernel": [4, 7, 7],
        }
        for name, value in defaults.items():
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
        per_stage = ("widths", "kernels", "temporal_strides", "spatial_strides")
        triples = ("stem_kernel", "stem_stride", "stem_pool_stride", "head_pool_kernel")
        check_lengths(self, dict.fromkeys(per_stage, len(self.depths)))
        check_lengths(self, dict.fromkeys(triples, 3))
        check_odd([self.stem_kernel, *self.kernels])
        check_head_pool(self.head_pool)
        norm_builder(self.norm)
        for width in self.widths:
            if width % (self.bottleneck * self.group_width):
                raise ValueError(
                    f"A stage's width {width} is not a multiple of bottleneck {self.bottleneck} "
                    f"times group_width {self.group_width}."
                )


def _stage(config: CTCSNConfig, stage: int) -> nn.Module:
    kernel, spatial = config.kernels[stage], config.spatial_strides[stage]
    inner = config.widths[stage] // config.bottleneck
    return make_stage(
        depth=config.depths[stage],
        dim_in=config.stem_width if stage == 0 else config.widths[stage - 1],
        dim_inner=inner,
        dim_out=config.widths[stage],
        bottleneck=create_bottleneck_block,
        conv_a_kernel_size=(1, 1, 1),
        conv_a_stride=(1, 1, 1),
        conv_a_padding=(0, 0, 0),
        conv_b_kernel_size=tuple(kernel),
        conv_b_stride=(config.temporal_strides[stage], spatial, spatial),
        conv_b_padding=tuple(size // 2 for size in kernel),
        conv_b_num_groups=inner // config.group_width,
        norm=norm_builder(config.norm, config.norm_group_channels),
    )


class CTCSNModel(CTVideoBackbone):
    """A channel-separated network without classifier."""

    config_class = CTCSNConfig

    def __init__(self, config: CTCSNConfig) -> None:
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
        self.post_init()

    @property
    def slice_stages(self) -> int:
        """Up to the first kernel or stride over slices; as published that is in the stem."""
        config = self.config
        if config.norm != "batch":
            return 0
        stem = (config.stem_kernel[0], config.stem_stride[0], config.stem_pool_stride[0])
        kernels = [kernel[0] for kernel in config.kernels]
        stages = zip(kernels, config.temporal_strides, strict=True)
        return leading_slice_stages([stem, *stages])


class CTCSNForVideoClassification(CTVideoClassifier):
    """A channel-separated network with a classifier."""

    config_class = CTCSNConfig
    backbone_class = CTCSNModel


CTCSNConfig.register_for_auto_class()
CTCSNModel.register_for_auto_class("AutoModel")
CTCSNForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")

_CSN_R101_KINETICS = WeightRecord(
    url="https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/CSN_32x2_R101.pyth",
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
    top1=77.0,
    protocol="pytorchvideo model zoo: 10 temporal x 3 spatial views",
    paper="arXiv 1904.02811",
)

BACKBONES = (
    Backbone(
        name="csn_r101",
        config_class=CTCSNConfig,
        model_class=CTCSNModel,
        classifier_class=CTCSNForVideoClassification,
        overrides={},
        tiny={
            "stem_width": 4,
            "depths": [1, 2, 1, 1],
            "widths": [8, 16, 16, 24],
            "head_pool_kernel": [2, 1, 1],
            "num_frames": 16,
            "image_size": 32,
        },
        tiny_clip=(16, 32, 32),
        key_map=(("blocks.5.proj.", "classifier."), ("blocks.", "backbone.blocks.")),
        input_keys=("backbone.blocks.0.conv.weight",),
        weights={"kinetics": _CSN_R101_KINETICS},
        million_parameters=22.214,
    ),
)
