"""What a network computes slice by slice, and that it says so."""

from __future__ import annotations

import pytest
import torch

from ct_video_hf.models import list_backbones

from .backbone_cases import tiny_clip, tiny_model

#: All others mix slices in their first stage, SlowFast in its fast pathway and the fusion.
ALONE = {
    "slow_r50": 3,
    "slow_tiny_2d": 4,
    "r2plus1d_r50": 1,
    "resnet18_2d": 5,
    "resnext101_2d": 5,
    "lrcn_resnet18": 5,
    "lrcn_resnext101": 5,
}


def test_which_stages_see_slices_alone():
    found = {name: tiny_model(name).backbone.slice_stages for name in list_backbones()}
    assert {name: count for name, count in found.items() if count} == ALONE


@pytest.mark.parametrize("name", ALONE)
def test_two_parts_are_the_whole_network(name):
    backbone = tiny_model(name).backbone
    clips = tiny_clip(name, batch=2)
    frames = clips.shape[1]
    with torch.no_grad():
        expected = backbone.to_explain(clips)
        features = backbone.slice_features(clips.flatten(0, 1).flip(0)).flip(0)
        found = backbone.explain_slices(features.unflatten(0, (2, frames)).transpose(1, 2))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in ALONE if name.startswith(("slow", "r2plus"))])
def test_a_slice_does_not_see_its_neighbours_and_the_next_stage_does(name):
    backbone = tiny_model(name).backbone
    clip = tiny_clip(name, batch=1)
    other = clip.clone()
    other[:, 1] = torch.rand(clip.shape[3:], generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        one, two = (backbone.slice_features(some[0]) for some in (clip, other))
        changed = [not torch.equal(a, b) for a, b in zip(one, two, strict=True)]
        assert changed == [index == 1 for index in range(len(one))]
        if backbone.slice_stages < len(backbone.blocks):
            block = backbone.blocks[backbone.slice_stages]
            after = [block(some.transpose(0, 1).unsqueeze(0))[0] for some in (one, two)]
            assert not torch.equal(after[0][:, 0], after[1][:, 0])


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"norm": "group", "norm_group_channels": 2}, 0),
        ({"stem_kernel": [3, 7, 7]}, 0),
        ({"stem_pool_stride": [2, 2, 2]}, 0),
        ({"temporal_kernels": [1, 1, 1, 1]}, 5),
        ({"temporal_kernels": [1, 1, 1, 3]}, 4),
        ({"temporal_strides": [1, 2, 1, 1]}, 2),
        ({"spatial_kernels": [[3, 3, 3], [1, 3, 3], [1, 3, 3], [1, 3, 3]]}, 1),
    ],
)
def test_what_mixes_slices_ends_the_part(changes, count):
    assert tiny_model("slow_r50", head_pool="mean", **changes).backbone.slice_stages == count
