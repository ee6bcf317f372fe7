"""S3D: its smallest clip, and checkpoints of CoCLR and ViCC as their public code writes them."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torchvision.models.video import s3d

from ct_video_hf.models import create_model, get_backbone
from ct_video_hf.models.s3d import CTS3DConfig
from ct_video_hf.models.weights import load_published, read_checkpoint

from .backbone_cases import enliven

RECORD = get_backbone("s3d")
SIZES = {
    "stem_widths": [4, 4, 8],
    "mixed_widths": [
        [[4, 4, 4, 2, 4, 4], [4, 4, 8, 2, 4, 4]],
        [[4, 4, 8, 2, 4, 4]] * 5,
        [[4, 4, 8, 2, 4, 4], [8, 4, 8, 2, 4, 4]],
    ],
}


# ---- the network of the public code, by its names ------------------------------------------------


def named(**modules):
    """A module that only holds others under their names."""
    holder = nn.Module()
    for name, module in modules.items():
        holder.add_module(name, module)
    return holder


def unit(inputs, outputs):
    return named(conv=nn.Conv3d(inputs, outputs, 1, bias=False), bn=nn.BatchNorm3d(outputs))


def separable(inputs, outputs, size, stride, padding):
    plane = nn.Conv3d(
        inputs, outputs, (1, size, size), (1, stride, stride), (0, padding, padding), bias=False
    )
    frames = nn.Conv3d(outputs, outputs, (size, 1, 1), (stride, 1, 1), (padding, 0, 0), bias=False)
    norms = {"bn1": nn.BatchNorm3d(outputs), "bn2": nn.BatchNorm3d(outputs)}
    return named(conv1=plane, conv2=frames, **norms)


def mixed(inputs, widths):
    first, middle, second, small, third, pooled = widths
    return named(
        branch0=named(**{"0": unit(inputs, first)}),
        branch1=named(**{"0": unit(inputs, middle), "1": separable(middle, second, 3, 1, 1)}),
        branch2=named(**{"0": unit(inputs, small), "1": separable(small, third, 3, 1, 1)}),
        branch3=named(**{"1": unit(inputs, pooled)}),
    )


def run(layer, video):
    """What a layer computes, told by the names that it holds."""
    parts = dict(layer.named_children())
    if "conv" in parts:
        return parts["bn"](parts["conv"](video)).relu()
    if "conv1" in parts:
        video = parts["bn1"](parts["conv1"](video)).relu()
        return parts["bn2"](parts["conv2"](video)).relu()
    branches = []
    for name, branch in parts.items():
        inner = nn.functional.max_pool3d(video, 3, 1, 1) if name == "branch3" else video
        for step in branch.children():
            inner = run(step, inner)
        branches.append(inner)
    return torch.cat(branches, 1)


class PublicS3D(nn.Module):
    """Every layer stands under its own name and, again, in ``block1`` to ``block5``."""

    def __init__(self):
        super().__init__()
        first, second, third = SIZES["stem_widths"]
        self.Conv_1a = separable(3, first, 7, 2, 3)
        self.block1 = nn.Sequential(self.Conv_1a)
        self.Conv_2b, self.Conv_2c = unit(first, second), separable(second, third, 3, 1, 1)
        pools = [
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            nn.MaxPool3d(3, 2, 1),
            nn.MaxPool3d(2, 2),
        ]
        self.block2 = nn.Sequential(pools[0], self.Conv_2b, self.Conv_2c)
        inputs = third
        for number, (pool, stage) in enumerate(
            zip(pools[1:], SIZES["mixed_widths"], strict=True), 3
        ):
            layers = []
            for letter, widths in zip("bcdef", stage, strict=False):
                layers.append(mixed(inputs, widths))
                inputs = widths[0] + widths[2] + widths[4] + widths[5]
                self.add_module(f"Mixed_{number}{letter}", layers[-1])
            self.add_module(f"block{number}", nn.Sequential(pool, *layers))
        self.outputs = inputs

    def forward(self, video):
        for number in range(1, 6):
            for layer in getattr(self, f"block{number}"):
                video = layer(video) if isinstance(layer, nn.MaxPool3d) else run(layer, video)
        return video


def encoder():
    backbone = PublicS3D()
    return nn.Sequential(
        backbone,
        nn.AdaptiveAvgPool3d(1),
        nn.Conv3d(backbone.outputs, backbone.outputs, 1),
        nn.ReLU(),
        nn.Conv3d(backbone.outputs, 16, 1),
    )


def pretrained(kind):
    """What CoCLR's or ViCC's code trains, with every tensor that it keeps."""
    torch.manual_seed(5)
    model = named(encoder_q=encoder())
    if kind == "vicc":
        model.second, model.prototypes = encoder(), nn.Linear(16, 30, bias=False)
    else:
        model.encoder_k, model.sampler = encoder(), encoder()
        for name in ("queue", "queue_second", "queue_vname", "queue_label", "queue_ptr"):
            model.register_buffer(name, torch.zeros(16, 8))
    return enliven(model).eval()


def checkpoint(kind, path):
    model = pretrained(kind)
    state = {"epoch": 182, "state_dict": model.state_dict(), "best_acc": 0.5, "iteration": 9}
    torch.save(state | {"optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]}}, path)
    return model


@pytest.mark.parametrize("kind", ["coclr", "vicc"])
def test_self_supervised_checkpoints(kind, tmp_path):
    model = checkpoint(kind, tmp_path / "a.pth.tar")
    ours = create_model("s3d", weights=tmp_path / "a.pth.tar", **SIZES)
    assert ours.config.norm_eps == 1e-5
    assert ours.config.norm_momentum == 0.1
    for clip in ((16, 32, 32), (21, 48, 64)):
        pixels = torch.randn(2, clip[0], 3, *clip[1:])
        with torch.no_grad():
            grid = model.encoder_q[0](pixels.transpose(1, 2))
            found = ours.backbone(pixels)
        assert (grid[0] - grid[1]).abs().max() > 1e-3, "the features follow the pixels"
        torch.testing.assert_close(found.last_hidden_state, grid, rtol=0, atol=1e-5)
        pooled = model.encoder_q[1](grid).flatten(1)
        torch.testing.assert_close(found.pooler_output, pooled, rtol=0, atol=1e-5)
    ours.save_pretrained(tmp_path / "folder")
    again = create_model("s3d", weights=tmp_path / "folder")
    with torch.no_grad():
        assert torch.equal(again(pixels).pooler_output, ours(pixels).pooler_output)


def test_with_torchvisions_epsilon_they_would_be_another_network(tmp_path):
    model = checkpoint("coclr", tmp_path / "a.pth.tar")
    with pytest.raises(ValueError, match=r"CoCLR or ViCC layout need a s3d with norm_eps=1e-05"):
        create_model("s3d", weights=tmp_path / "a.pth.tar", norm_eps=0.001, **SIZES)
    ours = create_model("s3d", weights=tmp_path / "a.pth.tar", **SIZES)
    other = create_model("s3d", norm_eps=0.001, head_pool="mean", **SIZES)
    other.backbone.load_state_dict(ours.backbone.state_dict())
    pixels = torch.randn(1, 16, 3, 32, 32)
    with torch.no_grad():
        grid = model.encoder_q[0](pixels.transpose(1, 2))
        assert (other.backbone(pixels).last_hidden_state - grid).abs().max() > 1e-4


def test_a_caller_may_pool_otherwise(tmp_path):
    checkpoint("vicc", tmp_path / "a.pth.tar")
    ours = create_model("s3d", weights=tmp_path / "a.pth.tar", head_pool="max", **SIZES)
    assert ours.config.head_pool == "max"


def test_self_supervised_checkpoints_are_read_as_strictly(tmp_path):
    checkpoint("coclr", tmp_path / "a.pth.tar")
    state = read_checkpoint(tmp_path / "a.pth.tar")
    model = create_model("s3d", norm_eps=1e-5, **SIZES)
    for change, message in (
        ({"encoder_q.0.Mixed_3b.gating_b0.fc.weight": torch.zeros(4, 4)}, "gating_b0"),
        ({"encoder_q.0.block2.2.conv1.weight": torch.zeros(8, 4, 1, 3, 3)}, "twice"),
    ):
        with pytest.raises(ValueError, match=message):
            load_published(model, state | change, RECORD)
    lost = {key: value for key, value in state.items() if "Conv_2b" not in key}
    load_published(model, lost, RECORD)  # it is still there as block2.1
    lost = {key: value for key, value in lost.items() if "block2.1.bn" not in key}
    with pytest.raises(ValueError, match=r"Missing: backbone\.blocks\.1\.1\.1\.bias"):
        load_published(model, lost, RECORD)


# ---- clips and sizes -----------------------------------------------------------------------------


def test_the_smallest_clips_are_the_networks():
    assert CTS3DConfig().smallest_clip == (14, 209, 209)
    assert CTS3DConfig(head_pool="mean").smallest_clip == (5, 17, 17)
    with torch.device("meta"):  # shapes only
        network = s3d(num_classes=2).eval()
        network(torch.zeros(1, 3, 14, 209, 209))
        for clip in ((12, 209, 209), (14, 208, 209), (14, 209, 208)):
            with pytest.raises(RuntimeError):
                network(torch.zeros(1, 3, *clip))
        network.features(torch.zeros(1, 3, 5, 17, 17))
        for clip in ((4, 17, 17), (5, 16, 17)):
            with pytest.raises(RuntimeError):
                network.features(torch.zeros(1, 3, *clip))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stem_widths": [64]}, "3 values are expected"),
        ({"mixed_widths": [[[1, 2]], [], []]}, "six widths"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0"),
        ({"head_pool": "median"}, "allowed"),
    ],
)
def test_impossible_sizes_are_refused(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        CTS3DConfig(**fields)
