"""Video Swin networks: transformers that attend within windows, shifted from block to block.

Liu et al., "Video Swin Transformer", arXiv 2106.13230. Composed of torchvision's blocks; preset
``swin3d_t`` is torchvision's network of that name, key for key. It takes clips of any size, for
windows are padded. Relative positions belong to the window: weights for another ``window`` are
brought to it by linear interpolation when they are loaded.

Weights load from torchvision's layout and from that of the authors' release (keys under
``backbone.``). Their codes agree in what a state dict does not show: windows are listed frame by
frame, then row by row, an offset's place in a table counts frames first and columns last, and a
merged patch lists its four parts (row, column) as (0, 0), (1, 0), (0, 1), (1, 1).
"""

import functools
import itertools
import logging
import math
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torchvision.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torchvision.models.video.swin_transformer import PatchEmbed3d
from transformers import initialization as init

from .base import CTVideoBackbone, CTVideoClassifier, CTVideoConfig
from .pooling import make_head_pool
from .positions import resample_grid
from .records import Backbone, Layout, WeightRecord
from .resnet_parts import check_lengths
from .window_attention import (
    GeometricWindowAttention,
    WindowAttention,
    relative_position_index,
)

__all__ = [
    "BACKBONES",
    "CTVideoSwinConfig",
    "CTVideoSwinForVideoClassification",
    "CTVideoSwinModel",
]

logger = logging.getLogger(__name__)

_TABLE = "relative_position_bias_table"
_INDEX = "relative_position_index"


@strict
class CTVideoSwinConfig(CTVideoConfig):
    """Sizes of a Video Swin network; the defaults are Video Swin-T.

    Patches and windows are (frame, row, column).
    """

    model_type = "ct_video_swin"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "CTVideoSwinModel",
        "AutoModelForVideoClassification": "CTVideoSwinForVideoClassification",
    }

    dropout: float | int = 0.0
    head_init_std: float | int = 0.02
    #: Size of a patch.
    patch_size: list[int] | None = None
    #: Channels of the first stage; they double from stage to stage.
    width: int = 96
    #: Blocks in each stage.
    depths: list[int] | None = None
    #: Attention heads of each stage.
    heads: list[int] | None = None
    #: Patches in a window.
    window: list[int] | None = None
    #: What happens where a stage has fewer rows or columns than the window (at 224 pixels it never
    #: has; below, and with window 7 at 160 or 192 pixels, the last stage has). "published": as in
    #: both original codes, which then read offsets of other patches from the table. "geometric":
    #: offsets are those between the patches.
    small_grid_offsets: str = "published"
    #: Channels inside an MLP over those of its block.
    mlp_ratio: float | int = 4.0
    #: Probability of leaving out the last block for a sample while training; 0 at the first block
    #: and rising evenly. 0.1 as published.
    stochastic_depth: float | int = 0.1
    #: "mean" (published) or "max" over all positions before the classifier.
    head_pool: str = "mean"

    def __post_init__(self, **kwargs: Any) -> None:
        defaults = {
            "patch_size": [2, 4, 4],
            "depths": [2, 2, 6, 2],
            "heads": [3, 6, 12, 24],
            "window": [8, 7, 7],
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        super().__post_init__(**kwargs)

    @property
    def feature_size(self) -> int:
        """Channels of the last stage."""
        return self.width * 2 ** (len(self.depths) - 1)

    def validate_architecture(self) -> None:
        """Refuse lists of different lengths, heads that do not divide and unknown choices."""
        check_lengths(self, {"heads": len(self.depths), "patch_size": 3, "window": 3})
        if min([*self.depths, *self.patch_size, *self.window], default=0) < 1:
            raise ValueError("depths, patch_size and window hold whole numbers from 1 on.")
        for stage, heads in enumerate(self.heads):
            if heads < 1 or self.width * 2**stage % heads:
                raise ValueError(
                    f"Stage {stage} has {self.width * 2**stage} channels, which {heads} heads "
                    "cannot share."
                )
        if not 0 <= self.stochastic_depth < 1:
            raise ValueError(f"stochastic_depth is {self.stochastic_depth}; 0 to below 1.")
        choices = {"small_grid_offsets": ("published", "geometric"), "head_pool": ("mean", "max")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}."
                )


