"""Frozen stages of every registered backbone stay as they are, in train mode too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ct_video_hf.models import list_backbones

from .backbone_cases import tiny_clip, tiny_model

every_backbone = pytest.mark.parametrize("name", list_backbones())


def step(model, clip):
    """One step of plain gradient descent; the names of what it changed, buffers included."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1)
    model(clip, labels=torch.tensor([1.0, 0.0])).loss.backward()
    optimizer.step()
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}


@every_backbone
def test_frozen_stages_do_not_move_and_the_others_do(name):
    model = tiny_model(name, dropout=0.0).train()
    stages = model.backbone.parameter_stages()
    model.freeze_stages(2)
    changed = step(model, tiny_clip(name, model=model))
    assert not any(key.startswith(("backbone.blocks.0.", "backbone.blocks.1.")) for key in changed)
    for key, parameter in model.backbone.named_parameters():
        assert (parameter.grad is None) == (stages[key] < 2), key
    moved = {stages[key] for key in stages if f"backbone.{key}" in changed}
    assert moved == {stage for stage in stages.values() if stage >= 2}
    assert "classifier.weight" in changed
    for module in [*model.backbone.blocks[0].modules(), *model.backbone.blocks[1].modules()]:
        assert not module.training
    assert model.training
    model.freeze_stages(0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.backbone.blocks[0].training


@every_backbone
def test_all_stages_are_the_whole_backbone(name):
    model = tiny_model(name).train()
    most = max(model.backbone.parameter_stages().values()) + 1
    model.freeze_stages(most)
    changed = step(model, tiny_clip(name, model=model))
    assert changed == {"classifier.weight", "classifier.bias"}
    with pytest.raises(ValueError, match=f"has {most}, the stem among them"):
        model.freeze_stages(most + 1)
    with pytest.raises(ValueError, match="-1 stages"):
        model.freeze_stages(-1)


def test_a_frozen_norm_keeps_its_statistics_wherever_it_stands():
    model = tiny_model("slow_r50").train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d)]
    norms[3].requires_grad_(False)
    model.train()
    assert [norm.training for norm in norms] == [index != 3 for index in range(len(norms))]
    model.eval()
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_behind_frozen_stages_keeps_the_gradients(reentrant):
    """Reentrant recomputation sees no input that needs a gradient there."""
    plain, saving = tiny_model("slow_r50", dropout=0.0), tiny_model("slow_r50", dropout=0.0)
    saving.gradient_checkpointing_enable({"use_reentrant": reentrant})
    clip = tiny_clip("slow_r50", model=plain)
    for model in (plain, saving):
        model.train().freeze_stages(2)
        model(clip, labels=torch.tensor([1.0, 0.0])).loss.backward()
    for (key, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert (one.grad is None) == (not one.requires_grad), key
        torch.testing.assert_close(one.grad, other.grad, msg=key)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(value, saving.state_dict()[key], rtol=0, atol=0, msg=key)
