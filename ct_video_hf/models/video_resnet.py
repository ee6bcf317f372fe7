"""The 18-layer 3D ResNets: R3D, MC3 and R(2+1)D.

Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition",
arXiv 1711.11248. Composed of torchvision's blocks; the presets are torchvision's networks of the
same names.
"""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from torch import nn
from torchvision.models.video.resnet import (
    BasicBlock,
    Conv2Plus1D,
    Conv3DNoTemporal,
    Conv3DSimple,
)

from .base import CTVideoBackbone, CTVideoClassifier, CTVideoConfig
from .pooling import make_head_pool
from .records import Backbone, WeightRecord

__all__ = [
    "BACKBONES",
    "CTVideoResNetConfig",
    "CTVideoResNetForVideoClassification",
    "CTVideoResNetModel",
]

_CONVOLUTIONS = {"3d": Conv3DSimple, "2d": Conv3DNoTemporal, "2plus1d": Conv2Plus1D}


@strict
class CTVideoResNetConfig(CTVideoConfig):
    """Sizes of an 18-layer-style 3D ResNet; the defaults are R3D-18."""

    model_type = "ct_video_resnet"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "CTVideoResNetModel",
        "AutoModelForVideoClassification": "CTVideoResNetForVideoClassification",
    }

    num_frames: int = 16
    image_size: int = 112
    dropout: float | int = 0.0
    #: "3d" for one stem convolution over 3 frames, "2plus1d" for rows and columns, then frames.
    stem: str = "3d"
    #: Channels between the two convolutions of stem "2plus1d".
    stem_inner_width: int = 45
    #: Convolutions of each stage: "3d", "2d" (no kernel over frames) or "2plus1d".
    convolutions: list[str] | None = None
    #: Residual blocks in each stage.
    depths: list[int] | None = None
    #: Channels of each stage; the stem has those of the first.
    widths: list[int] | None = None
    #: "mean" (published) or "max" over all positions before the classifier.
    head_pool: str = "mean"

    def __post_init__(self, **kwargs: Any) -> None:
        if self.widths is None:
            self.widths = [64, 128, 256, 512]
        if self.depths is None:
            self.depths = [2] * len(self.widths)
        if self.convolutions is None:
            self.convolutions = ["3d"] * len(self.widths)
        super().__post_init__(**kwargs)

    @property
    def feature_size(self) -> int:
        """Channels of the last stage."""
        return self.widths[-1]

    def validate_architecture(self) -> None:
        """Refuse unknown convolutions and lists of different lengths."""
        if not len(self.widths) == len(self.depths) == len(self.convolutions):
            raise ValueError(
                f"widths {self.widths}, depths {self.depths} and convolutions {self.convolutions} "
                "must be equally long."
            )
        unknown = {self.stem} - {"3d", "2plus1d"} | set(self.convolutions) - set(_CONVOLUTIONS)
        if unknown:
            raise ValueError(
                f"There is no convolution {', '.join(sorted(unknown))}; stages take "
                f"{', '.join(_CONVOLUTIONS)}, the stem 3d or 2plus1d."
            )
        if self.head_pool not in ("mean", "max"):
            raise ValueError(f"head_pool is {self.head_pool!r}; allowed: mean, max.")


def _unit(inputs: int, outputs: int, kernel: tuple, stride: tuple) -> list[nn.Module]:
    padding = tuple(size // 2 for size in kernel)
    convolution = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)
    return [convolution, nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)]


def _stem(config: CTVideoResNetConfig) -> nn.Sequential:
    channels, width = config.num_channels, config.widths[0]
    if config.stem == "3d":
        return nn.Sequential(*_unit(channels, width, (3, 7, 7), (1, 2, 2)))
    inner = config.stem_inner_width
    plane = _unit(channels, inner, (1, 7, 7), (1, 2, 2))
    return nn.Sequential(*plane, *_unit(inner, width, (3, 1, 1), (1, 1, 1)))


