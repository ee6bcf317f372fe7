"""PENet's encoder in its classification form: a squeeze-and-excitation 3D ResNeXt for CT.

Huang et al., "PENet - a scalable deep-learning model for automated diagnosis of pulmonary embolism
using volumetric CT imaging", npj Digital Medicine 3:61 (2020). Written for this package; preset
``penet`` takes the weights of the published Kinetics-600 checkpoint, which states no licence: it is
neither downloaded nor passed on, and a user converts a file of their own.
"""

from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from .base import CTVideoBackbone, CTVideoClassifier, CTVideoConfig
from .pooling import make_head_pool
from .records import Backbone, WeightRecord
from .resnet_parts import check_lengths

__all__ = ["BACKBONES", "CTPENetConfig", "CTPENetForVideoClassification", "CTPENetModel"]


@strict
class CTPENetConfig(CTVideoConfig):
    """Sizes of a PENet encoder; the defaults are the published network."""

    model_type = "ct_penet"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "CTPENetModel",
        "AutoModelForVideoClassification": "CTPENetForVideoClassification",
    }

    num_frames: int = 24
    #: Probability of zeroing a feature before the classifier while training; published: none.
    dropout: float | int = 0.0
    #: With num_channels 1: repeat the channel before the stem, which then has three, as published.
    #: Otherwise the stem has num_channels.
    expand_single_channel: bool = True
    #: Channels after the stem.
    stem_width: int = 64
    #: Residual blocks in each stage.
    depths: list[int] | None = None
    #: Inner channels of the blocks of each stage.
    widths: list[int] | None = None
    #: A block's outer channels are its inner ones times this.
    expansion: int = 2
    #: Groups of a block's middle convolution.
    cardinality: int = 32
    #: Channels in one group of a group norm.
    norm_group_channels: int = 16
    #: Channels of the squeeze-and-excitation are a block's outer ones divided by this.
    se_reduction: int = 16
    #: While training, block i of N (from 0) is skipped with this probability times i / N.
    stochastic_depth: float | int = 0.5
    #: Start the last norm of every block at zero, as published.
    zero_init_last_norm: bool = True
    #: "mean" (published) or "max" over all positions before the classifier.
    head_pool: str = "mean"

    def __post_init__(self, **kwargs: Any) -> None:
        if self.depths is None:
            self.depths = [3, 4, 6, 3]
        if self.widths is None:
            self.widths = [128 * 2**stage for stage in range(len(self.depths))]
        super().__post_init__(**kwargs)

    @property
    def feature_size(self) -> int:
        """Channels of the last stage."""
        return self.widths[-1] * self.expansion

    @property
    def stem_channels(self) -> int:
        """Channels that the stem sees."""
        return 3 if self.expand_single_channel and self.num_channels == 1 else self.num_channels

    def validate_architecture(self) -> None:
        """Refuse lists of different lengths, widths that do not divide, and impossible rates."""
        check_lengths(self, {"widths": len(self.depths)})
        for width in self.widths:
            if width % self.cardinality or width % self.norm_group_channels:
                raise ValueError(
                    f"widths has {width}, not a multiple of cardinality {self.cardinality} and of "
                    f"norm_group_channels {self.norm_group_channels}."
                )
            if width * self.expansion % self.se_reduction:
                raise ValueError(
                    f"{width * self.expansion} outer channels are not a multiple of se_reduction "
                    f"{self.se_reduction}."
                )
        if self.stem_width % self.norm_group_channels:
            raise ValueError(
                f"stem_width {self.stem_width} is not a multiple of norm_group_channels "
                f"{self.norm_group_channels}."
            )
        if not 0 <= self.stochastic_depth <= 1:
            raise ValueError(f"stochastic_depth is {self.stochastic_depth}; 0 to 1 is expected.")
        if self.head_pool not in ("mean", "max"):
            raise ValueError(f"head_pool is {self.head_pool!r}; allowed: mean, max.")


