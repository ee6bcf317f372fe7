"""pytorchvideo's Slow-R50."""

from __future__ import annotations

import torch
from pytorchvideo.models.hub import slow_r50
from pytorchvideo.models.resnet import create_resnet

from . import Original


def _small():
    torch.manual_seed(1)
    return create_resnet(
        model_depth=50,
        stem_conv_kernel_size=(1, 7, 7),
        stem_dim_out=8,
        model_num_class=5,
        head_pool_kernel_size=(3, 1, 1),
    )


ORIGINALS = {
    "slow_r50": Original(
        small=_small,
        sizes={"stem_width": 8, "head_pool_kernel": [3, 1, 1]},
        full=slow_r50,
        full_clip=(8, 224, 224),
        million=32.454,
    )
}
