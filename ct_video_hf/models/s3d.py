"""S3D: an Inception network whose 3D convolutions are split into plane, then frames.

Xie et al., "Rethinking Spatiotemporal Feature Learning", arXiv 1712.04851. Composed of
torchvision's blocks; preset ``s3d`` is torchvision's network. It also takes self-supervised
checkpoints of CoCLR (Han et al., arXiv 2010.09709) and ViCC (Toering et al., arXiv 2106.10137),
which hold the same network with other names, another epsilon and global pooling.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torchvision.models.video.s3d import SepInceptionBlock3D, TemporalSeparableConv
from torchvision.ops.misc import Conv3dNormActivation
from transformers import initialization as init

from .base import CTVideoBackbone, CTVideoClassifier, CTVideoConfig
from .pooling import make_head_pool
from .records import Backbone, Layout, WeightRecord
from .resnet_parts import check_head_pool, check_lengths

__all__ = ["BACKBONES", "CTS3DConfig", "CTS3DForVideoClassification", "CTS3DModel"]

_MIXED = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)

#: Kernel, stride and padding of the max pooling before each stage but the first.
_POOLS = (
    ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ((2, 2, 2), (2, 2, 2), (0, 0, 0)),
)


@strict
class CTS3DConfig(CTVideoConfig):
    """Sizes of an S3D network; the defaults are torchvision's."""

    model_type = "ct_s3d"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "CTS3DModel",
        "AutoModelForVideoClassification": "CTS3DForVideoClassification",
    }

    #: Probability of zeroing a feature before the classifier while training.
    dropout: float | int = 0.2
    #: Standard deviation of the classifier's initial weights.
    head_init_std: float | int = 0.018
    #: Channels after the three convolutions before the Inception blocks.
    stem_widths: list[int] | None = None
    #: Channels of the Inception blocks of each of three stages: the 1x1x1 branch; the first and
    #: last convolution of the second branch; those of the third branch; the pooled branch.
    mixed_widths: list[list[list[int]]] | None = None
    #: Added to the variance in every norm: 1e-3 in torchvision's network, 1e-5 in CoCLR's.
    norm_eps: float = 0.001
    #: Weight of a batch in the running statistics: 0.001 in torchvision's network, 0.1 in CoCLR's.
    norm_momentum: float | int = 0.001
    #: "published": average a window of head_pool_kernel at stride 1, classify, average; "mean" and
    #: "max" pool everything before the classifier.
    head_pool: str = "published"
    #: Window of head_pool "published".
    head_pool_kernel: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.stem_widths is None:
            self.stem_widths = [64, 64, 192]
        if self.mixed_widths is None:
            self.mixed_widths = [[list(block) for block in stage] for stage in _MIXED]
        if self.head_pool_kernel is None:
            self.head_pool_kernel = [2, 7, 7]
        super().__post_init__(**kwargs)

    @property
    def feature_size(self) -> int:
        """Channels of the last stage."""
        return _outputs(self.mixed_widths[-1][-1])

    @property
    def smallest_clip(self) -> tuple[int, int, int]:
        """Fewest frames, rows and columns that fill the head's window.

        The last pooling needs two positions for one, and rounds down; strides before it round up.
        torchvision states 14 frames for its window of 2, where 13 would do: an even number.
        """
        published = self.head_pool == "published"
        frames, rows, columns = self.head_pool_kernel if published else (1, 1, 1)
        least = ((2 * frames - 1) * 4 + 1, (2 * rows - 1) * 16 + 1, (2 * columns - 1) * 16 + 1)
        return (least[0] + 1, *least[1:]) if published else least

    def validate_architecture(self) -> None:
        """Refuse another number of stages, blocks without six widths and impossible norms."""
        check_lengths(self, {"stem_widths": 3, "mixed_widths": 3, "head_pool_kernel": 3})
        check_head_pool(self.head_pool)
        for stage in self.mixed_widths:
            if not stage or any(len(block) != 6 or min(block) < 1 for block in stage):
                raise ValueError(
                    f"mixed_widths has the stage {stage}; at least one block of six widths from 1 "
                    "is expected."
                )
        if not self.norm_eps > 0 or not 0 <= self.norm_momentum <= 1:
            raise ValueError(
                f"norm_eps is {self.norm_eps} and norm_momentum {self.norm_momentum}; above 0, and "
                "0 to 1, are expected."
            )


def _outputs(block: list[int]) -> int:
    """Channels that an Inception block gives."""
    return block[0] + block[2] + block[4] + block[5]


def _stages(config: CTS3DConfig) -> Iterator[nn.Sequential]:
    norm = functools.partial(nn.BatchNorm3d, eps=config.norm_eps, momentum=config.norm_momentum)
    first, second, third = config.stem_widths
    pools = [nn.MaxPool3d(*pool) for pool in _POOLS]
    yield nn.Sequential(TemporalSeparableConv(config.num_channels, first, 7, 2, 3, norm))
    yield nn.Sequential(
        pools[0],
        Conv3dNormActivation(first, second, kernel_size=1, stride=1, norm_layer=norm),
        TemporalSeparableConv(second, third, 3, 1, 1, norm),
    )
    inputs = third
    for pool, stage in zip(pools[1:], config.mixed_widths, strict=True):
        blocks: list[nn.Module] = [pool]
        for block in stage:
            blocks.append(SepInceptionBlock3D(inputs, *block, norm))
            inputs = _outputs(block)
        yield nn.Sequential(*blocks)


