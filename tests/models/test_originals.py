"""Our networks against the originals with the same weights, live branches and odd clips."""

from __future__ import annotations

import pytest
import torch
from pytorchvideo.models.hub import slow_r50, slowfast_r50, x3d_m, x3d_s
from pytorchvideo.models.resnet import create_resnet
from pytorchvideo.models.slowfast import create_slowfast
from pytorchvideo.models.x3d import create_x3d
from torchvision.models.video import mc3_18, r2plus1d_18, r3d_18

from ct_video_hf.models import create_model, get_backbone
from ct_video_hf.models.slowfast import slow_frames
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


def small_slowfast():
    torch.manual_seed(1)
    return create_slowfast(
        stem_dim_outs=(16, 2),
        model_num_class=5,
        head_pool_kernel_sizes=((2, 1, 1), (8, 1, 1)),
    )


def torchvision_resnet(build):
    def make():
        torch.manual_seed(1)
        return build(num_classes=5)

    return make


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
    "slowfast_r50": (small_slowfast, {"stem_width": 16, "head_pool_kernel": [8, 1, 1]}),
    # torchvision's builders know one size
    "r3d_18": (torchvision_resnet(r3d_18), {}),
    "mc3_18": (torchvision_resnet(mc3_18), {}),
    "r2plus1d_18": (torchvision_resnet(r2plus1d_18), {}),
}
CLIPS = [(3, 32, 32), (5, 48, 64)]
EIGHT_FRAMES = [(8, 32, 32), (8, 48, 64)]  # SlowFast's windows meet at one length


def clip_of(name, clip):
    return dict(zip(CLIPS, EIGHT_FRAMES, strict=True))[clip] if name == "slowfast_r50" else clip


def feed(name, original, pixels):
    """The original's own way to take (batch, frame, channel, row, column)."""
    video = pixels.transpose(1, 2)
    if name != "slowfast_r50":
        return original(video)
    frames = video.shape[2]
    index = torch.linspace(0, frames - 1, frames // 4).long()
    return original([video[:, :, index], video])


def pair(name):
    build, sizes = SMALL[name]
    original = enliven(build())
    ours = create_model(name, num_labels=5, **sizes)
    assert load_published(ours, original.state_dict(), get_backbone(name)) == []
    return original, ours


def parts(name, original):
    """The original's first layer, pooling and classifier."""
    if hasattr(original, "blocks"):
        head = original.blocks[-1]
        return original.blocks[0], head.pool or original.blocks[-2], head.proj
    return original.stem, original.avgpool, original.fc


@pytest.mark.parametrize("name", sorted(SMALL))
@pytest.mark.parametrize("clip", CLIPS)
def test_logits_and_features_of_the_original(name, clip):
    original, ours = pair(name)
    frames, rows, columns = clip_of(name, clip)
    pixels = torch.randn(2, frames, 3, rows, columns)
    features = []
    pool = parts(name, original)[1]
    hook = pool.register_forward_hook(lambda _, __, out: features.append(out))
    with torch.no_grad():
        expected = feed(name, original.eval(), pixels)
        found = ours(pixels, output_hidden_states=True)
    hook.remove()
    assert expected.std() > 1e-3
    torch.testing.assert_close(found.logits, expected, rtol=0, atol=1e-5)
    pooled = features[0].mean((2, 3, 4))
    torch.testing.assert_close(found.pooler_output, pooled, rtol=0, atol=1e-5)
    if clip == CLIPS[1] and ours.config.head_pool == "published":
        assert features[0][0, 0].numel() > 1, "the window slides: its quirk is covered"
        plain = found.hidden_states[-1].mean((2, 3, 4))
        if plain.shape == pooled.shape:
            assert (plain - pooled).abs().max() > 1e-3, "a plain mean would be another network"


@pytest.mark.parametrize("name", sorted(SMALL))
def test_training_step_of_the_original(name):
    """Same gradients and the same running statistics; dropout off, for its draws differ."""
    original, ours = pair(name)
    for network in (original.train(), ours.train()):
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    frames, rows, columns = clip_of(name, CLIPS[1])
    pixels = torch.randn(2, frames, 3, rows, columns)
    expected = feed(name, original, pixels)
    found = ours(pixels).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    expected.square().sum().backward()
    found.square().sum().backward()
    assert count_parameters(original) == count_parameters(ours)
    stem, _, classifier = parts(name, original)
    first = next(stem.parameters()).grad
    mine = next(ours.backbone.blocks[0].parameters()).grad
    torch.testing.assert_close(mine, first, rtol=1e-3, atol=1e-5 * first.abs().max().item())
    torch.testing.assert_close(
        ours.classifier.weight.grad, classifier.weight.grad, rtol=1e-4, atol=1e-5
    )
    for one, other in zip(original.buffers(), ours.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def count_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", sorted(SMALL))
def test_initial_weights_have_the_originals_spread(name):
    build, sizes = SMALL[name]
    torch.manual_seed(2)
    ours = create_model(name, num_labels=5, **sizes).state_dict()
    original = create_model(name, num_labels=5, **sizes)
    load_published(original, build().state_dict(), get_backbone(name))
    for key, expected in original.state_dict().items():
        if expected.ndim < 2:  # norms, biases and statistics
            assert torch.equal(ours[key], expected) or key == "classifier.bias", key
        elif expected.numel() > 500:
            assert ours[key].std() == pytest.approx(expected.std(), rel=0.25), key


def test_slow_frames_are_pytorchvideos_where_it_is_exact():
    for frames in range(4, 129, 4):
        index = torch.linspace(0, frames - 1, frames // 4, dtype=torch.float64)
        assert slow_frames(frames, 4) == (index + 1e-9).long().tolist()
    assert slow_frames(32, 4) == torch.linspace(0, 31, 8).long().tolist()
    assert slow_frames(5, 4) == [0, 4]
    assert slow_frames(1, 4) == [0]


def test_slowfast_names_the_length_it_takes():
    model = create_model("slowfast_r50", **get_backbone("slowfast_r50").tiny)
    clip = torch.rand(1, 12, 3, 32, 32)
    with pytest.raises(ValueError, match=r"takes exactly 8\. head_pool='mean'"):
        model(clip)
    free = create_model(
        "slowfast_r50", **(dict(get_backbone("slowfast_r50").tiny) | {"head_pool": "mean"})
    )
    for frames in (1, 7, 8, 12):
        assert free(clip[:, :frames]).logits.shape == (1, 1)
    free.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(free(clip[:, :8]).logits, model(clip[:, :8]).logits)


HUB = {
    "slow_r50": (slow_r50, (8, 224, 224), 32.454),
    "x3d_s": (lambda: x3d_s(head_activation=None), (13, 160, 160), 3.794),
    "x3d_m": (lambda: x3d_m(head_activation=None), (16, 224, 224), 3.794),
    "slowfast_r50": (slowfast_r50, (32, 224, 224), 34.566),
    "r3d_18": (r3d_18, (4, 112, 112), 33.371),
    "mc3_18": (mc3_18, (4, 112, 112), 11.695),
    "r2plus1d_18": (r2plus1d_18, (4, 112, 112), 31.505),
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
        expected, found = feed(name, original, pixels), ours(pixels).logits
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)
    if ours.config.head_pool == "published":
        assert ours.config.smallest_clip[0] == frames
