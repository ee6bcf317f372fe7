"""pytorchvideo's CSN-R101; the small one has the depths of a 50-layer network."""

from __future__ import annotations

import torch
from pytorchvideo.models.csn import create_csn
from pytorchvideo.models.hub import csn_r101

from . import Original


def _small():
    torch.manual_seed(1)
    return create_csn(
        stem_dim_out=8,
        stem_pool=torch.nn.MaxPool3d,
        model_num_class=5,
        head_pool_kernel_size=(2, 1, 1),
    )


ORIGINALS = {
    "csn_r101": Original(
        small=_small,
        sizes={"stem_width": 8, "depths": [3, 4, 6, 3], "head_pool_kernel": [2, 1, 1]},
        clips=((9, 32, 32), (17, 48, 64)),
        full=csn_r101,
        full_clip=(25, 224, 224),
        million=22.214,
    )
}
