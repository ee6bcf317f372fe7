"""Every backbone of the registry behaves as a transformers model; run on tiny configurations."""

from __future__ import annotations

import json
import pickle
import re

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    Trainer,
    TrainingArguments,
)

from ct_video_hf.inference.localization import clip_forward
from ct_video_hf.models import create_model, get_backbone, list_backbones, processor_for
from tests.support.stranger import run_as_stranger

from .backbone_cases import UNSEEN, tiny_clip, tiny_model, without_chance

NAMES = list_backbones()
every_backbone = pytest.mark.parametrize("name", NAMES)
# One preset of each family: for what is slow and the same within a family.
FAMILIES = {get_backbone(name).config_class: name for name in reversed(NAMES)}
every_family = pytest.mark.parametrize("name", sorted(FAMILIES.values()))


@every_backbone
def test_saved_and_loaded_gives_the_same_bits(name, tmp_path):
    model = tiny_model(name, num_labels=3)
    clip = tiny_clip(name, model=model)
    with torch.no_grad():
        before = model(clip, output_hidden_states=True)
    model.save_pretrained(tmp_path)
    again = AutoModelForVideoClassification.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert not again.training
    with torch.no_grad():
        after = again(clip, output_hidden_states=True)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.pooler_output, after.pooler_output)
    for one, other in zip(before.hidden_states, after.hidden_states, strict=True):
        assert torch.equal(one, other)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@every_backbone
def test_auto_classes_find_config_backbone_and_processor(name, tmp_path):
    model = tiny_model(name)
    model.save_pretrained(tmp_path)
    processor_for(name).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).to_diff_dict() == model.config.to_diff_dict()
    backbone = AutoModel.from_pretrained(tmp_path)
    clip = tiny_clip(name, model=model)
    with torch.no_grad():
        features, wanted = backbone(clip), model(clip)
    assert torch.equal(features.pooler_output, wanted.pooler_output)
    assert features.pooler_output.shape == (2, model.config.feature_size)
    assert features.last_hidden_state.ndim == 5
    assert AutoVideoProcessor.from_pretrained(tmp_path).to_dict() == {
        **processor_for(name).to_dict(),
        "auto_map": {"AutoVideoProcessor": "processing_ct.CTVideoProcessor"},
    }


