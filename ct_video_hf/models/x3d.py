"""X3D networks: small, with depthwise 3x3x3 convolutions in every block.

Feichtenhofer, "X3D: Expanding Architectures for Efficient Video Recognition", arXiv 2004.04730.
Composed of pytorchvideo's builders; presets ``x3d_s`` and ``x3d_m`` are the networks of its hub
functions, key for key, with logits where those apply a softmax. Depthwise 3D convolutions are slow
on a CPU.
"""

import math
import operator
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from pytorchvideo.layers.utils import round_repeats, round_width
from pytorchvideo.models.x3d import create_x3d_head, create_x3d_res_stage, create_x3d_stem
from torch import nn

from .base import CTVideoBackbone, CTVideoClassifier, CTVideoConfig
from .pooling import make_head_pool
from .records import Backbone, WeightRecord
from .resnet_parts import check_head_pool, check_lengths, check_odd, smallest_window

__all__ = ["BACKBONES", "CTX3DConfig", "CTX3DForVideoClassification", "CTX3DModel"]


@strict
class CTX3DConfig(CTVideoConfig):
    """Sizes of an X3D network; the defaults are X3D-S.

    Kernels and strides are (frame, row, column).
    """

    model_type = "ct_x3d"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "CTX3DModel",
        "AutoModelForVideoClassification": "CTX3DForVideoClassification",
    }

    num_frames: int = 13
    image_size: int = 160
    #: Channels of the stem before width_factor.
    stem_width: int = 12
    #: Kernel of the stem: rows and columns first, frames in a second, depthwise convolution.
    stem_kernel: list[int] | None = None
    #: Stride of the stem.
    stem_stride: list[int] | None = None
    #: Residual blocks in each stage before depth_factor.
    depths: list[int] | None = None
    #: Multiplies all channels.
    width_factor: float | int = 2.0
    #: Multiplies the blocks of every stage.
    depth_factor: float | int = 2.2
    #: A block's inner channels are its outer ones times this.
    bottleneck_factor: float | int = 2.25
    #: Channels of the squeeze-and-excitation over those of the block, 0 for none.
    se_ratio: float | int = 0.0625
    #: Kernel of the depthwise convolution, for each stage.
    kernels: list[list[int]] | None = None
    #: Stride over rows and columns at the start of each stage.
    spatial_strides: list[int] | None = None
    #: Stride over frames at the start of each stage.
    temporal_strides: list[int] | None = None
    #: Length of the pooled features.
    head_width: int = 2048
    #: Start the last norm of every block at zero, as published.
    zero_init_last_norm: bool = True
    #: "published": average a window of head_pool_kernel at stride 1, classify, average; "mean" and
    #: "max" pool everything before the last two layers.
    head_pool: str = "published"
    #: Window of head_pool "published".
    head_pool_kernel: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.depths is None:
            self.depths = [1, 2, 5, 3]
        stages = len(self.depths)
        defaults = {
            "stem_kernel": [5, 3, 3],
            "stem_stride": [1, 2, 2],
            "kernels": [[3, 3, 3] for _ in range(stages)],
            "spatial_strides": [2] * stages,
            "temporal_strides": [1] * stages,
            "head_pool_kernel": [13, 5, 5],
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        super().__post_init__(**kwargs)

    @property
    def stage_widths(self) -> list[int]:
        """Channels after each stage, by the paper's rounding to multiples of 8."""
        widths = [self.stem_width]
        for _ in self.depths[1:]:
            widths.append(round_width(widths[-1], 2.0, divisor=8))
        return [round_width(width, self.width_factor) for width in widths]

    @property
    def feature_size(self) -> int:
        """Length of the pooled features."""
        return self.head_width

    @property
    def smallest_clip(self) -> tuple[int, int, int]:
        """Fewest frames, rows and columns that fill the head's window."""
        if self.head_pool != "published":
            return (1, 1, 1)
        spatial = math.prod(self.spatial_strides)
        strides = (math.prod(self.temporal_strides), spatial, spatial)
        total = [stem * stage for stem, stage in zip(self.stem_stride, strides, strict=True)]
        return smallest_window(self.head_pool_kernel, total)

    def validate_architecture(self) -> None:
        """Refuse lists of different lengths and even kernels."""
        per_stage = ("kernels", "spatial_strides", "temporal_strides")
        triples = ("stem_kernel", "stem_stride", "head_pool_kernel")
        check_lengths(self, dict.fromkeys(per_stage, len(self.depths)))
        check_lengths(self, dict.fromkeys(triples, 3))
        check_odd([self.stem_kernel, *self.kernels])
        check_head_pool(self.head_pool)


class CTX3DModel(CTVideoBackbone):
    """An X3D network without classifier."""

    config_class = CTX3DConfig

    def __init__(self, config: CTX3DConfig) -> None:
        super().__init__(config)
        widths = config.stage_widths
        inner = [int(config.bottleneck_factor * width) for width in widths]
        stem_width = round_width(config.stem_width, config.width_factor)
        blocks = [
            create_x3d_stem(
                in_channels=config.num_channels,
                out_channels=stem_width,
                conv_kernel_size=tuple(config.stem_kernel),
                conv_stride=tuple(config.stem_stride),
                conv_padding=tuple(size // 2 for size in config.stem_kernel),
            )
        ]
        for stage, depth in enumerate(config.depths):
            spatial = config.spatial_strides[stage]
            blocks.append(
                create_x3d_res_stage(
                    depth=round_repeats(depth, config.depth_factor),
                    dim_in=stem_width if stage == 0 else widths[stage - 1],
                    dim_inner=inner[stage],
                    dim_out=widths[stage],
                    conv_kernel_size=tuple(config.kernels[stage]),
                    conv_stride=(config.temporal_strides[stage], spatial, spatial),
                    se_ratio=config.se_ratio,
                )
            )
        self.blocks = nn.ModuleList(blocks)
        head = create_x3d_head(
            dim_in=widths[-1], dim_inner=inner[-1], dim_out=config.head_width, num_classes=1
        )
        self.head_pool = head.pool  # its classifier is not used: CTVideoClassifier has its own
        self.head_pool.pool = make_head_pool(config.head_pool, config.head_pool_kernel)
        for module in self.modules():
            if hasattr(module, "branch_fusion"):
                module.branch_fusion = operator.add  # the builder's lambda cannot be pickled
            if hasattr(module, "block_final_bn"):
                module.block_final_bn = config.zero_init_last_norm
        self.post_init()


class CTX3DForVideoClassification(CTVideoClassifier):
    """An X3D network with a classifier."""

    config_class = CTX3DConfig
    backbone_class = CTX3DModel


CTX3DConfig.register_for_auto_class()
CTX3DModel.register_for_auto_class("AutoModel")
CTX3DForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")

_KEY_MAP = (
    ("blocks.5.proj.", "classifier."),
    ("blocks.5.pool.", "backbone.head_pool."),
    ("blocks.", "backbone.blocks."),
)


def _kinetics(file: str, frames: int, stride: int, image_size: int, top1: float) -> WeightRecord:
    return WeightRecord(
        url=f"https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/{file}",
        sha256=None,
        code_license="Apache-2.0",
        weight_license="not stated apart from the code's Apache-2.0",
        origin="Kinetics-400 videos",
        frames=frames,
        stride=stride,
        image_size=image_size,
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
        labels=400,
        top1=top1,
        protocol="pytorchvideo model zoo: 10 temporal x 3 spatial views",
        paper="arXiv 2004.04730",
    )


_X3D_TINY = {
    "num_frames": 16,
    "image_size": 64,
    "num_channels": 1,
    "depths": [1, 1, 2, 1],
    "depth_factor": 1.0,
    "stem_width": 8,
    "width_factor": 1.0,
    "spatial_strides": [1, 2, 2, 1],
    "head_width": 128,
    "head_pool": "max",
}

_TINY_TEST = {
    "num_frames": 4,
    "image_size": 32,
    "depths": [1, 1, 1, 1],
    "depth_factor": 1.0,
    "stem_width": 8,
    "width_factor": 1.0,
    "head_width": 32,
    "head_pool_kernel": [2, 1, 1],
}


def _preset(name: str, overrides: dict[str, Any], **more: Any) -> Backbone:
    return Backbone(
        name=name,
        config_class=CTX3DConfig,
        model_class=CTX3DModel,
        classifier_class=CTX3DForVideoClassification,
        overrides=overrides,
        input_keys=("backbone.blocks.0.conv.conv_t.weight",),
        **more,
    )


BACKBONES = (
    _preset(
        "x3d_s",
        {},
        tiny=_TINY_TEST,
        tiny_clip=(4, 32, 32),
        key_map=_KEY_MAP,
        weights={"kinetics": _kinetics("X3D_S.pyth", 13, 6, 160, 73.33)},
        million_parameters=3.794,
    ),
    _preset(
        "x3d_m",
        {"num_frames": 16, "image_size": 224, "head_pool_kernel": [16, 7, 7]},
        tiny=_TINY_TEST,
        tiny_clip=(4, 32, 32),
        key_map=_KEY_MAP,
        weights={"kinetics": _kinetics("X3D_M.pyth", 16, 5, 224, 75.94)},
        million_parameters=3.794,
    ),
    _preset("x3d_tiny", _X3D_TINY, tiny={"num_frames": 4, "image_size": 32}, tiny_clip=(4, 32, 32)),
)
