"""Our networks against the originals with the same weights, live branches and odd clips."""

from __future__ import annotations

import pytest
import torch
from pytorchvideo.models.r2plus1d import create_r2plus1d

from ct_video_hf.models import create_model, get_backbone, list_backbones
from ct_video_hf.models.slowfast import slow_frames
from ct_video_hf.models.weights import load_published

from .backbone_cases import enliven, without_chance
from .originals import all_originals

ORIGINALS = all_originals()
every_original = pytest.mark.parametrize("name", ORIGINALS)


def test_every_backbone_with_published_weights_has_an_original():
    published = {name for name in list_backbones() if get_backbone(name).weights}
    assert published <= ORIGINALS.keys()


def pair(name):
    original = enliven(ORIGINALS[name].small())
    ours = create_model(name, num_labels=5, **ORIGINALS[name].sizes)
    assert load_published(ours, original.state_dict(), get_backbone(name)) == []
    return original, ours


@every_original
@pytest.mark.parametrize("which", [0, 1])
def test_logits_and_features_of_the_original(name, which):
    original, ours = pair(name)
    reference = ORIGINALS[name]
    frames, rows, columns = reference.clips[which]
    pixels = torch.randn(2, frames, 3, rows, columns)
    features = []
    pool = reference.parts(original)[1]
    hook = pool.register_forward_hook(lambda _, __, out: features.append(out))
    with torch.no_grad():
        expected = reference.feed(original.eval(), pixels)
        found = ours(pixels, output_hidden_states=True)
    hook.remove()
    assert expected.std() > 1e-3
    assert (expected[0] - expected[1]).abs().max() > 1e-3, "the logits follow the pixels"
    torch.testing.assert_close(found.logits, expected, rtol=0, atol=1e-5)
    pooled = reference.pooled(features[0])
    torch.testing.assert_close(found.pooler_output, pooled, rtol=0, atol=1e-5)
    if which == 1 and getattr(ours.config, "head_pool", None) == "published":
        assert features[0][0, 0].numel() > 1, "the window slides: its quirk is covered"
        plain = found.hidden_states[-1].mean((2, 3, 4))
        if plain.shape == pooled.shape:
            assert (plain - pooled).abs().max() > 1e-3, "a plain mean would be another network"


@every_original
def test_training_step_of_the_original(name):
    """Same gradients and the same running statistics; chance off, for its draws differ."""
    original, ours = pair(name)
    for network in (original.train(), ours.train()):
        without_chance(network)
    frames, rows, columns = ORIGINALS[name].clips[1]
    pixels = torch.randn(2, frames, 3, rows, columns)
    expected = ORIGINALS[name].feed(original, pixels)
    found = ours(pixels).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    expected.square().sum().backward()
    found.square().sum().backward()
    assert count_parameters(original) == count_parameters(ours)
    stem, _, classifier = ORIGINALS[name].parts(original)
    first = next(stem.parameters()).grad
    mine = next(ours.backbone.blocks[0].parameters()).grad
    torch.testing.assert_close(mine, first, rtol=1e-3, atol=1e-5 * first.abs().max().item())
    torch.testing.assert_close(
        ours.classifier.weight.grad,
        classifier.weight.grad.reshape(ours.classifier.weight.shape),
        rtol=1e-4,
        atol=1e-5,
    )
    for one, other in zip(original.buffers(), ours.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def count_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@every_original
def test_initial_weights_have_the_originals_spread(name):
    build, sizes = ORIGINALS[name].small, ORIGINALS[name].sizes
    torch.manual_seed(2)
    ours = create_model(name, num_labels=5, **sizes).state_dict()
    original = create_model(name, num_labels=5, **sizes)
    load_published(original, build().state_dict(), get_backbone(name))
    for key, expected in original.state_dict().items():
        if expected.numel() < 2 or not expected.is_floating_point() or expected.std() == 0:
            assert torch.equal(ours[key], expected), key  # norms, biases, statistics, indices
        elif expected.numel() > 500:
            assert ours[key].std() == pytest.approx(expected.std(), rel=0.25), key
        elif key != "classifier.bias":
            assert 0 < ours[key].abs().max() < 3 * expected.abs().max(), key


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


def test_r2plus1d_gives_logits_where_the_published_head_gives_probabilities():
    sizes = ORIGINALS["r2plus1d_r50"].sizes
    published = enliven(
        create_r2plus1d(stem_dim_out=8, model_num_class=5, head_pool_kernel_size=(2, 1, 1))
    )
    ours = create_model("r2plus1d_r50", num_labels=5, **sizes)
    load_published(ours, published.state_dict(), get_backbone("r2plus1d_r50"))
    pixels = torch.randn(2, 5, 3, 32, 32)  # one position of the head's window
    with torch.no_grad():
        probabilities, logits = published.eval()(pixels.transpose(1, 2)), ours(pixels).logits
    torch.testing.assert_close(logits.softmax(1), probabilities)
    assert (logits.sum(1) - 1).abs().min() > 1e-3


@pytest.mark.slow
@every_original
def test_the_full_size_hub_network(name):
    reference = ORIGINALS[name]
    frames, rows, columns = reference.full_clip
    original = enliven(reference.full()).eval()
    classes = len(reference.parts(original)[2].weight)
    ours = create_model(name, num_labels=classes)
    assert load_published(ours, original.state_dict(), get_backbone(name)) == []
    assert count_parameters(ours) == count_parameters(original)
    if reference.million is not None:
        assert round(count_parameters(ours) / 1e6, 3) == reference.million
    assert get_backbone(name).million_parameters == reference.million
    pixels = torch.rand(1, frames, 3, rows, columns)
    with torch.no_grad():
        expected, found = reference.feed(original, pixels), ours(pixels).logits
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)
    if getattr(ours.config, "head_pool", None) == "published":
        assert ours.config.smallest_clip[0] == frames
