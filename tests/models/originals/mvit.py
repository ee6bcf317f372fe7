"""pytorchvideo's MViT-B."""

from __future__ import annotations

import torch
from pytorchvideo.models.hub import mvit_base_32x3
from pytorchvideo.models.vision_transformers import create_multiscale_vision_transformers

from . import Original, class_token


def _small():
    torch.manual_seed(1)
    return create_multiscale_vision_transformers(
        spatial_size=64,
        temporal_size=6,
        patch_embed_dim=16,
        depth=16,
        embed_dim_mul=[[1, 2.0], [3, 2.0], [14, 2.0]],
        atten_head_mul=[[1, 2.0], [3, 2.0], [14, 2.0]],
        pool_q_stride_size=[[1, 1, 2, 2], [3, 1, 2, 2], [14, 1, 2, 2]],
        pool_kv_stride_adaptive=[1, 8, 8],
        pool_kvq_kernel=[3, 3, 3],
        head_num_classes=5,
    )


def _parts(network):
    return network.patch_embed, network.norm_embed, network.head.proj


ORIGINALS = {
    "mvit_b_32x3": Original(
        small=_small,
        sizes={"width": 16, "num_frames": 6, "image_size": 64},
        clips=((6, 64, 64), (5, 62, 61)),  # the two sizes make one grid of patches
        full=mvit_base_32x3,
        full_clip=(32, 224, 224),
        million=36.611,
        parts=_parts,
        pooled=class_token,
    )
}
