"""PENet's encoder from its published facts: a function of tensors named as in the checkpoint.

Nothing of the package is used. The modules below hold parameters under the published names and give
forward hooks something to hold on to; what is computed stands in ``forward``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from . import Original


class PublishedPENet(nn.Module):
    """The encoder with a classifier; ``widths`` are the ``channels`` of its stages."""

    def __init__(self, stem=64, widths=(128, 256, 512, 1024), depths=(3, 4, 6, 3), classes=600):
        super().__init__()
        self.in_conv = nn.Sequential(
            nn.Conv3d(3, stem, 7, bias=False), nn.GroupNorm(stem // 16, stem)
        )
        self.encoders = nn.ModuleList()
        inputs = stem
        for width, depth in zip(widths, depths, strict=True):
            blocks = nn.ModuleList()
            for _ in range(depth):
                blocks.append(_parameters(inputs, width, first=len(blocks) == 0))
                inputs = 2 * width
            self.encoders.append(nn.ModuleDict({"penet_blocks": blocks}))
        self.pooled = nn.Identity()
        self.classifier = nn.ModuleDict({"fc": nn.Linear(inputs, classes)})
        for name, parameter in self.named_parameters():
            if parameter.ndim == 5:
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
            elif name.endswith("norm3.weight") or name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.01)

    def forward(self, video):
        """Logits of (batch, channel, frame, row, column)."""
        tensors = dict(self.named_parameters())
        if video.shape[1] == 1:
            video = video.repeat(1, 3, 1, 1, 1)
        video = F.conv3d(video, tensors["in_conv.0.weight"], stride=(1, 2, 2), padding=3)
        video = F.leaky_relu(_group_norm(video, tensors, "in_conv.1"), 0.01)
        video = F.max_pool3d(video, 3, 2, 1)
        for stage in range(len(self.encoders)):
            for block in range(len(self.encoders[stage]["penet_blocks"])):
                prefix = f"encoders.{stage}.penet_blocks.{block}"
                video = _block(video, tensors, prefix, 2 if stage > 0 and block == 0 else 1)
        pooled = self.pooled(video.mean((2, 3, 4), keepdim=True))
        weight, bias = tensors["classifier.fc.weight"], tensors["classifier.fc.bias"]
        return F.linear(pooled.flatten(1), weight, bias)


def _parameters(inputs, width, first):
    outputs = 2 * width
    block = nn.Module()
    block.conv1 = nn.Conv3d(inputs, width, 1, bias=False)
    block.norm1 = nn.GroupNorm(width // 16, width)
    block.conv2 = nn.Conv3d(width, width, 3, groups=32, bias=False)
    block.norm2 = nn.GroupNorm(width // 16, width)
    block.conv3 = nn.Conv3d(width, outputs, 1, bias=False)
    block.norm3 = nn.GroupNorm(outputs // 16, outputs)
    block.se_block = nn.Module()
    squeeze, excite = nn.Linear(outputs, outputs // 16), nn.Linear(outputs // 16, outputs)
    block.se_block.excite = nn.ModuleList([squeeze, nn.Identity(), excite])
    if first:
        block.down_sample = nn.ModuleList(
            [nn.Conv3d(inputs, outputs, 1, bias=False), nn.GroupNorm(outputs // 16, outputs)]
        )
    return block


def _group_norm(video, tensors, name):
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    return F.group_norm(video, video.shape[1] // 16, weight, bias, 1e-5)


def _block(video, tensors, prefix, stride):
    def conv(video, name, **options):
        return F.conv3d(video, tensors[f"{prefix}.{name}.weight"], **options)

    def norm(video, name):
        return _group_norm(video, tensors, f"{prefix}.{name}")

    skip = video
    if f"{prefix}.down_sample.0.weight" in tensors:
        skip = norm(conv(video, "down_sample.0", stride=stride), "down_sample.1")
    inner = F.leaky_relu(norm(conv(video, "conv1"), "norm1"), 0.01)
    inner = conv(inner, "conv2", stride=stride, padding=1, groups=32)
    inner = F.leaky_relu(norm(inner, "norm2"), 0.01)
    outer = norm(conv(inner, "conv3"), "norm3")
    excite = f"{prefix}.se_block.excite"
    gate = outer.mean((2, 3, 4))
    gate = F.linear(gate, tensors[f"{excite}.0.weight"], tensors[f"{excite}.0.bias"])
    gate = F.leaky_relu(gate, 0.01)
    gate = F.linear(gate, tensors[f"{excite}.2.weight"], tensors[f"{excite}.2.bias"])
    scaled = outer * torch.sigmoid(gate).reshape(*gate.shape, 1, 1, 1)
    return F.leaky_relu(scaled + skip, 0.01)


def _small():
    torch.manual_seed(1)
    return PublishedPENet(stem=32, widths=(32, 64, 64, 96), depths=(1, 2, 1, 2), classes=5)


def _parts(network):
    return network.in_conv, network.pooled, network.classifier["fc"]


ORIGINALS = {
    "penet": Original(
        small=_small,
        sizes={
            "stem_width": 32,
            "widths": [32, 64, 64, 96],
            "depths": [1, 2, 1, 2],
            "stochastic_depth": 0.0,  # of its draws, see test_penet.py
        },
        clips=((5, 32, 32), (9, 48, 64)),
        full=PublishedPENet,
        full_clip=(24, 112, 112),
        million=29.626,
        parts=_parts,
    )
}
