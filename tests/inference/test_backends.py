"""Every backend computes the same network, says so, and is chosen as documented."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ct_video_hf.errors import CTVideoError
from ct_video_hf.inference import fast_backend
from ct_video_hf.inference.backends import choose_backend
from ct_video_hf.inference.fast_graph import fast_graph
from ct_video_hf.inference.fast_weights import ConvolutionWeights, PackedConvolution
from ct_video_hf.inference.localization import clip_forward
from ct_video_hf.models import list_backbones

from ..models.backbone_cases import tiny_clip, tiny_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", list_backbones())
def test_fast_is_the_eager_network_for_every_backbone(name):
    model = tiny_model(name)
    clips = tiny_clip(name, batch=2, model=model)
    fast = choose_backend("fast", model, CPU, torch.float32)
    eager = choose_backend("eager", model, CPU, torch.float32)
    expected, along = clip_forward(model, clips, 0, eager)
    found, fast_along = clip_forward(model, clips, 0, fast)
    assert "fast graph" in fast.name
    assert fast.precision == "float32"
    assert fast.setup_seconds > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    if along is not None:
        torch.testing.assert_close(fast_along, along, rtol=1e-3, atol=1e-3 * along.max().item())
    other = torch.randn_like(clips)  # the recorded graph holds nothing of the first clip
    expected, _ = clip_forward(model, other, 0, eager)
    torch.testing.assert_close(
        clip_forward(model, other, 0, fast)[0], expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["slow_tiny", "slowfast_r50", "x3d_s", "r2plus1d_18"])
def test_bfloat16_is_near_and_says_so(name):
    model = tiny_model(name)
    clips = tiny_clip(name, batch=1, model=model)
    fast = choose_backend("fast", model, CPU, torch.bfloat16)
    _, found = fast(clips)
    _, exact = choose_backend("eager", model, CPU, torch.float32)(clips)
    assert fast.precision == "bfloat16"
    assert found.dtype == torch.float32
    far = (found - exact).norm() / exact.norm()
    assert 1e-4 < far < 0.05, "bfloat16 has three digits"


def test_auto_leaves_small_networks_eager_and_says_why():
    model = tiny_model("slow_tiny")
    auto = choose_backend("auto", model, CPU, torch.float32)
    auto(tiny_clip("slow_tiny", model=model))
    assert auto.name.endswith("eager, cpu (the network is small)")


def test_auto_takes_the_fast_graph_where_it_gains(monkeypatch):
    monkeypatch.setattr(fast_backend, "_SMALL_GFLOP", 0.0)
    ticks = iter([0.0, 0.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0])  # eager 9 s, fast 1 s
    monkeypatch.setattr(fast_backend, "time", SimpleNamespace(perf_counter=ticks.__next__))
    model = tiny_model("slow_tiny")
    auto = choose_backend("auto", model, CPU, torch.float32)
    auto(tiny_clip("slow_tiny", model=model))
    assert auto.name.endswith("fast graph, cpu")


def test_auto_stays_eager_where_the_fast_graph_is_slower(monkeypatch):
    monkeypatch.setattr(fast_backend, "_SMALL_GFLOP", 0.0)
    ticks = iter([0.0, 0.0, 1.0, 10.0, 19.0, 20.0, 29.0, 30.0])  # eager 1 s, fast 9 s
    monkeypatch.setattr(fast_backend, "time", SimpleNamespace(perf_counter=ticks.__next__))
    model = tiny_model("slow_tiny")
    auto = choose_backend("auto", model, CPU, torch.float32)
    auto(tiny_clip("slow_tiny", model=model))
    assert auto.name.endswith("eager, cpu (the fast graph was slower)")


def test_a_rewritten_network_that_differs_is_refused(monkeypatch, caplog):
    """The rewriting is broken on purpose: the check on the first clip has to find it."""

    def off(network, clip, dtype, **options):
        run = fast_graph(network, clip, dtype, **options)
        return lambda pixels: tuple(part * 1.001 for part in run(pixels))

    monkeypatch.setattr(fast_backend, "_SMALL_GFLOP", 0.0)
    monkeypatch.setattr(fast_backend, "fast_graph", off)
    model = tiny_model("slow_tiny")
    clips = tiny_clip("slow_tiny", model=model)
    with pytest.raises(CTVideoError, match="features differ by"):
        choose_backend("fast", model, CPU, torch.float32)(clips)
    auto = choose_backend("auto", model, CPU, torch.float32)
    with caplog.at_level(logging.WARNING):
        found = auto(clips)
    assert "features differ by" in caplog.text
    assert "eager, cpu (" in auto.name
    expected = choose_backend("eager", model, CPU, torch.float32)(clips)
    assert torch.equal(found[1], expected[1])


def test_another_clip_shape_is_recorded_anew():
    model = tiny_model("slow_tiny")
    fast = choose_backend("fast", model, CPU, torch.float32)
    eager = choose_backend("eager", model, CPU, torch.float32)
    for longer in (0, 3):
        clips = tiny_clip("slow_tiny", batch=1, model=model, longer=longer)
        torch.testing.assert_close(fast(clips)[1], eager(clips)[1])


class _Aliases(nn.Module):
    """Writes that are seen through views."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv3d(3, 4, 1)
        self.two = nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0), bias=False)

    def forward(self, video):
        first = self.one(video)
        kept = first[:, :2]
        second = self.two(first)
        first += 1
        kept.mul_(2)
        return (second + first).relu(), kept.relu()