def _norm(config: CTPENetConfig, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // config.norm_group_channels, channels)


class PENetExcitation(nn.Module):
    """Scales each channel by a number from 0 to 1 that the means of all channels decide."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.excite = nn.Sequential(
            nn.Linear(channels, channels // reduction),
            nn.LeakyReLU(),
            nn.Linear(channels // reduction, channels),
            nn.Sigmoid(),
        )

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Scale (batch, channel, frame, row, column)."""
        return video * self.excite(video.mean((2, 3, 4)))[..., None, None, None]


class PENetBlock(nn.Module):
    """A ResNeXt bottleneck with squeeze-and-excitation and stochastic depth.

    While training it is skipped as a whole, for all clips of the batch, with probability ``skip``:
    it then returns its shortcut, with no activation after it. The draw is torch's, so that a seed
    and a recomputed forward pass repeat it. The branch of a skipped block gets gradients of zero
    and not none, because processes that train together draw differently and have to exchange the
    same gradients.
    """

    def __init__(
        self, config: CTPENetConfig, inputs: int, width: int, stride: int, skip: float
    ) -> None:
        super().__init__()
        outputs = width * config.expansion
        self.conv1 = nn.Conv3d(inputs, width, 1, bias=False)
        self.norm1 = _norm(config, width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, 1, groups=config.cardinality, bias=False)
        self.norm2 = _norm(config, width)
        self.conv3 = nn.Conv3d(width, outputs, 1, bias=False)
        self.norm3 = _norm(config, outputs)
        self.norm3.block_final_bn = config.zero_init_last_norm
        self.se_block = PENetExcitation(outputs, config.se_reduction)
        self.activation = nn.LeakyReLU()
        self.skip = skip
        self.down_sample = None
        if stride != 1 or inputs != outputs:
            self.down_sample = nn.Sequential(
                nn.Conv3d(inputs, outputs, 1, stride, bias=False), _norm(config, outputs)
            )

    def branch(self, video: torch.Tensor) -> torch.Tensor:
        """Everything but the shortcut."""
        video = self.activation(self.norm1(self.conv1(video)))
        video = self.activation(self.norm2(self.conv2(video)))
        return self.se_block(self.norm3(self.conv3(video)))

    def _no_gradient(self) -> torch.Tensor:
        """Zero that depends on every parameter of the branch."""
        parts = [self.conv1, self.norm1, self.conv2, self.norm2, self.conv3, self.norm3]
        parameters = [p for part in (*parts, self.se_block) for p in part.parameters()]
        return sum(parameter.flatten()[0] * 0 for parameter in parameters)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Map (batch, channel, frame, row, column)."""
        shortcut = video if self.down_sample is None else self.down_sample(video)
        if self.training and self.skip > 0 and torch.rand(()).item() < self.skip:
            return shortcut + self._no_gradient() if torch.is_grad_enabled() else shortcut
        return self.activation(shortcut + self.branch(video))


class _Stem(nn.Sequential):
    """Convolution, norm, activation and pooling; repeats a single channel where it has to."""

    def __init__(self, config: CTPENetConfig) -> None:
        super().__init__(
            nn.Conv3d(config.stem_channels, config.stem_width, 7, (1, 2, 2), 3, bias=False),
            _norm(config, config.stem_width),
            nn.LeakyReLU(),
            nn.MaxPool3d(3, 2, 1),
        )
        self.repeats = config.stem_channels // config.num_channels

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Map (batch, channel, frame, row, column)."""
        if self.repeats > 1:
            video = video.expand(-1, self.repeats, -1, -1, -1)
        return super().forward(video)


def _stages(config: CTPENetConfig) -> list[nn.Sequential]:
    stages, inputs, index, total = [], config.stem_width, 0, sum(config.depths)
    for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        blocks = []
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            skip = config.stochastic_depth * index / total
            blocks.append(PENetBlock(config, inputs, width, stride, skip))
            inputs, index = width * config.expansion, index + 1
        stages.append(nn.Sequential(*blocks))
    return stages


class CTPENetModel(CTVideoBackbone):
    """A PENet encoder without classifier."""

    config_class = CTPENetConfig
    _no_split_modules = ["PENetBlock"]  # noqa: RUF012 - transformers reads a class attribute

    def __init__(self, config: CTPENetConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList([_Stem(config), *_stages(config)])
        self.head_pool = make_head_pool(config.head_pool, ())
        self.post_init()


class CTPENetForVideoClassification(CTVideoClassifier):
    """A PENet encoder with a classifier."""

    config_class = CTPENetConfig
    backbone_class = CTPENetModel
    _no_split_modules = ["PENetBlock"]  # noqa: RUF012 - transformers reads a class attribute


CTPENetConfig.register_for_auto_class()
CTPENetModel.register_for_auto_class("AutoModel")
CTPENetForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")

# Older files of the project call the blocks xnet_blocks.
_KEY_MAP = (
    ("in_conv.", "backbone.blocks.0."),
    *(
        (f"encoders.{stage}.{name}_blocks.", f"backbone.blocks.{stage + 1}.")
        for name in ("penet", "xnet")
        for stage in range(4)
    ),
    ("classifier.fc.", "classifier."),
)

_PENET_KINETICS = WeightRecord(
    url=None,
    sha256=None,
    code_license="this package's Apache-2.0; written from published facts, two of them "
    "looked up in the authors' code",
    weight_license="none is stated, so they may not be passed on (file xnet_kin_90.pth.tar of the "
    "PENet project)",
    origin="Kinetics-600 videos",
    frames=24,
    stride=None,
    image_size=224,
    # Of CT after windowing, as PENet was finetuned; it divides by nothing.
    mean=(0.15897, 0.15897, 0.15897),
    std=(1.0, 1.0, 1.0),
    labels=600,
    top1=None,
    protocol="none published",
    paper="npj Digital Medicine 3:61 (2020)",
)

BACKBONES = (
    Backbone(
        name="penet",
        config_class=CTPENetConfig,
        model_class=CTPENetModel,
        classifier_class=CTPENetForVideoClassification,
        overrides={},
        # The draws of stochastic depth have tests of their own.
        tiny={
            "stem_width": 8,
            "depths": [1, 2, 1, 1],
            "widths": [8, 8, 16, 16],
            "cardinality": 4,
            "norm_group_channels": 4,
            "se_reduction": 4,
            "stochastic_depth": 0.0,
            "num_frames": 8,
            "image_size": 32,
        },
        tiny_clip=(8, 32, 32),
        key_map=_KEY_MAP,
        input_keys=("backbone.blocks.0.0.weight",),
        weights={"kinetics": _PENET_KINETICS},
        million_parameters=29.626,
    ),
)