def _stage(config: CTVideoResNetConfig, stage: int) -> nn.Sequential:
    convolution = _CONVOLUTIONS[config.convolutions[stage]]
    width = config.widths[stage]
    inputs = config.widths[max(stage - 1, 0)]
    stride = 1 if stage == 0 else 2
    shortcut = None
    if stride != 1 or inputs != width:
        shortcut = nn.Sequential(
            nn.Conv3d(inputs, width, 1, convolution.get_downsample_stride(stride), bias=False),
            nn.BatchNorm3d(width),
        )
    blocks = [BasicBlock(inputs, width, convolution, stride, shortcut)]
    blocks += [BasicBlock(width, width, convolution) for _ in range(config.depths[stage] - 1)]
    return nn.Sequential(*blocks)


class CTVideoResNetModel(CTVideoBackbone):
    """An 18-layer-style 3D ResNet without classifier."""

    config_class = CTVideoResNetConfig
    _no_split_modules = ["BasicBlock"]  # noqa: RUF012 - transformers reads a class attribute

    def __init__(self, config: CTVideoResNetConfig) -> None:
        super().__init__(config)
        stages = [_stage(config, stage) for stage in range(len(config.depths))]
        self.blocks = nn.ModuleList([_stem(config), *stages])
        self.head_pool = make_head_pool(config.head_pool, ())
        self.post_init()


class CTVideoResNetForVideoClassification(CTVideoClassifier):
    """An 18-layer-style 3D ResNet with a classifier."""

    config_class = CTVideoResNetConfig
    backbone_class = CTVideoResNetModel
    _no_split_modules = ["BasicBlock"]  # noqa: RUF012 - transformers reads a class attribute


CTVideoResNetConfig.register_for_auto_class()
CTVideoResNetModel.register_for_auto_class("AutoModel")
CTVideoResNetForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")

_KEY_MAP = (
    ("stem.", "backbone.blocks.0."),
    ("layer1.", "backbone.blocks.1."),
    ("layer2.", "backbone.blocks.2."),
    ("layer3.", "backbone.blocks.3."),
    ("layer4.", "backbone.blocks.4."),
    ("fc.", "classifier."),
)


def _preset(name: str, file: str, top1: float, million: float, **overrides: Any) -> Backbone:
    kinetics = WeightRecord(
        url=f"https://download.pytorch.org/models/{file}",
        sha256=file.removesuffix(".pth").rpartition("-")[2],
        code_license="BSD-3-Clause",
        weight_license="not stated apart from the code's BSD-3-Clause",
        origin="Kinetics-400 videos",
        frames=16,
        stride=1,
        image_size=112,
        mean=(0.43216, 0.394666, 0.37645),
        std=(0.22803, 0.22145, 0.216989),
        labels=400,
        top1=top1,
        protocol="torchvision: video accuracy, 5 clips of 16 frames at 15 frames a second",
        paper="arXiv 1711.11248",
    )
    return Backbone(
        name=name,
        config_class=CTVideoResNetConfig,
        model_class=CTVideoResNetModel,
        classifier_class=CTVideoResNetForVideoClassification,
        overrides=overrides,
        tiny={
            "widths": [4, 8, 8, 16],
            "depths": [1, 2, 1, 1],
            "stem_inner_width": 5,
            "num_frames": 8,
            "image_size": 32,
        },
        tiny_clip=(8, 32, 32),
        key_map=_KEY_MAP,
        input_keys=("backbone.blocks.0.0.weight",),
        weights={"kinetics": kinetics},
        million_parameters=million,
    )


BACKBONES = (
    _preset("r3d_18", "r3d_18-b3b3357e.pth", 63.2, 33.371),
    _preset("mc3_18", "mc3_18-a90a0ba3.pth", 63.96, 11.695, convolutions=["3d", "2d", "2d", "2d"]),
    _preset(
        "r2plus1d_18",
        "r2plus1d_18-91a641e6.pth",
        67.463,
        31.505,
        stem="2plus1d",
        convolutions=["2plus1d"] * 4,
    ),
)
