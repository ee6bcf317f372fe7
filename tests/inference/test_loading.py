"""Model folders: loaded without code, and refused in plain words."""

import json
import shutil

import pytest
import torch

from ct_video_hf.inference import ModelLoadError, load_model
from tests.support.prediction import tiny_model, tiny_processor


@pytest.fixture
def folder(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "model")


def change(path, **fields):
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_loads_the_same_weights_in_eval_mode(model_folder):
    loaded = load_model(model_folder)
    expected = tiny_model().state_dict()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert not loaded.model.training
    assert loaded.processor.to_dict()["size"] == tiny_processor().size
    assert loaded.describe() == {
        "name": "tiny",
        "revision": None,
        "commit": None,
        "model_type": "ct_slow",
        "backbone": "ct_slow",
    }


def test_the_training_record_names_the_backbone(folder):
    (folder / "training_config.json").write_text('{"backbone": "slow_tiny"}')
    assert load_model(folder).describe()["backbone"] == "slow_tiny"


def test_half_precision_weights_are_computed_in_float32(folder):
    tiny_model().half().save_pretrained(folder)
    assert load_model(folder).model.dtype == torch.float32


def test_code_in_the_folder_is_not_run(folder):
    for file in folder.glob("*.py"):
        file.write_text("raise SystemExit('executed')")
    load_model(folder)


def test_an_unknown_model_type_with_code_is_refused(folder):
    change(folder / "config.json", model_type="ct_foreign")
    (folder / "slow.py").write_text("raise SystemExit('executed')")
    with pytest.raises(ModelLoadError, match="ct_foreign"):
        load_model(folder)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "not a model folder"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
        (lambda f: change(f / "config.json", model_type=None), "model_type"),
        (lambda f: (f / "video_preprocessor_config.json").unlink(), "processor.save_pretrained"),
        (lambda f: change(f / "video_preprocessor_config.json", size=-1), "size is -1"),
        (lambda f: change(f / "video_preprocessor_config.json", sise=3), "sise"),
        (
            lambda f: change(
                f / "video_preprocessor_config.json",
                video_processor_type="VideoMAEVideoProcessor",
            ),
            "Hounsfield",
        ),
        (lambda f: change(f / "video_preprocessor_config.json", num_channels=3), "3"),
        (lambda f: (f / "model.safetensors").unlink(), "safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x10" + bytes(30)), "damaged"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(folder, spoil, words):
    spoil(folder)
    with pytest.raises(ModelLoadError, match=words) as caught:
        load_model(folder)
    assert str(folder.parent) not in str(caught.value)


def test_missing_tensors_are_refused(folder):
    tiny_model().backbone.save_pretrained(folder / "bare")
    shutil.copy(folder / "bare" / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(ModelLoadError, match="lack"):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [("no/such/folder", "no folder"), ("../nothing", "no folder"), ("white space", "no folder")],
)
def test_names_that_are_neither_folder_nor_hub_id(name, words):
    with pytest.raises(ModelLoadError, match=words):
        load_model(name)


def test_a_file_is_no_model(folder):
    with pytest.raises(ModelLoadError, match="is a file"):
        load_model(folder / "config.json")


def test_a_folder_has_no_revision(folder):
    with pytest.raises(ModelLoadError, match="revision"):
        load_model(folder, revision="v1")
