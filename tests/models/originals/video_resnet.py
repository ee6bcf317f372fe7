"""torchvision's R3D-18, MC3-18 and R(2+1)D-18; their builders know one size."""

from __future__ import annotations

import torch
from torchvision.models.video import mc3_18, r2plus1d_18, r3d_18

from . import Original


def _parts(network):
    return network.stem, network.avgpool, network.fc


def _preset(build, million):
    def small():
        torch.manual_seed(1)
        return build(num_classes=5)

    return Original(
        small=small, sizes={}, full=build, full_clip=(4, 112, 112), million=million, parts=_parts
    )


ORIGINALS = {
    "r3d_18": _preset(r3d_18, 33.371),
    "mc3_18": _preset(mc3_18, 11.695),
    "r2plus1d_18": _preset(r2plus1d_18, 31.505),
}
