"""pytorchvideo's R(2+1)D-R50, without the softmax that its head applies unless told otherwise."""

from __future__ import annotations

import functools

import torch
from pytorchvideo.models.hub import r2plus1d_r50
from pytorchvideo.models.r2plus1d import create_r2plus1d

from . import Original


def _small():
    torch.manual_seed(1)
    return create_r2plus1d(
        stem_dim_out=8,
        model_num_class=5,
        head_pool_kernel_size=(2, 1, 1),
        head_activation=None,
    )


ORIGINALS = {
    "r2plus1d_r50": Original(
        small=_small,
        sizes={"stem_width": 8, "head_pool_kernel": [2, 1, 1]},
        clips=((5, 32, 32), (9, 48, 64)),
        full=functools.partial(r2plus1d_r50, head_activation=None),
        full_clip=(13, 224, 224),
        million=28.108,
    )
}
