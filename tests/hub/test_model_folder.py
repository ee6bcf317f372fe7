"""Complete model folders: written at once or not at all, loadable without the package."""

import json

import numpy as np
import pytest
import torch

from ct_video_hf.errors import CTVideoError
from ct_video_hf.hub import check_model_folder, find_local_paths, save_model_folder
from tests.support.prediction import (
    chest_hu,
    tiny_model,
    tiny_model_folder,
    tiny_processor,
    volume_of,
)
from tests.support.stranger import run_as_stranger

STRANGER = """
import sys
import numpy as np
from transformers import AutoModelForVideoClassification, AutoVideoProcessor
model = AutoModelForVideoClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoVideoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
clips = processor(np.load(sys.argv[2]))
np.save(sys.argv[3], model(pixel_values=clips["pixel_values"]).logits.detach().numpy())
"""


@pytest.fixture
def folder(tmp_path):
    return tiny_model_folder(tmp_path / "model")


@pytest.mark.slow
def test_a_stranger_gets_the_same_logits(folder, tmp_path):
    hu = chest_hu(30)
    np.save(tmp_path / "hu.npy", hu)
    run_as_stranger(STRANGER, folder, tmp_path / "hu.npy", tmp_path / "out.npy", folder=tmp_path)
    with torch.no_grad():
        pixels = tiny_processor()(volume_of(hu))["pixel_values"]
        expected = tiny_model()(pixel_values=pixels).logits.numpy()
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


def test_a_new_folder_is_complete_and_alone(folder):
    assert [entry.name for entry in folder.parent.iterdir()] == ["model"]
    assert check_model_folder(folder) == []


def test_saving_again_keeps_other_files_and_drops_old_weights(folder):
    (folder / "metrics.json").write_text("{}")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"old")
    model = tiny_model()
    with torch.no_grad():
        model.classifier.bias.fill_(3.0)
    save_model_folder(model, tiny_processor(stride=4), folder)
    assert check_model_folder(folder) == []
    assert (folder / "metrics.json").is_file()
    assert not (folder / "model-00001-of-00002.safetensors").exists()
    assert json.loads((folder / "video_preprocessor_config.json").read_text())["stride"] == 4
    from safetensors.torch import load_file

    assert load_file(folder / "model.safetensors")["classifier.bias"].item() == 3.0


def test_a_failed_save_leaves_the_old_folder(folder, monkeypatch):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    processor = tiny_processor()
    monkeypatch.setattr(processor, "save_pretrained", _no_space)
    with pytest.raises(OSError, match="no space"):
        save_model_folder(tiny_model(), processor, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [entry.name for entry in folder.parent.iterdir()] == ["model"]


def _no_space(*args, **kwargs):
    raise OSError("no space left on device")


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("…")
    with pytest.raises(CTVideoError, match="no model folder"):
        save_model_folder(tiny_model(), tiny_processor(), tmp_path / "thesis")
    with pytest.raises(CTVideoError, match="is a file"):
        save_model_folder(tiny_model(), tiny_processor(), tmp_path / "thesis" / "chapter1.txt")


def spoil_json(name, **fields):
    def spoil(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return spoil


def append(name, text):
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (spoil_json("config.json", auto_map={}), "no auto_map"),
        (spoil_json("config.json", model_type=""), "names no model_type"),
        (lambda f: (f / "hu_clips.py").unlink(), "hu_clips.py is missing"),
        (append("slow.py", "\nfrom .nowhere import x\n"), "nowhere.py is missing"),
        (append("slow.py", "\nfrom ct_video_hf.dicom import x\n"), "imports ct_video_hf"),
        (
            spoil_json("video_preprocessor_config.json",
                       auto_map={"AutoVideoProcessor": "processing_ct.Other"}),
            "no class Other",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "damaged"),
        (lambda f: (f / "optimizer.pt").write_bytes(b""), "pickled"),
        (
            lambda f: (f / "training_config.json").write_text('{"data": "/home/ada/scans"}'),
            "/home/ada/scans",
        ),
    ],
)  # fmt: skip
def test_problems_are_found(folder, spoil, words):
    spoil(folder)
    assert any(words in problem for problem in check_model_folder(folder)), words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see /home/ada/scans/1", ["/home/ada/scans/1"]),
        ("~/scans", ["~/scans"]),
        (r"C:\\Users\\ada", [r"C:\\Users\\ada"]),
        ("https://host/data/x.pyth and a/b, 3/4, he/she, runs/model", []),
        ("/dev", []),
    ],
)
def test_local_paths(text, found):
    assert find_local_paths(text) == found
