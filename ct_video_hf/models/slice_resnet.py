"""2D ResNets that read a clip slice by slice: the baselines that see no third dimension.

He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385; Xie et al., "Aggregated
Residual Transformations for Deep Neural Networks", arXiv 1611.05431. Composed of torchvision's
blocks; the presets are torchvision's networks of the same names with ImageNet weights.

How slices become a clip. The network sees every slice alone. By default each slice gets logits of
its own and a clip's logits are the highest, label by label (``pool_over="logits"``,
``head_pool="max"``). With study scores as the maximum over clips a study's score is then the
highest over its slices, the rule of the 2D baselines in arXiv 2304.00546. That study trains them
on labels of slices; here the label of a clip trains the slice that decides it.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from .base import CTVideoBackbone, CTVideoClassifier, CTVideoConfig
from .records import Backbone, WeightRecord

__all__ = [
    "BACKBONES",
    "CTSliceResNetConfig",
    "CTSliceResNetForVideoClassification",
    "CTSliceResNetModel",
    "SlicePool",
]

_BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


@strict
class CTSliceResNetConfig(CTVideoConfig):
    """Sizes of a 2D ResNet or ResNeXt applied to every slice; the defaults are ResNet-18."""

    model_type = "ct_slice_resnet"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "CTSliceResNetModel",
        "AutoModelForVideoClassification": "CTSliceResNetForVideoClassification",
    }

    dropout: float | int = 0.0
    #: As torch starts a linear layer on 512 features: 1 / sqrt(3 x 512).
    head_init_std: float | int = 0.0255
    #: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1; four times the channels).
    block: str = "basic"
    #: Residual blocks in each stage.
    depths: list[int] | None = None
    #: Channels of the stem.
    stem_width: int = 64
    #: Channels of each stage, before the four times of "bottleneck"; None doubles stem_width.
    widths: list[int] | None = None
    #: Groups of the 3x3 convolutions of "bottleneck" (above 1: ResNeXt).
    groups: int = 1
    #: Channels of a group of those convolutions, for a stage of 64 channels.
    group_width: int = 64
    #: How slices become a clip: "max" or "mean".
    head_pool: str = "max"
    #: What of the slices is pooled: their "logits", or their "features" before the classifier.
    pool_over: str = "logits"
    #: Slices in the network at a time where no batch statistics are taken; None for all. Bounds
    #: the memory of prediction and changes nothing in the result.
    slices_at_once: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.depths is None:
            self.depths = [2, 2, 2, 2]
        if self.widths is None:
            self.widths = [self.stem_width * 2**stage for stage in range(len(self.depths))]
        super().__post_init__(**kwargs)

    @property
    def slice_feature_size(self) -> int:
        """Channels of the last stage: the features of a slice."""
        return self.widths[-1] * (4 if self.block == "bottleneck" else 1)

    @property
    def feature_size(self) -> int:
        """Channels of the last stage."""
        return self.slice_feature_size

    def validate_architecture(self) -> None:
        """Refuse unknown blocks and lists of different lengths."""
        if self.block not in _BLOCKS:
            raise ValueError(f"block is {self.block!r}; allowed: {', '.join(_BLOCKS)}.")
        if len(self.widths) != len(self.depths):
            raise ValueError(f"widths {self.widths} and depths {self.depths} must be equally long.")
        if self.block == "basic" and (self.groups, self.group_width) != (1, 64):
            raise ValueError(
                f"groups is {self.groups} and group_width {self.group_width}; block 'basic' takes "
                "1 and 64. Groups need block 'bottleneck'."
            )
        if self.slices_at_once is not None and self.slices_at_once < 1:
            raise ValueError(f"slices_at_once is {self.slices_at_once}; at least 1 is expected.")

    def validate_pooling(self) -> None:
        """Refuse ways of pooling that do not exist."""
        if self.head_pool not in ("max", "mean"):
            raise ValueError(f"head_pool is {self.head_pool!r}; allowed: max, mean.")
        if self.pool_over not in ("logits", "features"):
            raise ValueError(f"pool_over is {self.pool_over!r}; allowed: logits, features.")


def _stem(config: CTSliceResNetConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(config.num_channels, config.stem_width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(config.stem_width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    )


def _stage(config: CTSliceResNetConfig, stage: int) -> nn.Sequential:
    block = _BLOCKS[config.block]
    width, stride = config.widths[stage], 1 if stage == 0 else 2
    outputs = width * block.expansion
    inputs = config.widths[stage - 1] * block.expansion if stage else config.stem_width
    groups = {"groups": config.groups, "base_width": config.group_width}
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )
    blocks = [block(inputs, width, stride, shortcut, **groups)]
    blocks += [block(outputs, width, **groups) for _ in range(config.depths[stage] - 1)]
    return nn.Sequential(*blocks)


class SlicePool(nn.Module):
    """Mean over rows and columns of each slice, and over the slices where ``over`` says so.

    Parameters
    ----------
    over : {None, "max", "mean"}
        None keeps the slices apart.
    """

    def __init__(self, over: str | None = None) -> None:
        super().__init__()
        self.over = over

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """(batch, feature, slice, row, column) -> (batch, feature, slice or 1, 1, 1)."""
        grid = video.mean((3, 4), keepdim=True)
        if self.over is None:
            return grid
        return grid.amax(2, True) if self.over == "max" else grid.mean(2, True)


class CTSliceResNetModel(CTVideoBackbone):
    """A 2D ResNet applied to every slice, without classifier.

    ``last_hidden_state`` is (batch, feature, slice, row, column); ``pooled_grid`` holds one
    position a slice, or one in all with ``pool_over="features"``; ``pooler_output`` is their mean.
    """

    config_class = CTSliceResNetConfig
    _no_split_modules = ["BasicBlock", "Bottleneck"]  # noqa: RUF012 - transformers reads it

    def __init__(self, config: CTSliceResNetConfig) -> None:
        super().__init__(config)
        stages = [_stage(config, stage) for stage in range(len(config.depths))]
        self.blocks = nn.ModuleList([_stem(config), *stages])
        self.head_pool = self.make_head_pool(config)
        self.post_init()

    @staticmethod
    def make_head_pool(config: CTSliceResNetConfig) -> nn.Module:
        """What turns the features of the last stage into ``pooled_grid``."""
        return SlicePool(config.head_pool if config.pool_over == "features" else None)

    def forward_features(
        self, video: torch.Tensor, keep_states: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        """Run every slice, see :meth:`.base.CTVideoBackbone.forward_features`.

        ``slices_at_once`` slices of the batch at a time, unless a batch norm takes statistics:
        those are over all slices of the batch, as the slices of one picture batch.
        """
        batch, _, frames = video.shape[:3]
        slices = video.transpose(1, 2).flatten(0, 1)
        kept = [self._run_slices(part, keep_states) for part in self._parts(slices)]
        states = tuple(
            torch.cat(parts).unflatten(0, (batch, frames)).transpose(1, 2)
            for parts in zip(*kept, strict=True)
        )
        return states[-1], self.head_pool(states[-1]), states if keep_states else ()

    def _parts(self, slices: torch.Tensor) -> Sequence[torch.Tensor]:
        count = self.config.slices_at_once
        norms = (m for m in self.modules() if isinstance(m, nn.BatchNorm2d))
        if count is None or any(norm.training for norm in norms):
            return [slices]  # no split: a recorded network would keep the size of the batch
        return slices.split(count)

    def _run_slices(self, slices: torch.Tensor, keep_states: bool) -> Sequence[torch.Tensor]:
        """Features (slice, channel, row, column) after each block, or after the last alone."""
        states = []
        for block in self.blocks:
            slices = self.run_block(block, slices)
            if keep_states:
                states.append(slices)
        return states if keep_states else [slices]

    @property
    def slice_stages(self) -> int:
        """All of them: what mixes slices comes after the last stage."""
        return len(self.blocks)

    def slice_features(self, slices: torch.Tensor) -> torch.Tensor:
        """Features of pictures, see :meth:`.slices.SliceStages.slice_features`."""
        for block in self.blocks:
            slices = block(slices)
        return slices


class CTSliceResNetForVideoClassification(CTVideoClassifier):
    """A 2D ResNet on every slice with a classifier, and the slices pooled to the clip."""

    config_class = CTSliceResNetConfig
    backbone_class = CTSliceResNetModel
    _no_split_modules = ["BasicBlock", "Bottleneck"]  # noqa: RUF012 - transformers reads it

    def classify(self, grid: torch.Tensor) -> torch.Tensor:
        """Logits (batch, num_labels): each slice's own, then the largest or the mean of them."""
        logits = self.classifier(self.dropout(grid).flatten(2).transpose(1, 2))
        return logits.amax(1) if self.config.head_pool == "max" else logits.mean(1)