class _Reused(nn.Module):
    """Tensors that are read again after they were summed, normed or cut off."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv3d(3, 4, 1)
        self.two = nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.three = nn.Conv3d(4, 4, 1)
        self.norm = nn.BatchNorm3d(4)
        self.lonely = nn.BatchNorm3d(4)

    def forward(self, video):
        first = self.one(video).relu()
        second = self.two(first)
        normed = self.norm(second)
        total = (normed + first).relu_()
        late = self.three(total) + total  # a convolution that adds its own input
        late = self.two(late) + self.three(first).add_(late)
        return self.lonely(total) * first, second + late, late


@pytest.mark.parametrize("kind", [_Aliases, _Reused])
def test_rewriting_keeps_what_is_read_again(kind):
    torch.manual_seed(0)
    network = kind().eval()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm3d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    clip = torch.randn(1, 3, 5, 6, 7)
    run = fast_graph(network, clip)
    for _ in range(2):  # twice: nothing of the first run is left behind
        with torch.no_grad():
            for found, expected in zip(run(clip), network(clip), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("columns", "dtype", "joined"),
    [(7, torch.float32, True), (7, torch.bfloat16, True), (14, torch.float32, True),
     (14, torch.bfloat16, False), (28, torch.float32, False)],
)  # fmt: skip
def test_narrow_rows_are_joined_along_time(columns, dtype, joined):
    """Strides, dilations and what lies how in memory change nothing."""
    layer = nn.Conv3d(4, 6, (3, 1, 1), stride=(2, 1, 1), padding=(2, 0, 0), dilation=(2, 1, 1))
    layer = layer.to(dtype)
    clip, shortcut = torch.randn(2, 4, 9, 3, columns), torch.randn(2, 6, 5, 3, columns)
    clip, shortcut = clip.to(dtype), shortcut.to(dtype)
    geometry = (list(kind) for kind in (layer.stride, layer.padding, layer.dilation))
    weights = ConvolutionWeights(layer.weight, layer.bias, *geometry, 1, list(clip.shape))
    packed = PackedConvolution(weights, relu=True)
    assert (packed.grid is not None) == joined
    near = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}
    with torch.no_grad():
        expected = layer(clip)
        torch.testing.assert_close(packed(clip), expected.relu(), **near)
        one = packed(clip[:1])
        torch.testing.assert_close(one, expected[:1].relu(), **near)
        assert torch.cat([one, one], 1).stride(1) == 1, "what follows keeps channels innermost"
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            packed.overwrite = layout == torch.channels_last_3d
            found = packed(clip, shortcut.clone(memory_format=layout))
            torch.testing.assert_close(found, (expected + shortcut).relu(), **near)


def test_names_that_do_not_fit_are_refused():
    model = tiny_model("slow_tiny")
    with pytest.raises(CTVideoError, match="allowed: auto, eager, fast"):
        choose_backend("quick", model, CPU, torch.float32)
    with pytest.raises(CTVideoError, match="this is Linear on cpu"):
        choose_backend("fast", nn.Linear(1, 1), CPU, torch.float32)
    assert choose_backend("auto", nn.Linear(1, 1), CPU, torch.float32).name.endswith("eager, cpu")
