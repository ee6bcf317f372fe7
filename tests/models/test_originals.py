"""Our networks against the originals with the same weights, live branches and odd clips."""

from __future__ import annotations

import pytest
import torch
from pytorchvideo.models.hub import slow_r50, x3d_m, x3d_s
from pytorchvideo.models.resnet import create_resnet
from pytorchvideo.models.x3d import create_x3d

from ct_video_hf.models import create_model, get_backbone
from ct_video_hf.models.weights import load_published

from .backbone_cases import enliven


def small_slow():
    torch.manual_seed(1)
    return create_resnet(
        model_depth=50,
        stem_conv_kernel_size=(1, 7, 7),
        stem_dim_out=8,
        model_num_class=5,
        head_pool_kernel_size=(3, 1, 1),
    )


def small_x3d():
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


# Ours with the sizes of the small originals above; dropout of the published 0.5.
SMALL = {
    "slow_r50": (small_slow, {"stem_width": 8, "head_pool_kernel": [3, 1, 1]}),
    "x3d_s": (
        small_x3d,
        {
            "width_factor": 1.0,
            "depth_factor": 1.0,
            "head_width": 40,
            "head_pool_kernel": [3, 1, 1],
        },
    ),
}
CLIPS = [(3, 32, 32), (5, 48, 64)]


def pair(name):
    build, sizes = SMALL[name]
    original = enliven(build())
    ours = create_model(name, num_labels=5, **sizes)
    assert load_published(ours, original.state_dict(), get_backbone(name)) == []
    return original, ours


@pytest.mark.parametrize("name", sorted(SMALL))
@pytest.mark.parametrize("clip", CLIPS)
def test_logits_and_features_of_the_original(name, clip):
    original, ours = pair(name)
    frames, rows, columns = clip
    pixels = torch.randn(2, frames, 3, rows, columns)
    features = []
    head = original.blocks[-1]
    hook = head.pool.register_forward_hook(lambda _, __, out: features.append(out))
    with torch.no_grad():
        expected = original.eval()(pixels.transpose(1, 2))
        found = ours(pixels, output_hidden_states=True)
    hook.remove()
    assert expected.std() > 1e-3
    torch.testing.assert_close(found.logits, expected, rtol=0, atol=1e-5)
    pooled = features[0].mean((2, 3, 4))
    torch.testing.assert_close(found.pooler_output, pooled, rtol=0, atol=1e-5)
    if clip == CLIPS[1]:
        assert features[0][0, 0].numel() > 1, "the window slides: its quirk is covered"
        plain = found.hidden_states[-1].mean((2, 3, 4))
        if plain.shape == pooled.shape:
            assert (plain - pooled).abs().max() > 1e-3, "a plain mean would be another network"


@pytest.mark.parametrize("name", sorted(SMALL))
def test_training_step_of_the_original(name):
    """Same gradients and the same running statistics; dropout off, for its draws differ."""
    original, ours = pair(name)
    original.train().blocks[-1].dropout.p = 0.0
    ours.train().dropout.p = 0.0
    pixels = torch.randn(2, 5, 3, 48, 64)
    expected = original(pixels.transpose(1, 2))
    found = ours(pixels).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    expected.square().sum().backward()
    found.square().sum().backward()
    assert count_parameters(original) == count_parameters(ours)
    first = next(original.blocks[0].parameters()).grad
    torch.testing.assert_close(next(ours.backbone.blocks[0].parameters()).grad, first)
    proj = original.blocks[-1].proj.weight.grad
    torch.testing.assert_close(ours.classifier.weight.grad, proj, rtol=1e-4, atol=1e-5)
    for one, other in zip(original.buffers(), ours.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def count_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", sorted(SMALL))
def test_initial_weights_have_the_originals_spread(name):
    build, sizes = SMALL[name]
    original, ours = build().state_dict(), create_model(name, num_labels=5, **sizes)
    load_published(create_model(name, num_labels=5, **sizes), original, get_backbone(name))
    stds = {key: value for key, value in ours.state_dict().items() if value.numel() > 500}
    renamed = create_model(name, num_labels=5, **sizes)
    load_published(renamed, original, get_backbone(name))
    for key, value in stds.items():
        expected = renamed.state_dict()[key].std()
        assert value.std() == pytest.approx(expected, rel=0.25), key
    for key, value in renamed.state_dict().items():
        if key.endswith(("norm_c.weight", "norm.weight", "norm_a.weight")):
            assert torch.equal(value, ours.state_dict()[key]), key


HUB = {
    "slow_r50": (slow_r50, (8, 224, 224), 32.454),
    "x3d_s": (lambda: x3d_s(head_activation=None), (13, 160, 160), 3.794),
    "x3d_m": (lambda: x3d_m(head_activation=None), (16, 224, 224), 3.794),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(HUB))
def test_the_full_size_hub_network(name):
    build, (frames, rows, columns), million = HUB[name]
    original = enliven(build()).eval()
    ours = create_model(name, num_labels=400)
    assert load_published(ours, original.state_dict(), get_backbone(name)) == []
    assert count_parameters(ours) == count_parameters(original)
    assert round(count_parameters(ours) / 1e6, 3) == million
    assert get_backbone(name).million_parameters == million
    pixels = torch.rand(1, frames, 3, rows, columns)
    with torch.no_grad():
        expected, found = original(pixels.transpose(1, 2)), ours(pixels).logits
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)
    assert ours.config.smallest_clip[0] == frames