class _CTS3DPreTrained:
    """What the two S3D classes share."""

    config_class = CTS3DConfig
    _no_split_modules = ["SepInceptionBlock3D", "TemporalSeparableConv"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as torchvision does: convolutions as torch leaves them."""
        if isinstance(module, nn.Conv3d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        else:
            super()._init_weights(module)


class CTS3DModel(_CTS3DPreTrained, CTVideoBackbone):
    """An S3D network without classifier."""

    def __init__(self, config: CTS3DConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(_stages(config))
        self.head_pool = make_head_pool(config.head_pool, config.head_pool_kernel)
        self.post_init()


class CTS3DForVideoClassification(_CTS3DPreTrained, CTVideoClassifier):
    """An S3D network with a classifier."""

    backbone_class = CTS3DModel


CTS3DConfig.register_for_auto_class()
CTS3DModel.register_for_auto_class("AutoModel")
CTS3DForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")

# torchvision numbers its layers through; here they stand in stages: (stage, place) for each.
_PLACES = {
    **{0: (0, 0), 2: (1, 1), 3: (1, 2), 5: (2, 1), 6: (2, 2)},
    **{8 + block: (3, 1 + block) for block in range(5)},
    **{14: (4, 1), 15: (4, 2)},
}
_KEY_MAP = (
    *((f"features.{n}.", f"backbone.blocks.{s}.{p}.") for n, (s, p) in _PLACES.items()),
    ("classifier.1.", "classifier."),
)


def _coclr_keys() -> Iterator[tuple[str, str]]:
    """Key map of CoCLR's backbone, facts from ``backbone/s3dg.py`` of github.com/TengdaHan/CoCLR.

    Every layer stands there twice, by its name and by its place in ``block1`` to ``block5``.
    """
    unit = {"conv": "0", "bn": "1"}
    separable = {"conv1": "0.0", "bn1": "0.1", "conv2": "1.0", "bn2": "1.1"}
    mixed = {
        **{f"branch0.0.{theirs}": f"branch0.{ours}" for theirs, ours in unit.items()},
        **{f"branch{b}.0.{t}": f"branch{b}.0.{o}" for b in (1, 2) for t, o in unit.items()},
        **{f"branch{b}.1.{t}": f"branch{b}.1.{o}" for b in (1, 2) for t, o in separable.items()},
        **{f"branch3.1.{theirs}": f"branch3.1.{ours}" for theirs, ours in unit.items()},
    }
    layers = [("Conv_1a", 1, 0, separable), ("Conv_2b", 2, 1, unit), ("Conv_2c", 2, 2, separable)]
    for stage, letters in ((3, "bc"), (4, "bcdef"), (5, "bc")):
        layers += [(f"Mixed_{stage}{a}", stage, n, mixed) for n, a in enumerate(letters, 1)]
    for name, stage, place, parts in layers:
        for prefix in (name, f"block{stage}.{place}"):
            for theirs, ours in parts.items():
                yield (
                    f"encoder_q.0.{prefix}.{theirs}.",
                    f"backbone.blocks.{stage - 1}.{place}.{ours}.",
                )


_SELF_SUPERVISED = Layout(
    name="CoCLR or ViCC",
    sign="encoder_q.0.",
    key_map=tuple(_coclr_keys()),
    # The projection that contrastive training needs, the other encoders, queues and prototypes.
    drop=(
        *("encoder_q.2.*", "encoder_q.4.*", "encoder_k.*", "sampler.*", "second.*"),
        *("queue", "queue_*", "prototypes.*"),
    ),
    config={"norm_eps": 1e-5},
    defaults={"norm_momentum": 0.1, "head_pool": "mean"},
    processor={"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
)

_S3D_KINETICS = WeightRecord(
    url="https://download.pytorch.org/models/s3d-d76dad2f.pth",
    sha256="d76dad2f",
    code_license="BSD-3-Clause",
    weight_license="not stated apart from the code's BSD-3-Clause",
    origin="Kinetics-400 videos",
    frames=128,
    stride=1,
    image_size=224,
    mean=(0.43216, 0.394666, 0.37645),
    std=(0.22803, 0.22145, 0.216989),
    labels=400,
    top1=68.368,
    protocol="torchvision: accuracy of single clips of 128 frames at 15 frames a second",
    paper="arXiv 1712.04851",
)

BACKBONES = (
    Backbone(
        name="s3d",
        config_class=CTS3DConfig,
        model_class=CTS3DModel,
        classifier_class=CTS3DForVideoClassification,
        overrides={},
        tiny={
            "stem_widths": [4, 4, 8],
            "mixed_widths": [
                [[4, 4, 4, 2, 4, 4], [4, 4, 8, 2, 4, 4]],
                [[4, 4, 8, 2, 4, 4]],
                [[8, 4, 8, 2, 4, 4]],
            ],
            "head_pool_kernel": [2, 1, 1],
            "num_frames": 16,
            "image_size": 32,
        },
        tiny_clip=(16, 32, 32),
        key_map=_KEY_MAP,
        layouts=(_SELF_SUPERVISED,),
        input_keys=("backbone.blocks.0.0.0.0.weight",),
        weights={"kinetics": _S3D_KINETICS},
        million_parameters=8.32,
    ),
)
