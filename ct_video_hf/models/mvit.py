"""MViT networks: transformers that pool their tokens from stage to stage.

Fan et al., "Multiscale Vision Transformers", arXiv 2104.11227. Composed of pytorchvideo's modules;
preset ``mvit_b_32x3`` is the network of its hub function ``mvit_base_32x3``, key for key. Positions
are learned for one grid of patches: a model takes clips of its configuration's size, and weights
for another size are brought to it by linear interpolation when they are loaded.
"""

import functools
import logging
from typing import ClassVar

import torch
from huggingface_hub.dataclasses import strict
from pytorchvideo.layers import MultiScaleBlock, SpatioTemporalClsPositionalEncoding
from pytorchvideo.models.stem import create_conv_patch_embed
from torch import nn
from torchvision.ops import StochasticDepth

from .base import CTVideoClassifier
from .mvit_parts import CTMultiscaleBackbone, CTMultiscaleConfig, CTMultiscaleInit
from .positions import resample_grid, square_side
from .records import Backbone, WeightRecord

__all__ = ["BACKBONES", "CTMViTConfig", "CTMViTForVideoClassification", "CTMViTModel"]

logger = logging.getLogger(__name__)

_STEM = "backbone.blocks.0."
_POSITIONS = f"{_STEM}cls_positional_encoding.pos_embed_"


@strict
class CTMViTConfig(CTMultiscaleConfig):
    """Sizes of an MViT; the defaults are MViT-B 32x3.

    Kernels and strides are (frame, row, column).
    """

    model_type = "ct_mvit"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "CTMViTModel",
        "AutoModelForVideoClassification": "CTMViTForVideoClassification",
    }

    #: Channels inside an MLP over those of its block.
    mlp_ratio: float | int = 4.0


class _Stem(nn.Module):
    """Clip to tokens: patches, the class token in front, and their positions."""

    def __init__(self, config: CTMViTConfig) -> None:
        super().__init__()
        self.patch_embed = create_conv_patch_embed(
            in_channels=config.num_channels,
            out_channels=config.width,
            conv_kernel_size=tuple(config.patch_kernel),
            conv_stride=tuple(config.patch_stride),
            conv_padding=tuple(size // 2 for size in config.patch_kernel),
        )
        self.cls_positional_encoding = SpatioTemporalClsPositionalEncoding(
            config.width, config.patch_grid, sep_pos_embed=True, has_cls=True
        )

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return self.cls_positional_encoding(self.patch_embed(video))


def _block(config: CTMViTConfig, stage: int, index: int) -> nn.Module:
    width, depth = config.width * 2**stage, config.depths[stage]
    pools = stage > 0 and index == 0
    widens = stage < len(config.depths) - 1 and index == depth - 1
    layer = MultiScaleBlock(
        dim=width,
        dim_out=width * 2 if widens else width,
        num_heads=config.heads * 2**stage,
        mlp_ratio=config.mlp_ratio,
        qkv_bias=True,
        norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
        kernel_q=config.pool_kernel if pools else [],
        stride_q=config.query_stride if pools else [],
        kernel_kv=config.pool_kernel,
        stride_kv=config.key_value_strides(stage),
    )
    # pytorchvideo's own draws its mask in the input's dtype, where bfloat16 rounds.
    layer.drop_path = StochasticDepth(config.drop_rate(stage, index), "row")
    return layer


class CTMViTModel(CTMultiscaleBackbone):
    """An MViT without classifier."""

    config_class = CTMViTConfig
    _no_split_modules = ["MultiScaleBlock"]  # noqa: RUF012 - transformers reads a class attribute

    @staticmethod
    def make_stem(config: CTMViTConfig) -> nn.Module:
        """Clip to tokens."""
        return _Stem(config)

    @staticmethod
    def make_layer(config: CTMViTConfig, stage: int, index: int) -> nn.Module:
        """A block of pytorchvideo's: tokens, grid -> tokens, grid."""
        return _block(config, stage, index)


class CTMViTForVideoClassification(CTMultiscaleInit, CTVideoClassifier):
    """An MViT with a classifier."""

    config_class = CTMViTConfig
    backbone_class = CTMViTModel
    _no_split_modules = ["MultiScaleBlock"]  # noqa: RUF012 - transformers reads a class attribute


CTMViTConfig.register_for_auto_class()
CTMViTModel.register_for_auto_class("AutoModel")
CTMViTForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")


def _adapt(state: dict[str, torch.Tensor], config: CTMViTConfig) -> dict[str, torch.Tensor]:
    """Bring position embeddings to the configuration's grid of patches."""
    spatial, temporal = f"{_POSITIONS}spatial", f"{_POSITIONS}temporal"
    if not {spatial, temporal} <= state.keys():
        return state
    frames, rows, columns = config.patch_grid
    found = (state[temporal].shape[1], state[spatial].shape[1])
    if found == (frames, rows * columns):
        return state
    side, width = square_side(found[1], spatial), state[spatial].shape[2]
    square = resample_grid(state[spatial].reshape(side, side, width), (rows, columns))
    logger.info(
        "Position embeddings interpolated from %d x %d x %d to %d x %d x %d patches.",
        *(found[0], side, side, frames, rows, columns),
    )
    return state | {
        spatial: square.reshape(1, rows * columns, width),
        temporal: resample_grid(state[temporal][0], (frames,))[None],
    }


_DEPTHS = (1, 2, 11, 2)
_LAYERS = [(stage + 1, index) for stage, depth in enumerate(_DEPTHS) for index in range(depth)]

_KINETICS = WeightRecord(
    url="https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/"
    "MVIT_B_32x3_f294077834.pyth",
    sha256=None,
    code_license="Apache-2.0",
    weight_license="not stated apart from the code's Apache-2.0",
    origin="Kinetics-400 videos",
    frames=32,
    stride=3,
    image_size=224,
    mean=(0.45, 0.45, 0.45),
    std=(0.225, 0.225, 0.225),
    labels=400,
    top1=80.30,
    protocol="pytorchvideo model zoo: 5 temporal x 1 spatial views",
    paper="arXiv 2104.11227",
)

BACKBONES = (
    Backbone(
        name="mvit_b_32x3",
        config_class=CTMViTConfig,
        model_class=CTMViTModel,
        classifier_class=CTMViTForVideoClassification,
        overrides={},
        tiny={"width": 8, "num_frames": 4, "image_size": 32},
        tiny_clip=(4, 32, 32),
        key_map=(
            ("patch_embed.", f"{_STEM}patch_embed."),
            ("cls_positional_encoding.", f"{_STEM}cls_positional_encoding."),
            *(
                (f"blocks.{number}.", f"backbone.blocks.{stage}.{index}.")
                for number, (stage, index) in enumerate(_LAYERS)
            ),
            ("norm_embed.", "backbone.norm."),
            ("head.proj.", "classifier."),
        ),
        input_keys=(f"{_STEM}patch_embed.patch_model.weight",),
        weights={"kinetics": _KINETICS},
        million_parameters=36.611,
        adapt=_adapt,
    ),
)
