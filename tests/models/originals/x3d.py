"""pytorchvideo's X3D."""

from __future__ import annotations

import functools

import torch
from pytorchvideo.models.hub import x3d_m, x3d_s
from pytorchvideo.models.x3d import create_x3d

from . import Original

_SIZES = {
    "width_factor": 1.0,
    "depth_factor": 1.0,
    "head_width": 40,
    "head_pool_kernel": [3, 1, 1],
}


def _small():
    torch.manual_seed(1)
    return create_x3d(
        input_clip_length=3,
        input_crop_size=32,
        model_num_class=5,
        width_factor=1.0,
        depth_factor=1.0,
        head_dim_out=40,
        head_activation=None,
    )


def _preset(build, clip):
    full = functools.partial(build, head_activation=None)
    return Original(small=_small, sizes=_SIZES, full=full, full_clip=clip, million=3.794)


ORIGINALS = {"x3d_s": _preset(x3d_s, (13, 160, 160)), "x3d_m": _preset(x3d_m, (16, 224, 224))}