@every_backbone
def test_a_new_head_is_initialised_and_the_rest_kept(name, tmp_path):
    model = tiny_model(name, num_labels=1)
    model.save_pretrained(tmp_path)
    again, info = AutoModelForVideoClassification.from_pretrained(
        tmp_path, num_labels=5, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert {key for key, *_ in info["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
    assert torch.count_nonzero(again.classifier.bias) == 0
    assert 0 < again.classifier.weight.std() < 0.1
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, again.backbone.state_dict()[key]), key


@every_backbone
def test_missing_weights_get_their_initial_values_not_garbage(name, tmp_path):
    """Statistics and norms absent from a checkpoint must not be uninitialised memory."""
    model = tiny_model(name)
    whole = model.state_dict()
    norms = [
        prefix
        for prefix, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm)
    ]
    kept = {
        key: value
        for key, value in whole.items()
        if not any(key.startswith(prefix + ".") for prefix in norms)
    }
    assert len(kept) < len(whole)
    model.save_pretrained(tmp_path, state_dict=dict(kept))  # it empties what it is given
    again = AutoModelForVideoClassification.from_pretrained(tmp_path)
    fresh = create_model(name, **get_backbone(name).tiny).state_dict()
    for key, value in again.state_dict().items():
        expected = kept.get(key, fresh[key])
        assert torch.equal(value, expected), key


@every_backbone
def test_initial_weights_are_the_originals_kind(name):
    torch.manual_seed(0)
    model = create_model(name, **get_backbone(name).tiny)
    finals = [m for m in model.modules() if getattr(m, "block_final_bn", False)]
    assert all(torch.count_nonzero(norm.weight) == 0 for norm in finals)
    for parameter in model.parameters():
        assert torch.isfinite(parameter).all()


@every_backbone
def test_training_reaches_every_parameter(name):
    model = without_chance(tiny_model(name)).train()
    clip = tiny_clip(name, model=model, batch=4)
    output = model(clip, labels=torch.tensor([0.0, 1.0, 1.0, 0.0]))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        if not (name in UNSEEN and re.search(UNSEEN[name], key)):
            assert torch.count_nonzero(parameter.grad) > 0, key


@every_backbone
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(name, reentrant):
    plain, saving = (without_chance(tiny_model(name)).train() for _ in range(2))
    saving.activation_checkpointing_enable({"use_reentrant": reentrant})
    assert saving.backbone.gradient_checkpointing
    clip = tiny_clip(name, model=plain).requires_grad_()
    labels = torch.tensor([1.0, 0.0])
    for model in (plain, saving):
        model(clip, labels=labels).loss.backward()
    for (key, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=key)
    for key, value in plain.state_dict().items():  # batch statistics are counted once
        torch.testing.assert_close(value, saving.state_dict()[key], rtol=0, atol=0, msg=key)


@every_backbone
def test_half_precision(name, tmp_path):
    model = tiny_model(name)
    clip = tiny_clip(name, model=model)
    with torch.no_grad():
        exact = model(clip).logits
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(clip).logits.float()
        model.to(torch.bfloat16)
        low = model(clip).logits  # float32 input goes to the weights' dtype
    assert low.dtype == torch.bfloat16
    scale = exact.abs().max().clamp(min=1e-3)
    assert (mixed - exact).abs().max() < 0.2 * scale
    assert (low.float() - exact).abs().max() < 0.2 * scale
    half = tiny_model(name).half()
    half.save_pretrained(tmp_path)
    again = AutoModelForVideoClassification.from_pretrained(tmp_path)
    assert again.dtype == torch.float16
    for key, value in half.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    full = AutoModelForVideoClassification.from_pretrained(tmp_path, dtype=torch.float32)
    assert full.dtype == torch.float32


@every_family
def test_torch_compile(name):
    depths = getattr(tiny_model(name).config, "depths", None) or []
    shallow = {"depths": [min(depth, 2) for depth in depths]} if depths else {}
    model = tiny_model(name, **shallow)
    clip = tiny_clip(name, model=model)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(clip).logits, model(clip).logits)
    torch._dynamo.reset()


@every_backbone
def test_layers_hold_plain_numbers(name):
    """At a numpy integer in a stride torch.compile breaks the graph, block by block."""
    for layer, module in tiny_model(name).named_modules():
        for field in ("kernel_size", "stride", "padding", "dilation", "groups"):
            value = getattr(module, field, ())
            sizes = value if isinstance(value, tuple | list) else (value,)
            assert all(type(size) in (int, str) for size in sizes), f"{layer}.{field} {sizes}"


@every_backbone
def test_outputs_come_as_tuple_too(name):
    model = tiny_model(name)
    clip = tiny_clip(name, model=model)
    with torch.no_grad():
        labels = torch.tensor([0.0, 1.0])
        loss, logits, pooled = model(clip, labels=labels, return_dict=False)
    assert loss.ndim == 0
    assert logits.shape == (2, 1)
    assert pooled.shape == (2, model.config.feature_size)


@every_backbone
def test_pickles_and_copies(name):
    model = tiny_model(name)
    clip = tiny_clip(name, model=model)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own bytes
    with torch.no_grad():
        assert torch.equal(model(clip).logits, again(clip).logits)


@every_backbone
def test_wrong_input_is_refused_at_the_door(name):
    model = tiny_model(name)
    clip = tiny_clip(name, model=model)
    channels = model.config.num_channels
    with pytest.raises(ValueError, match=r"\(batch, frames, channels, rows, columns\) is needed"):
        model(clip[0])
    with pytest.raises(ValueError, match="floats are needed"):
        model(clip.to(torch.int16))
    with pytest.raises(ValueError, match=f"where this model takes {channels}"):
        model(torch.zeros(1, 8, channels + 1, 32, 32))
    with pytest.raises(ValueError, match="looks like"):
        model(torch.zeros(1, channels, channels + 5, 32, 32))
    with pytest.raises(ValueError, match="pixel_values is a ndarray"):
        model(clip.numpy())
    frames, rows, columns = model.config.smallest_clip
    if frames > 1:
        with pytest.raises(ValueError, match=f"at least {frames} frames of {rows}x{columns}"):
            model(clip[:, : frames - 1])


