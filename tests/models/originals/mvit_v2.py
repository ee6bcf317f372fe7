"""torchvision's MViTv2-S."""

from __future__ import annotations

import torch
from torchvision.models.video import mvit_v2_s
from torchvision.models.video.mvit import MSBlockConfig, MViT

from . import Original, class_token

WIDTH = 16


def build(frames, size):
    """The published structure with few channels, for clips of one size."""
    torch.manual_seed(1)
    blocks, width = [], WIDTH
    for stage, depth in enumerate((1, 2, 11, 2)):
        for index in range(depth):
            blocks.append(
                MSBlockConfig(
                    num_heads=2**stage,
                    input_channels=width,
                    output_channels=WIDTH * 2**stage,
                    kernel_q=[3, 3, 3],
                    kernel_kv=[3, 3, 3],
                    stride_q=[1, 2, 2] if stage and not index else [1, 1, 1],
                    stride_kv=[1, 8 // 2**stage, 8 // 2**stage],
                )
            )
            width = WIDTH * 2**stage
    return MViT(
        spatial_size=(size, size),
        temporal_size=frames,
        block_setting=blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        num_classes=5,
    )


def _small():
    return build(6, 64)


def _parts(network):
    return network.conv_proj, network.norm, network.head[1]


ORIGINALS = {
    "mvit_v2_s": Original(
        small=_small,
        sizes={"width": WIDTH, "num_frames": 6, "image_size": 64},
        clips=((6, 64, 64), (5, 62, 61)),  # the two sizes make one grid of patches
        full=mvit_v2_s,
        full_clip=(16, 224, 224),
        million=34.538,
        parts=_parts,
        pooled=class_token,
    )
}
