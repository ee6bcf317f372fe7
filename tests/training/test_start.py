"""What training starts from: a run's folder, with a new classifier unless asked; a Hub id."""

import json
import subprocess
import sys

import pytest
import torch

from ct_video_hf.evaluation.calibration import Calibration, OperatingPoint
from ct_video_hf.inference import CTVideoPipeline, load_model
from ct_video_hf.models import create_model, locate_weights
from ct_video_hf.training import run
from ct_video_hf.training.inputs import find_start
from tests.support.loopback_hub import COMMIT, LoopbackHub
from tests.support.prediction import chest_hu, volume_of
from tests.support.tiny_runs import OPTIONS, words
from tests.support.transformers_models import video_model_folder

#: Nothing learns, so that the finished model shows what it began with.
STILL = OPTIONS | {"max_steps": 1, "lr": 1e-12, "freeze": "backbone", "warmup": 0.0,
                   "validation_split": "none", "test_split": "none"}  # fmt: skip


@pytest.fixture(scope="module")
def source(clip_set, tmp_path_factory):
    out = tmp_path_factory.mktemp("source") / "run"
    said = OPTIONS | {"epochs": 1, "validation_split": "none", "test_split": "none", "seed": 3,
                      "aggregation": "attention"}  # fmt: skip
    folder = run(data=str(clip_set), output=str(out), **said).folder
    Calibration("temperature", {"temperature": 2.0}, "attention", 3, "study", "validation", 40, 20,
                (OperatingPoint("youden", "best", 0.5, 0.9, 0.8),)).write(folder)  # fmt: skip
    return folder


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_what_was_fitted_on_the_sources_scores_stays_with_them(source, clip_set, tmp_path):
    """Attention, calibration and thresholds speak of one network's scores on one task."""
    before = load_model(source)
    assert before.attention is not None
    assert before.calibration.operating_points
    result = run(data=str(clip_set), output=str(tmp_path / "out"), weights=str(source), **STILL)
    names = {path.name for path in result.folder.iterdir()}
    assert not names & {"attention.json", "attention.safetensors", "calibration.json"}
    after = load_model(result.folder)
    assert (after.attention, after.calibration) == (None, None)
    assert after.aggregation == ("max", 3)
    assert set(result.config["weight_files"]) == {"model.safetensors"}
    found = CTVideoPipeline(after, device="cpu")(volume_of(chest_hu(20, 36)))
    assert (found["calibrated"], found["aggregation"]) == (False, "max over clips")
    assert "operating_points" not in found
    for keep_head in (True, False, None):
        model = create_model("slow_tiny", weights=source, keep_head=keep_head)
        assert model.config.study_aggregation == "max"


@pytest.mark.parametrize("keep_head", [False, True])
def test_the_classifier_of_a_run_starts_anew_unless_asked(source, clip_set, tmp_path, keep_head):
    result = run(
        data=str(clip_set),
        output=str(tmp_path / "out"),
        weights=str(source),
        keep_head=keep_head,
        **STILL,
    )
    before, after = weights_of(source), weights_of(result.folder)
    for name, value in after.items():
        same = torch.allclose(value, before[name], atol=1e-7)
        assert same is (keep_head or not name.startswith("classifier.")), name
    assert result.config["arguments"]["keep_head"] is keep_head


def test_keeping_no_head_is_refused(clip_set, tmp_path):
    with pytest.raises(ValueError, match="name its weights"):
        run(data=str(clip_set), output=str(tmp_path / "out"), keep_head=True, **STILL)


@pytest.mark.parametrize("family", ["videomae", "vjepa2", "timesformer", "vivit"])
def test_heads_of_transformers_models(family, tmp_path):
    folder = video_model_folder(family, tmp_path / "base")
    torch.manual_seed(0)
    trained = create_model(str(folder), num_labels=1)
    with torch.no_grad():
        trained.classifier.weight.fill_(9.0)
    trained.save_pretrained(tmp_path / "trained")
    kept = create_model(str(tmp_path / "trained"), keep_head=True)
    assert (kept.classifier.weight == 9).all()
    fresh = create_model(str(tmp_path / "trained"), keep_head=False)
    assert 0 < fresh.classifier.weight.abs().max() < 1
    assert (fresh.classifier.bias == 0).all()
    for name, value in fresh.state_dict().items():
        if not name.startswith("classifier."):
            assert torch.equal(value, kept.state_dict()[name]), name
    with pytest.raises(ValueError, match="which has none with 1 label"):
        create_model(str(folder), keep_head=True)


def test_weights_of_a_hub_id(source, clip_set, tmp_path):
    """Fetched at one commit, safetensors and JSON alone; the record names commit and hash."""
    out = tmp_path / "out"
    said = words(data=clip_set, output=out, weights="tester/model@v1", **STILL)
    with LoopbackHub(source) as hub:
        subprocess.run(
            [sys.executable, "-m", "ct_video_hf", "train", *said],
            env=hub.environment(tmp_path / "home"),
            check=True,
            capture_output=True,
            timeout=200,
        )
        fetched = {line.rpartition("/")[2].partition("?")[0] for line in hub.log}
    assert "model.safetensors" in fetched
    assert not [name for name in fetched if name.endswith((".py", ".bin", ".csv", ".parquet"))]
    record = json.loads((out / "training_config.json").read_text())
    assert record["weights"] == "tester/model@v1"
    assert record["weights_commit"] == COMMIT
    assert list(record["weight_files"]) == ["model.safetensors"]
    before, after = weights_of(source), weights_of(out)
    name = next(name for name in before if name.startswith("backbone."))
    assert torch.equal(before[name], after[name])


def test_what_is_no_start_is_named(tmp_path):
    for weights in ("kinetic", "folder/best.pth"):
        with pytest.raises(ValueError, match="neither a file or folder, nor a Hub id"):
            locate_weights("slow_tiny", weights)
    assert find_start({"backbone": "slow_tiny", "weights": "none"}).sha256 == {}