CTSliceResNetConfig.register_for_auto_class()
CTSliceResNetModel.register_for_auto_class("AutoModel")
CTSliceResNetForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")

#: Keys of torchvision's ResNets up to the classifier, and ours.
RESNET_KEYS = (
    ("conv1.", "backbone.blocks.0.0."),
    ("bn1.", "backbone.blocks.0.1."),
    ("layer1.", "backbone.blocks.1."),
    ("layer2.", "backbone.blocks.2."),
    ("layer3.", "backbone.blocks.3."),
    ("layer4.", "backbone.blocks.4."),
)

#: Fields that make a ResNet-18 and a ResNeXt-101 32x8d.
RESNET18: dict[str, Any] = {}
RESNEXT101: dict[str, Any] = {
    "block": "bottleneck",
    "depths": [3, 4, 23, 3],
    "groups": 32,
    "group_width": 8,
    "head_init_std": 0.0128,  # 1 / sqrt(3 x 2048)
}
TINY_RESNET18: dict[str, Any] = {
    "stem_width": 4,
    "depths": [1, 2, 1, 1],
    "num_frames": 3,
    "image_size": 32,
}
TINY_RESNEXT101: dict[str, Any] = TINY_RESNET18 | {"groups": 2, "group_width": 32}


def imagenet_weights(file: str, top1: float, recipe: str, paper: str) -> WeightRecord:
    """The record of an ImageNet checkpoint of torchvision; its name ends in the first digits."""
    return WeightRecord(
        url=f"https://download.pytorch.org/models/{file}",
        sha256=file.removesuffix(".pth").rpartition("-")[2],
        code_license="BSD-3-Clause",
        weight_license="not stated apart from the code's BSD-3-Clause; torchvision's readme points "
        "to terms that may derive from the training data, and ImageNet's pictures are for "
        "non-commercial research",
        origin="ImageNet-1K pictures (no video)",
        frames=1,
        stride=1,
        image_size=224,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        labels=1000,
        top1=top1,
        protocol=f"torchvision: ImageNet-1K validation pictures, one crop; {recipe}",
        paper=paper,
    )


