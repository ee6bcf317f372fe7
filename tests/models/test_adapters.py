"""Low-rank adapters on every registered backbone: attach, learn, save, merge, load."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForVideoClassification

from ct_video_hf.models import list_backbones
from ct_video_hf.training.lora import add_lora, lora_targets, merge_lora

from .backbone_cases import tiny_clip, tiny_model

peft = pytest.importorskip("peft", reason="peft is not installed: no LoRA")

every_backbone = pytest.mark.parametrize("name", list_backbones())


def learned(name):
    """A tiny model with adapters after two steps, and a clip."""
    model = tiny_model(name, dropout=0.0)
    clip = tiny_clip(name, model=model)
    frames, rows, _ = clip.shape[1], clip.shape[3], clip.shape[4]
    model.config.num_frames, model.config.image_size = frames, rows
    torch.manual_seed(0)
    adapted = add_lora(model, 2).train()
    learning = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=0.05)
    for _ in range(2):  # in the first step the second factor is zero, and so the first's gradient
        optimizer.zero_grad()
        adapted(pixel_values=clip, labels=torch.tensor([1.0, 0.0])).loss.backward()
        optimizer.step()
    return adapted, clip


@every_backbone
def test_adapters_learn_and_merge(name, tmp_path):
    base = {key: value.clone() for key, value in tiny_model(name).state_dict().items()}
    adapted, clip = learned(name)
    moved = []
    for key, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            assert "lora_" in key or ".classifier." in key, key
            assert torch.isfinite(parameter.grad).all(), key
            moved += [bool(parameter.any())] if "lora_B" in key else []
    assert sum(moved) > 0.8 * len(moved), "all but a few behind dead units"
    adapted.eval()
    with torch.no_grad():
        expected = adapted(pixel_values=clip).logits
        adapted.disable_adapter_layers()
        assert not torch.allclose(adapted(pixel_values=clip).logits, expected)
        adapted.enable_adapter_layers()
    merged = merge_lora(adapted)
    with torch.no_grad():
        torch.testing.assert_close(merged(clip).logits, expected, rtol=1e-3, atol=1e-4)
    merged.save_pretrained(tmp_path)
    again = AutoModelForVideoClassification.from_pretrained(tmp_path)
    assert again.state_dict().keys() == base.keys()
    with torch.no_grad():
        torch.testing.assert_close(again(clip).logits, merged(clip).logits, rtol=1e-6, atol=1e-6)
    for key, value in again.named_buffers():
        assert torch.equal(value, base[key]), f"{key}: a frozen norm keeps its statistics"


@pytest.mark.parametrize("name", ["slow_r50"])
def test_the_adapter_alone_is_saved_and_loaded(name, tmp_path):
    adapted, clip = learned(name)
    adapted.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {"adapter_model.safetensors"}
    again = peft.PeftModel.from_pretrained(tiny_model(name, dropout=0.0), tmp_path)
    with torch.no_grad():
        expected = adapted.eval()(pixel_values=clip).logits
        torch.testing.assert_close(again.eval()(pixel_values=clip).logits, expected)


@every_backbone
def test_targets_are_called_layers_of_the_backbone(name):
    model = tiny_model(name)
    clip = tiny_clip(name, model=model)
    model.config.num_frames, model.config.image_size = clip.shape[1], clip.shape[3]
    targets = lora_targets(model)
    assert targets
    modules = dict(model.named_modules())
    assert all(getattr(modules[target], "groups", 1) == 1 for target in targets)
    assert not any(module._forward_hooks for module in modules.values())
