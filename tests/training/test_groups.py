"""Learning rates by depth and frozen stages, as groups and as options that reach the training."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from ct_video_hf.errors import CTVideoError
from ct_video_hf.models import create_model, get_backbone, list_backbones
from ct_video_hf.training import parameter_groups, run
from ct_video_hf.training.groups import freeze_stages, stages_of
from ct_video_hf.training.options import OptionError
from tests.models.backbone_cases import enliven, tiny_model
from tests.support.tiny_runs import OPTIONS

every_backbone = pytest.mark.parametrize("name", list_backbones())


def rates(model, **given):
    """Name -> (learning rate, weight decay) of what learns."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, 1.0, 0.1, **given)
        for parameter in group["params"]
    }


@every_backbone
def test_every_parameter_is_in_one_group_and_biases_and_norms_do_not_decay(name):
    model = tiny_model(name)
    groups = parameter_groups(model, 1.0, 0.1, layer_decay=0.5)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(map(id, model.parameters()))
    assert [group["lr"] for group in groups] == sorted((g["lr"] for g in groups), reverse=True)
    assert groups[0]["lr"] == 1.0
    decays = {key: decay for key, (_, decay) in rates(model).items()}
    for prefix, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            layer = isinstance(module, torch.nn.modules.conv._ConvNd | torch.nn.Linear)
            wanted = 0.1 if layer and own == "weight" else None
            if parameter.ndim == 1:
                wanted = 0.0
            if wanted is not None:
                assert decays[f"{prefix}.{own}"] == wanted, f"{prefix}.{own}"


@every_backbone
def test_layer_decay_falls_from_stage_to_stage(name):
    model = tiny_model(name)
    stages = stages_of(model)
    head = max(stages.values())
    assert stages["classifier.weight"] == head
    assert {stage for key, stage in stages.items() if key.startswith("backbone.")} == set(
        range(head)
    )
    for key, (rate, _) in rates(model, layer_decay=0.5).items():
        assert rate == 0.5 ** (head - stages[key]), key


def test_the_boundary_is_a_layer_of_the_model():
    model = tiny_model("slow_r50")
    for name in ("blocks.3", "backbone.blocks.3"):
        found = rates(model, boundary=name, boundary_factor=0.25)
        for key, (rate, _) in found.items():
            before = key.startswith(("backbone.blocks.0", "backbone.blocks.1", "backbone.blocks.2"))
            assert rate == (0.25 if before else 1.0), key
    head = rates(model, boundary="classifier", boundary_factor=0.0)
    assert {key for key, (rate, _) in head.items() if rate} == {
        "classifier.weight",
        "classifier.bias",
    }
    with pytest.raises(CTVideoError, match=r"'block' names no layer .*backbone\.blocks\.4"):
        parameter_groups(model, 1.0, 0.1, boundary="block")
    with pytest.raises(CTVideoError, match="choose one"):
        parameter_groups(model, 1.0, 0.1, boundary="classifier", layer_decay=0.5)
    with pytest.raises(CTVideoError, match=r"layer_decay is 1\.5; 0 to 1"):
        parameter_groups(model, 1.0, 0.1, layer_decay=1.5)


def test_frozen_parameters_are_in_no_group():
    model = tiny_model("slow_r50")
    freeze_stages(model, 3)
    assert not any(key.startswith("backbone.blocks.2") for key in rates(model))
    assert any(key.startswith("backbone.blocks.3") for key in rates(model))
    with pytest.raises(CTVideoError, match="has 5, the stem among them"):
        freeze_stages(model, 6)


def test_a_model_of_transformers_has_stages_too():
    config = VideoMAEConfig(
        hidden_size=8,
        num_attention_heads=2,
        intermediate_size=8,
        num_hidden_layers=3,
        image_size=16,
        patch_size=8,
        num_frames=4,
        num_labels=1,
    )
    model = VideoMAEForVideoClassification(config)
    found = rates(model, layer_decay=0.5)
    assert found["classifier.weight"][0] == 1.0
    assert found["videomae.encoder.layer.2.output.dense.weight"][0] == 0.5
    assert found["videomae.encoder.layer.0.output.dense.weight"][0] == 0.125
    assert found["videomae.embeddings.patch_embeddings.projection.weight"][0] == 0.125
    freeze_stages(model, 1)
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert all(
        name.startswith(("videomae.embeddings", "videomae.encoder.layer.0.")) for name in frozen
    )
    assert len(frozen) > 10


