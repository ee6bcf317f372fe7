"""MViT networks of the second generation: relative positions and pooled residuals.

Li et al., "MViTv2: Improved Multiscale Vision Transformers for Classification and Detection",
arXiv 2112.01526. Composed of torchvision's blocks; preset ``mvit_v2_s`` is torchvision's network of
that name, key for key. Every block has tables of relative positions for its grid of tokens: a model
takes clips of its configuration's size, and weights for another size are brought to it by linear
interpolation when they are loaded.
"""

import functools
import logging
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torchvision.models.video.mvit import MSBlockConfig, MultiscaleBlock, PositionalEncoding

from .base import CTVideoClassifier
from .mvit_parts import CTMultiscaleBackbone, CTMultiscaleConfig, CTMultiscaleInit
from .positions import resample_grid
from .records import Backbone, WeightRecord

__all__ = ["BACKBONES", "CTMViTv2Config", "CTMViTv2ForVideoClassification", "CTMViTv2Model"]

logger = logging.getLogger(__name__)


@strict
class CTMViTv2Config(CTMultiscaleConfig):
    """Sizes of an MViTv2; the defaults are MViTv2-S 16x4.

    Kernels and strides are (frame, row, column).
    """

    model_type = "ct_mvit_v2"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "CTMViTv2Model",
        "AutoModelForVideoClassification": "CTMViTv2ForVideoClassification",
    }

    num_frames: int = 16
    stochastic_depth: float | int = 0.2

    def validate_tables(self) -> None:
        """Refuse pictures whose grid of patches is pooled to nothing before the last stage."""
        if any(layer.table_side < 1 for layer in _layers(self)):
            raise ValueError(
                f"image_size {self.image_size} makes {self.patch_grid[1]} patches a side, too few "
                f"for {len(self.depths)} stages; take a larger image_size."
            )


