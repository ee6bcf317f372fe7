"""The LRCN: where its weights come from, what it pools, and that it reads slices in order."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForVideoClassification

from ct_video_hf.inference.localization import clip_forward
from ct_video_hf.models import create_model, get_backbone, processor_for
from ct_video_hf.models.weights import load_published

from .backbone_cases import enliven, tiny_clip, tiny_model
from .originals.lrcn import PlainLRCN
from .originals.slice_resnet import SMALL_RESNET18, small_resnet18

NAME = "lrcn_resnet18"
GRU = "backbone.head_pool."


def test_a_picture_checkpoint_gives_the_2d_network_and_the_rest_starts_anew(tmp_path):
    picture = enliven(small_resnet18(classes=1000)).eval()
    torch.save(picture.state_dict(), tmp_path / "resnet.pth")
    for labels in (1, 1000):  # the pictures' classifier is never taken for the LRCN's
        model = create_model(
            NAME, labels, tmp_path / "resnet.pth", recurrent_width=256, **SMALL_RESNET18
        )
        clip = torch.rand(1, 3, 3, 40, 40)
        with torch.no_grad():
            features = model.backbone(clip).last_hidden_state.mean((3, 4))[0].T
            picture.fc = torch.nn.Identity()
            torch.testing.assert_close(features, picture(clip[0]), rtol=0, atol=1e-5)
        assert 0 < model.classifier.weight.std() < 0.1
        bound = 256**-0.5
        for key, value in model.state_dict().items():
            if key.startswith(GRU):
                assert value.abs().max() <= bound
                assert value.std() == pytest.approx(bound / 3**0.5, rel=0.1), key


def test_a_half_recurrent_layer_is_refused():
    whole = PlainLRCN(small_resnet18(), 5).state_dict()
    half = {key: value for key, value in whole.items() if "reverse" not in key}
    model = create_model(NAME, 5, **SMALL_RESNET18)
    with pytest.raises(ValueError, match=r"does not fit lrcn_resnet18\. Missing: .*reverse"):
        load_published(model, half, get_backbone(NAME))


def test_a_recurrent_layer_absent_from_a_folder_is_no_garbage(tmp_path):
    model = tiny_model(NAME)
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith(GRU)}
    model.save_pretrained(tmp_path, state_dict=kept)
    again = AutoModelForVideoClassification.from_pretrained(tmp_path)
    for key, value in again.state_dict().items():
        if key.startswith(GRU):
            assert 0 < value.abs().max() <= 6**-0.5, key


@pytest.mark.parametrize("pool", ["mean", "max", "last"])
def test_what_is_classified(pool):
    original = enliven(PlainLRCN(small_resnet18(), 5)).eval()
    ours = create_model(NAME, 5, head_pool=pool, **SMALL_RESNET18)
    load_published(ours, original.state_dict(), get_backbone(NAME))
    clip = torch.randn(2, 6, 3, 32, 32)
    with torch.no_grad():
        features = ours.backbone(clip).last_hidden_state.mean((3, 4)).transpose(1, 2)
        outputs, ends = original.gru(features)
        ways = {
            "mean": outputs.mean(1),
            "max": outputs.amax(1),
            "last": torch.cat([ends[0], ends[1]], 1),  # forwards at the last slice, backwards at 0
        }
        torch.testing.assert_close(ours(clip).logits, original.fc(ways[pool]), rtol=0, atol=1e-5)
        assert (outputs[:, -1, :256] - ends[0]).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["lrcn_resnet18", "lrcn_resnext101"])
def test_it_reads_slices_in_their_order_and_any_number_of_them(name):
    model = tiny_model(name)
    clip = tiny_clip(name, model=model, longer=4)
    with torch.no_grad():
        assert not torch.allclose(model(clip.flip(1)).logits, model(clip).logits, atol=1e-5)
        for slices in (1, 2, 7):
            assert torch.isfinite(model(clip[:, :slices]).logits).all()
        portions = tiny_model(name, slices_at_once=3)
        torch.testing.assert_close(portions(clip).logits, model(clip).logits)
    _, activation = clip_forward(model, clip, 0)  # the recurrent layer is differentiated
    assert activation.shape == (2, 7)
    assert torch.isfinite(activation).all()


def test_records_and_processor_are_those_of_the_2d_network():
    for ours, theirs in (("lrcn_resnet18", "resnet18_2d"), ("lrcn_resnext101", "resnext101_2d")):
        assert get_backbone(ours).weights == get_backbone(theirs).weights
        assert processor_for(ours).to_dict() == processor_for(theirs).to_dict()


def test_impossible_configurations_are_refused():
    with pytest.raises(ValueError, match="head_pool is 'median'; allowed: mean, max, last"):
        create_model(NAME, head_pool="median")
    with pytest.raises(ValueError, match="an LRCN pools features"):
        create_model(NAME, pool_over="logits")
    with pytest.raises(ValueError, match="recurrent_width is 0"):
        create_model(NAME, recurrent_width=0)