_FIRST = "trained by torchvision's first recipe, crop 224"
RESNET18_WEIGHTS = {
    "imagenet": imagenet_weights("resnet18-f37072fd.pth", 69.758, _FIRST, "arXiv 1512.03385"),
}
#: "imagenet" is what torchvision gave at the time of the study.
RESNEXT101_WEIGHTS = {
    "imagenet": imagenet_weights(
        "resnext101_32x8d-8ba56ff5.pth", 79.312, _FIRST, "arXiv 1611.05431"
    ),
    "imagenet_v2": imagenet_weights(
        "resnext101_32x8d-110c445d.pth",
        82.834,
        "trained by torchvision's second recipe, crop 224 of 232",
        "arXiv 1611.05431",
    ),
}


def _preset(name: str, million: float, weights: dict[str, WeightRecord], **fields: Any) -> Backbone:
    return Backbone(
        name=name,
        config_class=CTSliceResNetConfig,
        model_class=CTSliceResNetModel,
        classifier_class=CTSliceResNetForVideoClassification,
        tiny_clip=(3, 32, 32),
        key_map=(*RESNET_KEYS, ("fc.", "classifier.")),
        input_keys=("backbone.blocks.0.0.weight",),
        weights=weights,
        million_parameters=million,
        **fields,
    )


BACKBONES = (
    _preset("resnet18_2d", 11.69, RESNET18_WEIGHTS, overrides=RESNET18, tiny=TINY_RESNET18),
    _preset("resnext101_2d", 88.791, RESNEXT101_WEIGHTS, overrides=RESNEXT101,
            tiny=TINY_RESNEXT101),
)  # fmt: skip
