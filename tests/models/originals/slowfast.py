"""pytorchvideo's SlowFast-R50."""

from __future__ import annotations

import torch
from pytorchvideo.models.hub import slowfast_r50
from pytorchvideo.models.slowfast import create_slowfast

from . import Original


def _small():
    torch.manual_seed(1)
    return create_slowfast(
        stem_dim_outs=(16, 2),
        model_num_class=5,
        head_pool_kernel_sizes=((2, 1, 1), (8, 1, 1)),
    )


def _feed(network, pixels):
    video = pixels.transpose(1, 2)
    frames = video.shape[2]
    index = torch.linspace(0, frames - 1, frames // 4).long()
    return network([video[:, :, index], video])


ORIGINALS = {
    "slowfast_r50": Original(
        small=_small,
        sizes={"stem_width": 16, "head_pool_kernel": [8, 1, 1]},
        clips=((8, 32, 32), (8, 48, 64)),  # its windows meet at one length
        full=slowfast_r50,
        full_clip=(32, 224, 224),
        million=34.566,
        feed=_feed,
    )
}