@every_backbone
def test_the_smallest_clip_is_really_accepted(name):
    model = tiny_model(name)
    frames, rows, columns = model.config.smallest_clip
    with torch.no_grad():
        logits = model(torch.rand(1, frames, model.config.num_channels, rows, columns)).logits
    assert torch.isfinite(logits).all()


@every_backbone
def test_adapters_and_hooks_reach_every_layer(name):
    """A layer whose weights are read past it would leave LoRA and offloading without effect."""
    model = tiny_model(name)
    clip = tiny_clip(name, model=model)
    called = set()
    for key, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            module.register_forward_hook(lambda *_, key=key: called.add(key))
    layers = {
        key
        for key, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d)
    }
    with torch.no_grad():
        model(clip)
    assert called == layers


@every_backbone
def test_every_network_says_which_slices_speak(name):
    model = tiny_model(name)
    clip = tiny_clip(name, model=model)
    logits, along = clip_forward(model, clip, 0)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(clip).logits)
    assert along.shape == clip.shape[:2]
    assert torch.isfinite(along).all()
    assert along.min() >= 0
    _, grid, pooled = model.backbone.explain(clip)
    (slope,) = torch.autograd.grad(model.classify(pooled).sum(), grid)
    assert torch.count_nonzero(slope) > 0


@every_backbone
def test_trainer_sees_only_logits(name):
    assert set(tiny_model(name).config.keys_to_ignore_at_inference) == {
        "pooler_output",
        "hidden_states",
    }


OUTSIDE = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification, AutoVideoProcessor

for folder in map(Path, sys.argv[1:]):
    model = AutoModelForVideoClassification.from_pretrained(folder, trust_remote_code=True)
    backbone = AutoModel.from_pretrained(folder, trust_remote_code=True)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    processor = AutoVideoProcessor.from_pretrained(folder, trust_remote_code=True)
    clip = torch.load(folder.with_suffix(".clip"), weights_only=True)
    with torch.no_grad():
        logits, pooled = model(clip).logits, backbone(clip).pooler_output
    torch.save({"logits": logits, "pooled": pooled}, folder.with_suffix(".out"))
    model.save_pretrained(folder / "again")
    said = {"training": model.training, "module": type(model).__module__,
            "num_frames": config.num_frames, "processor": processor.to_dict()}
    folder.with_suffix(".json").write_text(json.dumps(said))
"""


def trained_a_step(name, root):
    """A tiny model after one step; ``root / name`` becomes the checkpoint that holds it."""
    model = tiny_model(name, num_labels=2)
    clips = tiny_clip(name, batch=4, model=model)
    data = [{"pixel_values": clip, "labels": torch.tensor([0.0, 1.0])} for clip in clips]
    arguments = TrainingArguments(
        output_dir=str(root / f"{name}_run"),
        max_steps=1,
        save_steps=1,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        use_cpu=True,
        disable_tqdm=True,
    )
    processor = processor_for(name)
    Trainer(model, arguments, train_dataset=data, processing_class=processor).train()
    (root / f"{name}_run" / "checkpoint-1").rename(root / name)
    return model.eval()


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A checkpoint of each family, and what a process without the package made of it.

    The folders are those that a Trainer writes in the middle of a training.
    """
    root, models = tmp_path_factory.mktemp("outside"), {}
    for name in FAMILIES.values():
        models[name] = trained_a_step(name, root)
        torch.save(tiny_clip(name, model=models[name]), root / f"{name}.clip")
    run_as_stranger(OUTSIDE, *(root / name for name in models), folder=root)
    return root, models


@every_family
@pytest.mark.slow
def test_the_folder_loads_where_the_package_is_not_installed(name, outside):
    root, models = outside
    said = json.loads((root / f"{name}.json").read_text())
    assert said["training"] is False
    assert said["module"].startswith("transformers_modules")
    assert said["num_frames"] == models[name].config.num_frames
    assert said["processor"]["windows"] == processor_for(name).windows
    result = torch.load(root / f"{name}.out", weights_only=True)
    with torch.no_grad():
        expected = models[name](torch.load(root / f"{name}.clip", weights_only=True))
    assert torch.equal(result["logits"], expected.logits)
    assert torch.equal(result["pooled"], expected.pooler_output)
    code = {path.name for path in (root / name).glob("*.py")}
    again = {path.name for path in (root / name / "again").glob("*.py")}
    assert again <= code
    assert "base.py" in again