@dataclass(frozen=True)
class _Layer:
    """A block: where it stands, its channels, heads and strides, and the grid that it gets."""

    stage: int
    index: int
    grid: tuple[int, int, int]
    inputs: int
    outputs: int
    heads: int
    query_stride: list[int]
    key_value_stride: list[int]

    @property
    def table_side(self) -> int:
        """Rows or columns of tokens that the block's tables span."""
        side = max(self.grid[1:])
        return max(side // self.query_stride[1], side // self.key_value_stride[1])

    @property
    def table_sizes(self) -> dict[str, int]:
        """Relative positions in each of the block's tables, by axis."""
        spatial = 2 * self.table_side - 1
        return {"h": spatial, "w": spatial, "t": 2 * self.grid[0] - 1}


def _layers(config: CTMViTv2Config) -> list[_Layer]:
    layers, grid, width = [], config.patch_grid, config.width
    for stage, depth in enumerate(config.depths):
        for index in range(depth):
            stride = config.query_stride if stage > 0 and index == 0 else [1, 1, 1]
            layer = _Layer(
                stage=stage,
                index=index,
                grid=grid,
                inputs=width,
                outputs=config.width * 2**stage,
                heads=config.heads * 2**stage,
                query_stride=stride,
                key_value_stride=config.key_value_strides(stage),
            )
            layers.append(layer)
            grid = tuple((size - 1) // step + 1 for size, step in zip(grid, stride, strict=True))
            width = layer.outputs
    return layers


def _block(config: CTMViTv2Config, layer: _Layer) -> nn.Module:
    return MultiscaleBlock(
        input_size=list(layer.grid),
        cnf=MSBlockConfig(
            num_heads=layer.heads,
            input_channels=layer.inputs,
            output_channels=layer.outputs,
            kernel_q=config.pool_kernel,
            kernel_kv=config.pool_kernel,
            stride_q=layer.query_stride,
            stride_kv=layer.key_value_stride,
        ),
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        stochastic_depth_prob=config.drop_rate(layer.stage, layer.index),
        norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
    )


class _Stem(nn.Module):
    """Clip to tokens: patches and the class token in front."""

    def __init__(self, config: CTMViTv2Config) -> None:
        super().__init__()
        kernel, stride = tuple(config.patch_kernel), tuple(config.patch_stride)
        padding = tuple(size // 2 for size in kernel)
        self.conv_proj = nn.Conv3d(config.num_channels, config.width, kernel, stride, padding)
        frames, *plane = config.patch_grid
        self.pos_encoding = PositionalEncoding(
            config.width, tuple(plane), frames, rel_pos_embed=True
        )

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return self.pos_encoding(self.conv_proj(video).flatten(2).transpose(1, 2))


class CTMViTv2Model(CTMultiscaleBackbone):
    """An MViTv2 without classifier."""

    config_class = CTMViTv2Config
    _no_split_modules = ["MultiscaleBlock"]  # noqa: RUF012 - transformers reads a class attribute

    @staticmethod
    def make_stem(config: CTMViTv2Config) -> nn.Module:
        """Clip to tokens."""
        return _Stem(config)

    @staticmethod
    def make_layer(config: CTMViTv2Config, stage: int, index: int) -> nn.Module:
        """A block of torchvision's: tokens, grid -> tokens, grid."""
        layers = {(layer.stage, layer.index): layer for layer in _layers(config)}
        return _block(config, layers[stage, index])


class CTMViTv2ForVideoClassification(CTMultiscaleInit, CTVideoClassifier):
    """An MViTv2 with a classifier."""

    config_class = CTMViTv2Config
    backbone_class = CTMViTv2Model
    _no_split_modules = ["MultiscaleBlock"]  # noqa: RUF012 - transformers reads a class attribute


CTMViTv2Config.register_for_auto_class()
CTMViTv2Model.register_for_auto_class("AutoModel")
CTMViTv2ForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")


def _adapt(state: dict[str, Any], config: CTMViTv2Config) -> dict[str, Any]:
    """Bring tables of relative positions to the configuration's grids of tokens."""
    resized = {}
    for layer in _layers(config):
        for axis, size in layer.table_sizes.items():
            key = f"backbone.blocks.{layer.stage + 1}.{layer.index}.attn.rel_pos_{axis}"
            if key in state and state[key].shape[0] != size:
                resized[key] = resample_grid(state[key], (size,))
    if resized:
        logger.info(
            "%d tables of relative positions interpolated to %d frames of %d x %d pixels.",
            *(len(resized), config.num_frames, config.image_size, config.image_size),
        )
    return state | resized


_KINETICS = WeightRecord(
    url="https://download.pytorch.org/models/mvit_v2_s-ae3be167.pth",
    sha256="ae3be167",
    code_license="BSD-3-Clause",
    weight_license="not stated apart from the code's BSD-3-Clause; ported from PySlowFast's "
    "(Apache-2.0)",
    origin="Kinetics-400 videos",
    frames=16,
    stride=4,
    image_size=224,
    mean=(0.45, 0.45, 0.45),
    std=(0.225, 0.225, 0.225),
    labels=400,
    top1=80.757,
    protocol="torchvision: video accuracy, 5 clips of 16 frames at 7.5 frames a second",
    paper="arXiv 2112.01526",
)

BACKBONES = (
    Backbone(
        name="mvit_v2_s",
        config_class=CTMViTv2Config,
        model_class=CTMViTv2Model,
        classifier_class=CTMViTv2ForVideoClassification,
        overrides={},
        tiny={"width": 8, "num_frames": 4, "image_size": 32},
        tiny_clip=(4, 32, 32),
        key_map=(
            ("conv_proj.", "backbone.blocks.0.conv_proj."),
            ("pos_encoding.", "backbone.blocks.0.pos_encoding."),
            *(
                (f"blocks.{number}.", f"backbone.blocks.{layer.stage + 1}.{layer.index}.")
                for number, layer in enumerate(_layers(CTMViTv2Config()))
            ),
            ("norm.", "backbone.norm."),
            ("head.1.", "classifier."),
        ),
        input_keys=("backbone.blocks.0.conv_proj.weight",),
        weights={"kinetics": _KINETICS},
        million_parameters=34.538,
        adapt=_adapt,
    ),
)
