"""torchvision's ResNet-18 and ResNeXt-101 on every slice, and the largest logit over the slices."""

from __future__ import annotations

import torch
from torchvision.models import ResNet, resnet18, resnext101_32x8d
from torchvision.models.resnet import BasicBlock, Bottleneck

from . import Original

BATCH = 2  # clips in a batch of the comparison


def feed(network, pixels):
    """Every slice as a picture of its own; label by label the largest logit of a clip."""
    logits = network(pixels.flatten(0, 1))
    return logits.unflatten(0, pixels.shape[:2]).amax(1)


def _parts(network):
    return network.conv1, network.avgpool, network.fc


def _pooled(features):
    return features.flatten(1).unflatten(0, (BATCH, -1)).mean(1)


def small_resnet18(classes=5):
    torch.manual_seed(1)
    return ResNet(BasicBlock, [1, 2, 1, 1], num_classes=classes)


def small_resnext(classes=5):
    torch.manual_seed(1)
    return ResNet(Bottleneck, [1, 1, 2, 1], classes, groups=8, width_per_group=8)


SMALL_RESNET18 = {"depths": [1, 2, 1, 1]}
SMALL_RESNEXT = {"depths": [1, 1, 2, 1], "groups": 8, "group_width": 8}


ORIGINALS = {
    "resnet18_2d": Original(
        small=small_resnet18,
        sizes=SMALL_RESNET18,
        full=resnet18,
        full_clip=(4, 224, 224),
        million=11.69,
        feed=feed,
        parts=_parts,
        pooled=_pooled,
    ),
    "resnext101_2d": Original(
        small=small_resnext,
        sizes=SMALL_RESNEXT,
        full=resnext101_32x8d,
        full_clip=(3, 224, 224),
        million=88.791,
        feed=feed,
        parts=_parts,
        pooled=_pooled,
    ),
}