class _Stage(nn.Module):
    """Merging of patches, but for the first stage, and the stage's blocks."""

    def __init__(self, config: CTVideoSwinConfig, stage: int) -> None:
        super().__init__()
        norm, width = functools.partial(nn.LayerNorm, eps=1e-5), config.width * 2**stage
        geometric = config.small_grid_offsets == "geometric"
        first, last = sum(config.depths[:stage]), max(sum(config.depths) - 1, 1)
        self.downsample = PatchMerging(width // 2, norm) if stage else None
        self.layers = nn.ModuleList(
            SwinTransformerBlock(
                width,
                config.heads[stage],
                window_size=list(config.window),
                shift_size=[size // 2 if index % 2 else 0 for size in config.window],
                mlp_ratio=config.mlp_ratio,
                stochastic_depth_prob=config.stochastic_depth * (first + index) / last,
                norm_layer=norm,
                attn_layer=GeometricWindowAttention if geometric else WindowAttention,
            )
            for index in range(config.depths[stage])
        )


def _init_part(module: nn.Module, head_init_std: float) -> None:
    """Initialise as torchvision does; only calls that skip what is loaded already."""
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
        init.uniform_(module.bias, -bound, bound)
    elif isinstance(module, WindowAttention):
        init.trunc_normal_(module.relative_position_bias_table, std=0.02)
        index = relative_position_index(module.window_size)
        init.copy_(module.relative_position_index, index)


def _channels_first(video: torch.Tensor) -> torch.Tensor:
    return video.permute(0, 4, 1, 2, 3)


class CTVideoSwinModel(CTVideoBackbone):
    """A Video Swin network without classifier."""

    config_class = CTVideoSwinConfig
    _no_split_modules = ["SwinTransformerBlock"]  # noqa: RUF012 - read by transformers

    def __init__(self, config: CTVideoSwinConfig) -> None:
        super().__init__(config)
        norm = functools.partial(nn.LayerNorm, eps=1e-5)
        stem = PatchEmbed3d(config.patch_size, config.num_channels, config.width, norm)
        stages = [_Stage(config, stage) for stage in range(len(config.depths))]
        self.blocks = nn.ModuleList([stem, *stages])
        self.norm = norm(config.feature_size)
        self.head_pool = make_head_pool(config.head_pool, ())
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        _init_part(module, self.config.head_init_std)

    def forward_features(
        self, video: torch.Tensor, keep_states: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        """Run the network, see :meth:`.base.CTVideoBackbone.forward_features`."""
        stem, *stages = self.blocks
        video = stem(video)  # from here on channels come last
        states = [_channels_first(video)] if keep_states else []
        for stage in stages:
            if stage.downsample is not None:
                video = stage.downsample(video)
            for layer in stage.layers:
                video = self.run_block(layer, video)
            if keep_states:
                states.append(_channels_first(video))
        last = _channels_first(self.norm(video))
        return last, self.head_pool(last), tuple(states)


class CTVideoSwinForVideoClassification(CTVideoClassifier):
    """A Video Swin network with a classifier."""

    config_class = CTVideoSwinConfig
    backbone_class = CTVideoSwinModel
    _no_split_modules = ["SwinTransformerBlock"]  # noqa: RUF012 - read by transformers

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        _init_part(module, self.config.head_init_std)


CTVideoSwinConfig.register_for_auto_class()
CTVideoSwinModel.register_for_auto_class("AutoModel")
CTVideoSwinForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")


def _window_of(index: torch.Tensor, rows: int, key: str) -> list[int]:
    """The window whose offsets ``index`` lists, for a table of ``rows`` rows.

    Raises
    ------
    ValueError
        Where it is that of no window: its patches or its table are in another order.
    """
    patches = index.shape[0]
    sides = [size for size in range(1, patches + 1) if patches % size == 0]
    for window in itertools.product(sides, repeat=3):
        fits = math.prod(window) == patches and rows == math.prod(2 * n - 1 for n in window)
        if fits and torch.equal(index, relative_position_index(list(window))):
            return list(window)
    raise ValueError(
        f"{key} of the checkpoint, {tuple(index.shape)} for a table of {rows} rows, lists the "
        "offsets of no window by frame, row and column: the checkpoint is damaged or orders its "
        "windows otherwise."
    )


def _adapt(state: dict[str, torch.Tensor], config: CTVideoSwinConfig) -> dict[str, torch.Tensor]:
    """Check the order of relative positions and bring them to the configuration's window."""
    wanted = relative_position_index(config.window)
    sizes = [2 * size - 1 for size in config.window]
    state, windows = dict(state), []
    for key in [key for key in state if key.endswith(_INDEX)]:
        table = key.removesuffix(_INDEX) + _TABLE
        if table not in state:
            continue
        values, index = state[table], state[key]
        if values.shape[0] == math.prod(sizes) and torch.equal(index, wanted):
            continue
        window = _window_of(index, values.shape[0], key)
        offsets = [2 * size - 1 for size in window]
        resampled = resample_grid(values.reshape(*offsets, values.shape[1]), sizes)
        state |= {table: resampled.reshape(-1, values.shape[1]), key: wanted.clone()}
        windows.append(window)
    if windows:
        logger.info(
            "%d tables of relative positions interpolated from windows of %s to %s patches.",
            *(len(windows), windows[0], config.window),
        )
    return state


def _torchvision_keys(stages: int) -> tuple[tuple[str, str], ...]:
    pairs = []
    for stage in range(stages):
        merging = f"backbone.blocks.{stage + 2}.downsample."
        pairs.append((f"features.{2 * stage}.", f"backbone.blocks.{stage + 1}.layers."))
        pairs.append((f"features.{2 * stage + 1}.", merging))
    return (
        ("patch_embed.", "backbone.blocks.0."),
        *pairs[:-1],
        ("norm.", "backbone.norm."),
        ("head.", "classifier."),
    )


def _authors_keys(depths: list[int]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for stage, depth in enumerate(depths):
        for index in range(depth):
            theirs = f"backbone.layers.{stage}.blocks.{index}."
            ours = f"backbone.blocks.{stage + 1}.layers.{index}."
            pairs.append((f"{theirs}mlp.fc1.", f"{ours}mlp.0."))
            pairs.append((f"{theirs}mlp.fc2.", f"{ours}mlp.3."))
            pairs.append((theirs, ours))
        theirs = f"backbone.layers.{stage}.downsample."
        pairs.append((theirs, f"backbone.blocks.{stage + 2}.downsample."))
    return (
        ("backbone.patch_embed.", "backbone.blocks.0."),
        *pairs[:-1],
        ("cls_head.fc_cls.", "classifier."),
    )


def _record(**fields: Any) -> WeightRecord:
    common = {
        "frames": 32,
        "stride": 2,
        "image_size": 224,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "labels": 400,
        "origin": "Kinetics-400 videos, after ImageNet-1K pictures",
        "paper": "arXiv 2106.13230",
    }
    return WeightRecord(**common, **fields)


_TORCHVISION = _record(
    url="https://download.pytorch.org/models/swin3d_t-7615ae03.pth",
    sha256="7615ae03",
    code_license="BSD-3-Clause",
    weight_license="not stated apart from the code's BSD-3-Clause; ported from the authors' "
    "(Apache-2.0)",
    top1=77.715,
    protocol="torchvision: video accuracy, 12 clips of 32 frames at 15 frames a second",
)
_AUTHORS = _record(
    url="https://github.com/SwinTransformer/storage/releases/download/v1.0.4/"
    "swin_tiny_patch244_window877_kinetics400_1k.pth",
    sha256=None,
    code_license="Apache-2.0",
    weight_license="not stated apart from the code's Apache-2.0",
    top1=78.8,
    protocol="authors: 4 temporal x 3 spatial views, shorter side 224",
)

_DEPTHS = [2, 2, 6, 2]

BACKBONES = (
    Backbone(
        name="swin3d_t",
        config_class=CTVideoSwinConfig,
        model_class=CTVideoSwinModel,
        classifier_class=CTVideoSwinForVideoClassification,
        overrides={},
        tiny={
            "width": 8,
            "depths": [2, 2, 2, 2],
            "heads": [1, 2, 2, 4],
            "window": [2, 3, 3],
            "num_frames": 8,
            "image_size": 32,
        },
        tiny_clip=(8, 32, 32),
        key_map=_torchvision_keys(len(_DEPTHS)),
        layouts=(Layout(name="authors", sign="backbone.layers.", key_map=_authors_keys(_DEPTHS)),),
        input_keys=("backbone.blocks.0.proj.weight",),
        weights={"kinetics": _TORCHVISION, "kinetics-authors": _AUTHORS},
        million_parameters=28.158,
        adapt=_adapt,
    ),
)