# ---- the options ---------------------------------------------------------------------------------


def trained(clip_set, folder, **given):
    """Largest change of each stage's weights in a run of two steps, from stem to head."""
    start = folder / "start"
    tiny = dict(get_backbone("slow_tiny").tiny) | {"num_frames": 8, "image_size": 32}
    torch.manual_seed(0)
    enliven(create_model("slow_tiny", **tiny)).save_pretrained(start)
    plain = {"scheduler": "constant", "warmup": 0.0, "epochs": 1, "weight_decay": 0.0, "lr": 1e-4}
    options = OPTIONS | plain | {"weights": str(start), "test_split": "none"} | given
    run(data=str(clip_set), output=str(folder / "out"), **options)
    before, after = (load_file(path / "model.safetensors") for path in (start, folder / "out"))
    changes: dict[str, float] = {}
    for key, value in after.items():
        if key.endswith("weight") and value.ndim > 1:
            stage = ".".join(key.split(".")[:3]) if key.startswith("backbone") else "head"
            moved = (value - before[key]).abs().max().item()
            changes[stage] = max(changes.get(stage, 0.0), moved)
    return list(changes.values()), before, after


def test_layer_decay_reaches_the_steps(clip_set, tmp_path):
    """Adam's steps are about as long as the learning rate, whatever the gradient."""
    moved, _, _ = trained(clip_set, tmp_path, layer_decay=0.1)
    assert len(moved) == 5
    for one, following in itertools.pairwise(moved):
        assert 0.02 * following < one < 0.4 * following


def test_the_boundary_reaches_the_steps(clip_set, tmp_path):
    moved, _, _ = trained(clip_set, tmp_path, boundary="blocks.2", boundary_factor=0.01)
    assert max(moved[:2]) < 0.05 * min(moved[2:])


def test_frozen_stages_reach_the_training(clip_set, tmp_path):
    moved, before, after = trained(clip_set, tmp_path, freeze="2")
    assert moved[:2] == [0.0, 0.0]
    assert min(moved[2:]) > 0
    for key, value in before.items():  # statistics of batch norms too
        if key.startswith(("backbone.blocks.0.", "backbone.blocks.1.")):
            assert torch.equal(value, after[key]), key


def test_compiled_training_saves_plain_names(clip_set, tmp_path):
    plain, _, after = trained(clip_set, tmp_path / "a")
    backend = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    counter = torch._dynamo.utils.counters
    counter.clear()
    compiled, _, other = trained(clip_set, tmp_path / "b", layer_decay=1.0, **backend)
    assert counter["stats"]["unique_graphs"] > 0, "something was compiled"
    torch._dynamo.reset()
    assert after.keys() == other.keys()
    assert compiled == pytest.approx(plain, rel=0.2)


def pipeline_scores(folder, clip_set):
    """Predictions of the saved folder on the validation split, made anew."""
    from ct_video_hf.cli import main

    words = ["evaluate", str(folder), str(clip_set), "--split", "validation", "--device", "cpu"]
    assert main([*words, "--out", str(folder / "again"), "-q"]) == 0
    return pd.read_csv(folder / "again" / "predictions.csv")


def test_adapters_are_trained_and_merged(clip_set, tmp_path):
    pytest.importorskip("peft", reason="peft is not installed: no LoRA")
    moved, before, after = trained(clip_set, tmp_path, lora=2, lr=1e-2, keep_checkpoints=True)
    assert after.keys() == before.keys()
    assert min(moved) > 0
    for key, value in before.items():  # norms are frozen, and so are their statistics
        if ".norm" in key or "_norm" in key:
            assert torch.equal(value, after[key]), key
    record = json.loads((tmp_path / "out" / "training_config.json").read_text())
    assert record["trainable_parameters"] < record["parameters"]
    checkpoints = list((tmp_path / "out").glob("checkpoint-*/adapter_model.safetensors"))
    assert checkpoints
    score_again = pipeline_scores(tmp_path / "out", clip_set)
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    np.testing.assert_allclose(table["logit"], score_again["logit"], atol=1e-5)
    with pytest.raises(OptionError, match="lora freezes the backbone itself"):
        trained(clip_set, tmp_path / "b", lora=2, freeze="1")
