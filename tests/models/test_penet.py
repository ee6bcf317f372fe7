"""PENet: stochastic depth, single channels, the layouts of its checkpoints and their licence."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from ct_video_hf.models import create_model, get_backbone
from ct_video_hf.models.penet import CTPENetConfig, CTPENetForVideoClassification, PENetBlock
from ct_video_hf.models.weights import load_published

from .backbone_cases import enliven, tiny_clip, tiny_model
from .originals import all_originals

RECORD = get_backbone("penet")
REFERENCE = all_originals()["penet"]


def test_parameters_of_the_published_network():
    with torch.device("meta"):
        model = CTPENetForVideoClassification(CTPENetConfig(num_labels=600))
    assert sum(parameter.numel() for parameter in model.parameters()) == 29_626_056
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert shapes["backbone.blocks.1.0.conv2.weight"] == (128, 4, 3, 3, 3)
    assert shapes["backbone.blocks.1.0.se_block.excite.0.weight"] == (16, 256)


def blocks_of(model):
    return [module for module in model.modules() if isinstance(module, PENetBlock)]


def test_survival_falls_from_one_to_a_half():
    with torch.device("meta"):
        model = CTPENetForVideoClassification(CTPENetConfig())
    assert [1 - block.skip for block in blocks_of(model)] == [1 - 0.5 * i / 16 for i in range(16)]


def live_block(skip, inputs=8):
    torch.manual_seed(3)
    config = CTPENetConfig(**RECORD.tiny)
    return enliven(PENetBlock(config, inputs, 8, 1, skip))


def test_a_skipped_block_returns_its_shortcut_as_it_is():
    for inputs in (8, 16):  # a shortcut with a convolution, and the input itself
        block, video = live_block(1.0, inputs).train(), torch.randn(2, inputs, 3, 4, 4)
        shortcut = video if block.down_sample is None else block.down_sample(video)
        assert (block.down_sample is None) is (inputs == 16)
        assert (shortcut < 0).any(), "no activation comes after it"
        assert torch.equal(block(video), shortcut)
        kept = live_block(0.0, inputs)
        assert torch.equal(block.eval()(video), kept(video)), "it is there in evaluation"


def test_blocks_are_skipped_as_often_as_said_and_only_in_training():
    block, video = live_block(0.3).train(), torch.randn(1, 8, 1, 2, 2)
    torch.manual_seed(0)
    with torch.no_grad():
        shortcut = block.down_sample(video)
        skipped = sum(torch.equal(block(video), shortcut) for _ in range(1000))
        assert 260 < skipped < 340  # three standard deviations are 43
        assert not any(torch.equal(block.eval()(video), shortcut) for _ in range(50))


def test_a_skipped_branch_gets_gradients_of_zero():
    """None would stop processes that train together and draw differently."""
    block = live_block(1.0).train()
    block(torch.randn(2, 8, 3, 4, 4)).square().sum().backward()
    for key, parameter in block.named_parameters():
        assert parameter.grad is not None, key
        assert bool(torch.count_nonzero(parameter.grad)) is key.startswith("down_sample"), key


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputed_pass_repeats_the_draws(reentrant):
    gradients = []
    for saving in (False, True):
        model = tiny_model("penet", stochastic_depth=1.0, depths=[1, 3, 3, 2]).train()
        if saving:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        torch.manual_seed(11)
        clip = tiny_clip("penet", model=model).requires_grad_()
        model(clip, labels=torch.tensor([1.0, 0.0])).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert any(torch.count_nonzero(gradient) == 0 for gradient in gradients[0]), "some are skipped"
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_one_channel_is_repeated_or_summed_to_the_same_logits():
    original = enliven(REFERENCE.small()).eval()
    single = torch.randn(2, 5, 1, 32, 32)
    with torch.no_grad():
        expected = original(single.transpose(1, 2))
        for repeated in (True, False):
            ours = create_model(
                "penet",
                num_labels=5,
                num_channels=1,
                expand_single_channel=repeated,
                **REFERENCE.sizes,
            )
            load_published(ours, original.state_dict(), RECORD)
            stem = ours.backbone.blocks[0][0]
            assert stem.in_channels == (3 if repeated else 1)
            torch.testing.assert_close(ours(single).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrapper", ["model_state", "state_dict"])
@pytest.mark.parametrize("blocks", ["penet_blocks", "xnet_blocks"])
def test_published_files_old_and_new(wrapper, blocks, tmp_path):
    original = enliven(REFERENCE.small()).eval()
    state = {
        f"module.{key.replace('penet_blocks', blocks)}": value
        for key, value in original.state_dict().items()
    }
    torch.save({wrapper: state, "ckpt_info": {"epoch": 90}, "model_name": "P"}, tmp_path / "a.tar")
    ours = create_model("penet", 5, tmp_path / "a.tar", **REFERENCE.sizes)
    pixels = torch.randn(1, 5, 3, 32, 32)
    with torch.no_grad():
        expected = original(pixels.transpose(1, 2))
        torch.testing.assert_close(ours(pixels).logits, expected, rtol=0, atol=1e-5)
    del state["module.encoders.1." + blocks + ".1.norm2.bias"]
    torch.save({wrapper: state}, tmp_path / "b.tar")
    with pytest.raises(ValueError, match=r"Missing: backbone\.blocks\.2\.1\.norm2\.bias\."):
        create_model("penet", 5, tmp_path / "b.tar", **REFERENCE.sizes)


def test_weights_without_licence_are_refused_by_name():
    with pytest.raises(ValueError, match=r"never downloaded: none is stated.*ct-video-hf convert"):
        create_model("penet", weights="kinetics", **RECORD.tiny)
    assert RECORD.weights["kinetics"].url is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": [100, 256, 512, 1024]}, "100, not a multiple of cardinality 32"),
        ({"widths": [128]}, "4 values are expected"),
        ({"stem_width": 24}, "stem_width 24 is not a multiple"),
        ({"se_reduction": 7}, "256 outer channels are not a multiple of se_reduction 7"),
        ({"stochastic_depth": 1.5}, "stochastic_depth is 1.5; 0 to 1"),
    ],
)
def test_impossible_sizes_are_refused(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        CTPENetConfig(**fields)
