"""Where a model may live: device maps, disk, memory layouts, and shards on two processes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from accelerate import infer_auto_device_map
from safetensors.torch import load_file
from transformers import AutoModelForVideoClassification

from ct_video_hf.models import get_backbone, list_backbones
from ct_video_hf.training.memory import to_channels_last
from tests.support.tiny_runs import REPOSITORY, environment

from .backbone_cases import tiny_clip, tiny_model

NAMES = list_backbones()
FAMILIES = sorted({get_backbone(name).config_class: name for name in reversed(NAMES)}.values())
every_backbone = pytest.mark.parametrize("name", NAMES)


#: torchvision's window attention hands its layers' weights to a function, past the hooks that fetch
#: them from disk: such a model needs memory for all of it.
READS_WEIGHTS_ITSELF = {"swin3d_t"}


def halves(model, whole):
    """A device map that leaves about half of a model on disk."""
    total = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    for tenths in range(1, 25):  # the room for the largest block counts too
        room = {"cpu": total * tenths // 10, "disk": 10**9}
        cut = infer_auto_device_map(model, max_memory=room, no_split_module_classes=whole)
        if set(cut.values()) == {"cpu", "disk"}:
            return cut
    raise AssertionError(f"no map splits {type(model).__name__}: {cut}")


@every_backbone
def test_device_maps_give_the_same_logits(name, tmp_path):
    """cpu, auto, and half on disk, cut where ``_no_split_modules`` allows it."""
    model = tiny_model(name)
    model.save_pretrained(tmp_path / "model")
    clip = tiny_clip(name, model=model)
    whole = list(model._no_split_modules)
    cut = {} if name in READS_WEIGHTS_ITSELF else halves(model, whole)
    for place in cut:
        above = [".".join(place.split(".")[:depth]) for depth in range(1, place.count(".") + 1)]
        kinds = {type(model.get_submodule(name)).__name__ for name in above}
        assert not kinds & set(whole), f"{place} lies inside a block that must not be split"
    with torch.no_grad():
        expected = model(clip).logits
        for device_map in filter(None, ("cpu", "auto", cut)):
            loaded = AutoModelForVideoClassification.from_pretrained(
                tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "disk"
            )
            found = loaded(clip).logits.cpu()
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@every_backbone
def test_blocks_that_must_not_be_split_are_there(name):
    model = tiny_model(name)
    kinds = [type(module).__name__ for module in model.backbone.modules()]
    assert any(kind in kinds for kind in model._no_split_modules)
    assert model.backbone._no_split_modules == model._no_split_modules


@every_backbone
def test_channels_last_memory_gives_the_same_logits(name):
    model = tiny_model(name)
    clip = tiny_clip(name, model=model)
    with torch.no_grad():
        expected = model(clip).logits
        to_channels_last(model)
        torch.testing.assert_close(model(clip).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_with_shards_learn_what_one_does(tmp_path):
    """Every family in one pair of processes: FSDP2 units are the blocks that must not be split."""
    config = REPOSITORY / "scripts" / "accelerate" / "two_cpu.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    done = subprocess.run(
        [*launch, "-m", "tests.models.fsdp_worker", str(tmp_path), *FAMILIES],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for name in FAMILIES:
        said = json.loads((tmp_path / name / "said.json").read_text())
        assert said["processes"] == 2
        assert said["units"] > 1, name
        assert said["share"] == pytest.approx(0.5, abs=0.05), name
        whole, sharded = (
            load_file(tmp_path / name / kind / "model.safetensors") for kind in ("whole", "sharded")
        )
        assert whole.keys() == sharded.keys()
        for key, value in whole.items():
            torch.testing.assert_close(sharded[key], value, rtol=1e-4, atol=1e-6, msg=key)
