"""torchvision's Video Swin-T."""

from __future__ import annotations

import torch
from torchvision.models.video import swin3d_t
from torchvision.models.video.swin_transformer import SwinTransformer3d

from . import Original


def _small():
    torch.manual_seed(1)
    return SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=8,
        depths=[2, 2, 2, 2],
        num_heads=[1, 2, 2, 4],
        window_size=[2, 3, 3],
        num_classes=5,
    )


def _parts(network):
    return network.patch_embed, network.avgpool, network.head


ORIGINALS = {
    "swin3d_t": Original(
        small=_small,
        sizes={
            "width": 8,
            "depths": [2, 2, 2, 2],
            "heads": [1, 2, 2, 4],
            "window": [2, 3, 3],
        },
        clips=((8, 64, 64), (5, 48, 70)),  # the second is padded in every direction
        full=swin3d_t,
        full_clip=(32, 112, 112),
        million=28.158,
        parts=_parts,
    )
}
