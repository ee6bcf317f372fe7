"""torchvision's S3D; its builder knows one size, so the small one has a smaller window only."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.video import s3d

from . import Original


def _small():
    torch.manual_seed(1)
    network = s3d(num_classes=5)
    network.avgpool = nn.AvgPool3d((2, 1, 1), stride=1)
    return network


def _parts(network):
    return network.features[0], network.avgpool, network.classifier[1]


ORIGINALS = {
    "s3d": Original(
        small=_small,
        sizes={"head_pool_kernel": [2, 1, 1]},
        clips=((14, 32, 32), (23, 48, 64)),
        full=s3d,
        full_clip=(14, 224, 224),
        million=8.32,
        parts=_parts,
    )
}
