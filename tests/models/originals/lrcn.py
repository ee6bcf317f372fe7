"""The LRCN as a plain composition: torchvision's 2D network, torch's GRU, a linear layer."""

from __future__ import annotations

from torch import nn
from torchvision.models import resnet18, resnext101_32x8d

from . import Original
from .slice_resnet import SMALL_RESNET18, SMALL_RESNEXT, small_resnet18, small_resnext

WIDTH = 256


class PlainLRCN(nn.Module):
    """A 2D network's features of each slice -> GRU -> mean over the slices -> linear.

    The parts of the 2D network are its own, so that the state dict has torchvision's keys.
    """

    def __init__(self, network, classes):
        super().__init__()
        self.stem = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        for name in self.stem:
            setattr(self, name, getattr(network, name))
        self.gru = nn.GRU(network.fc.in_features, WIDTH, bidirectional=True, batch_first=True)
        self.sum_up = nn.Identity()
        self.fc = nn.Linear(2 * WIDTH, classes)

    def forward(self, pixels):
        batch, slices = pixels.shape[:2]
        video = pixels.flatten(0, 1)
        for name in self.stem:
            video = getattr(self, name)(video)
        features = video.mean((2, 3)).unflatten(0, (batch, slices))
        return self.fc(self.sum_up(self.gru(features)[0].mean(1)))


def feed(network, pixels):
    return network(pixels)


def _parts(network):
    return network.conv1, network.sum_up, network.fc


def _pooled(features):
    return features


def _preset(small, sizes, full, clip, million):
    return Original(
        small=lambda: PlainLRCN(small(), 5),
        sizes=sizes,
        full=lambda: PlainLRCN(full(), 7),
        full_clip=clip,
        million=million,
        feed=feed,
        parts=_parts,
        pooled=_pooled,
    )


ORIGINALS = {
    "lrcn_resnet18": _preset(small_resnet18, SMALL_RESNET18, resnet18, (4, 224, 224), None),
    "lrcn_resnext101": _preset(small_resnext, SMALL_RESNEXT, resnext101_32x8d, (3, 224, 224), None),
}
