"""2D networks on slices: pooling, chunks of slices, and torchvision's own records."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights, ResNeXt101_32X8D_Weights

from ct_video_hf.inference.localization import clip_forward
from ct_video_hf.models import create_model, get_backbone, processor_for
from ct_video_hf.models.weights import load_published

from .backbone_cases import enliven, tiny_clip, tiny_model
from .originals.slice_resnet import SMALL_RESNET18, small_resnet18

BASELINES = ("resnet18_2d", "resnext101_2d")
every_baseline = pytest.mark.parametrize("name", BASELINES)


@pytest.mark.parametrize("pool", ["max", "mean"])
@pytest.mark.parametrize("over", ["logits", "features"])
def test_torchvisions_network_slice_after_slice(pool, over):
    """The plain loop over slices, one picture at a time, for each way of pooling."""
    original = enliven(small_resnet18()).eval()
    ours = create_model("resnet18_2d", 5, head_pool=pool, pool_over=over, **SMALL_RESNET18)
    load_published(ours, original.state_dict(), get_backbone("resnet18_2d"))
    clip = torch.randn(1, 4, 3, 40, 48)
    classifier, original.fc = original.fc, nn.Identity()
    with torch.no_grad():
        features = torch.cat([original(clip[:, index]) for index in range(4)])
        slices = classifier(features) if over == "logits" else features
        pooled = slices.amax(0) if pool == "max" else slices.mean(0)
        expected = pooled if over == "logits" else classifier(pooled)
        found = ours(clip).logits[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert features.std(0).max() > 1e-3  # the slices differ, so the ways differ, too


@every_baseline
def test_one_slice_cannot_see_another(name):
    model = tiny_model(name)
    clip = tiny_clip(name, model=model)
    with torch.no_grad():
        torch.testing.assert_close(model(clip.flip(1)).logits, model(clip).logits)
        alone = torch.stack([model(clip[:, index : index + 1]).logits for index in range(3)])
        torch.testing.assert_close(model(clip).logits, alone.amax(0))


@every_baseline
@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_slices_in_portions_give_the_same_and_are_portions(name, at_once):
    whole, portions = tiny_model(name), tiny_model(name, slices_at_once=at_once)
    clip, seen = tiny_clip(name, model=whole, longer=4), []
    portions.backbone.blocks[0].register_forward_hook(
        lambda _, given, __: seen.append(len(given[0]))
    )
    with torch.no_grad():
        one = whole(clip, output_hidden_states=True)
        other = portions(clip, output_hidden_states=True)
    torch.testing.assert_close(other.logits, one.logits)
    for state, wanted in zip(other.hidden_states, one.hidden_states, strict=True):
        torch.testing.assert_close(state, wanted)
    assert max(seen) <= at_once
    assert sum(seen) == clip.shape[0] * clip.shape[1]


def test_portions_never_split_a_batch_statistic():
    """While batch norms learn all slices go together; frozen ones allow portions again."""
    model = tiny_model("resnet18_2d", slices_at_once=2).train()
    clip, seen = tiny_clip("resnet18_2d", model=model), []
    model.backbone.blocks[0].register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    model(clip)
    assert seen == [6]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    model(clip)
    assert seen == [6, 2, 2, 2]


@every_baseline
def test_the_deciding_slice_is_the_one_that_is_shown(name):
    """The maximum has its gradient in one slice alone: evidence points at no other."""
    model = tiny_model(name)
    clip = tiny_clip(name, model=model, batch=1, longer=3)
    with torch.no_grad():
        each = torch.cat([model(clip[:, index : index + 1]).logits for index in range(6)])
    _, activation = clip_forward(model, clip, 0)
    deciding = int(each[:, 0].argmax())
    others = [index for index in range(6) if index != deciding]
    assert activation.shape == (1, 6)
    assert torch.count_nonzero(activation[0, others]) == 0


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_channels_keep_the_response_to_a_repeated_picture(channels, tmp_path):
    original = enliven(small_resnet18()).eval()
    torch.save(original.state_dict(), tmp_path / "w.pth")
    picture = torch.rand(1, 2, 1, 32, 32)
    sizes = SMALL_RESNET18 | {"num_channels": channels}
    ours = create_model("resnet18_2d", 5, tmp_path / "w.pth", **sizes)
    with torch.no_grad():
        expected = original(picture[0].repeat(1, 3, 1, 1)).amax(0)
        found = ours(picture.repeat(1, 1, channels, 1, 1)).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "weights", "published"),
    [
        ("resnet18_2d", "imagenet", ResNet18_Weights.IMAGENET1K_V1),
        ("resnext101_2d", "imagenet", ResNeXt101_32X8D_Weights.IMAGENET1K_V1),
        ("resnext101_2d", "imagenet_v2", ResNeXt101_32X8D_Weights.IMAGENET1K_V2),
    ],
)
def test_the_records_are_torchvisions(name, weights, published):
    record, transforms = get_backbone(name).weights[weights], published.transforms()
    assert record.url == published.url
    assert record.sha256 == published.url[-12:-4]
    assert (list(record.mean), list(record.std)) == (transforms.mean, transforms.std)
    assert [record.image_size] == transforms.crop_size
    assert record.top1 == published.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert record.labels == len(published.meta["categories"])
    million = published.meta["num_params"] / 1e6
    assert get_backbone(name).million_parameters == round(million, 3)
    assert "ImageNet" in record.weight_license
    processor = processor_for(name)
    assert (processor.mean, processor.std) == (transforms.mean, transforms.std)
    assert (processor.size, processor.crop_size) == (256, 224)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": "wide"}, "block is 'wide'; allowed: basic, bottleneck"),
        ({"depths": [1, 1], "widths": [8]}, "equally long"),
        ({"groups": 2}, "Groups need block 'bottleneck'"),
        ({"slices_at_once": 0}, "slices_at_once is 0; at least 1"),
        ({"pool_over": "pixels"}, "pool_over is 'pixels'; allowed: logits, features"),
    ],
)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        create_model("resnet18_2d", **fields)
