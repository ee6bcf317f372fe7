"""Features of a set written once, and a head fitted on them that is the network's own."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

import ct_video_hf
from ct_video_hf.cli import main
from ct_video_hf.data import load_ct_dataset
from ct_video_hf.evaluation import read_predictions
from ct_video_hf.hub import check_model_card, check_model_folder, save_model_folder
from ct_video_hf.training import features as cached
from ct_video_hf.training.inputs import clip_dataset
from ct_video_hf.training.loss import TrainingLoss
from ct_video_hf.training.probe import fit_head
from tests.support.clip_sets import write_clip_set
from tests.support.prediction import chest_hu, tiny_model, tiny_processor, volume_of
from tests.support.transformers_models import video_model_folder


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A network, a set with several labels, and the feature file of both."""
    folder = tmp_path_factory.mktemp("probe")
    data = write_clip_set(folder / "set", others=("nodule",))
    model = tiny_model(num_frames=8, image_size=32)
    processor = tiny_processor(size=36, crop_size=32, num_frames=8, stride=8)
    save_model_folder(model, processor, folder / "model")
    line = ["features", str(folder / "model"), str(data), "--out", str(folder / "f.safetensors")]
    assert main([*line, "--device", "cpu", "--batch-size", "5", "-q"]) == 0
    return folder


def test_features_are_the_classifiers_input(start):
    told = cached.read_features(start / "f.safetensors")
    assert set(told.splits) == {"train", "validation", "test"}
    assert told.metadata["model"] == "model"
    assert told.metadata["set"] == "set"
    assert len(told.metadata["set_sha256"]) == len(told.metadata["weights_sha256"]) == 64
    predict = ct_video_hf.pipeline(str(start / "model"), device="cpu", backend="eager")
    test = load_ct_dataset(start / "set", "test")
    clips = clip_dataset(test, predict.processor, train=False)
    values = told.of("test", clips)
    with torch.inference_mode():
        again = predict.model.classifier(torch.from_numpy(values[:4]))
        pixels = torch.stack([clips[number]["pixel_values"] for number in range(4)])
        logits = predict.model(pixels).logits
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-4)


def test_a_killed_run_goes_on_with_its_parts(start, tmp_path, monkeypatch):
    monkeypatch.setattr(cached, "_PART", 7)
    out = tmp_path / "again.safetensors"
    line = ["features", str(start / "model"), str(start / "set"), "--out", str(out), "-q"]
    part, computed = cached._part, []

    def stop(*args):
        if len(computed) == 4:
            raise KeyboardInterrupt
        computed.append(args[2])
        return part(*args)

    with monkeypatch.context() as patch:
        patch.setattr(cached, "_part", stop)
        assert main(line) == 130
    assert not out.exists()
    rest = []
    monkeypatch.setattr(cached, "_part", lambda *args: rest.append(args[2]) or part(*args))
    assert main(line) == 0
    assert len(rest) == 12 - 4  # 36, 18 and 21 clips in parts of 7
    whole, again = load_file(start / "f.safetensors"), load_file(out)
    for name, value in whole.items():
        np.testing.assert_allclose(again[name], value, atol=1e-5, err_msg=name)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("labels", [[], ["--labels", "label"]])
def test_the_probes_predictions_are_those_of_the_network_with_its_head(start, tmp_path, labels):
    out = tmp_path / "probe"
    line = ["probe", str(start / "model"), str(start / "f.safetensors"), str(start / "set")]
    assert main([*line, "--output", str(out), "--resamples", "50", *labels, "-q"]) == 0
    assert check_model_folder(out) == []
    assert check_model_card(out) == []
    record = json.loads((out / "training_config.json").read_text())
    assert record["probe"]["penalty"] in record["probe"]["penalties"]
    assert "| linear head alone, fitted on cached features" in (out / "README.md").read_text()
    again = tmp_path / "again"
    line = ["evaluate", str(out), str(start / "set"), "--out", str(again), "--device", "cpu", "-q"]
    assert main([*line, "--resamples", "50"]) == 0
    first, second = (read_predictions(f / "predictions.parquet") for f in (out, again))
    np.testing.assert_allclose(first["logit"], second["logit"], atol=1e-4)
    metrics = json.loads((out / "metrics.json").read_text())
    assert ("labels" in metrics) == (not labels)
    train = cached.read_features(start / "f.safetensors")
    assert metrics["study/auroc"]["value"] is not None
    assert train.metadata["set_sha256"] == record["data"]["manifest"]["sha256"]


def test_a_scan_in_one_line_and_on_the_command_line(start, tmp_path):
    predict = ct_video_hf.pipeline(str(start / "model"), device="cpu", backend="eager")
    volume = volume_of(chest_hu(20, 48))
    found = predict.features(volume)
    assert found["features"].shape == (3, predict.model.classifier.in_features)
    assert found["stop"].tolist() == [8, 16, 20]
    scores = [clip["score"] for clip in predict(volume)["clips"]]
    with torch.inference_mode():
        logits = predict.model.classifier(torch.from_numpy(found["features"]))[:, 0]
    np.testing.assert_allclose(torch.sigmoid(logits), scores, atol=1e-4)


def test_a_network_of_transformers_has_features_too(start, tmp_path):
    from ct_video_hf.models import create_model, processor_for

    folder = video_model_folder("videomae", tmp_path / "videomae")
    model = create_model(str(folder), num_labels=1)
    found = cached.HeadInput(model)
    size, frames = model.config.image_size, model.config.num_frames
    values = found(torch.rand(2, frames, model.config.num_channels, size, size))
    assert values.shape == (2, model.classifier.in_features)
    assert processor_for(str(folder)).num_frames == frames


@pytest.mark.parametrize("penalty", [1e-3, 0.1])
def test_the_head_is_the_ridge_logistic_regression_of_scikit_learn(penalty):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(0)
    values = random.normal(3.0, 5.0, (80, 6)).astype(np.float32)
    values[:, 5] = 2.0  # a feature that never changes
    labels = (values[:, 0] + random.normal(0, 4, 80) > 3).astype(np.float32)
    head, _ = fit_head(values, labels[:, None], TrainingLoss(), penalties=(penalty,))
    scaler = StandardScaler().fit(values.astype(np.float64))
    known = LogisticRegression(C=1 / (penalty * 80), tol=1e-8, max_iter=1000)
    known.fit(scaler.transform(values), labels)
    with torch.inference_mode():
        logits = head(torch.from_numpy(values))[:, 0]
    np.testing.assert_allclose(
        logits, known.decision_function(scaler.transform(values)), rtol=2e-3, atol=2e-3
    )


def test_what_does_not_belong_together_is_refused(start, tmp_path, capsys):
    other = write_clip_set(tmp_path / "other", seed=1)
    line = ["probe", str(start / "model"), str(start / "f.safetensors")]
    assert main([*line, str(other), "--output", str(tmp_path / "a")]) == 1
    assert "not of other as it is" in capsys.readouterr().err
    save_model_folder(
        tiny_model(num_frames=8, image_size=32, stem_width=6), tiny_processor(), tmp_path / "m"
    )
    line[1] = str(tmp_path / "m")
    assert main([*line, str(start / "set"), "--output", str(tmp_path / "a")]) == 1
    assert "with other weights than m" in capsys.readouterr().err
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    line[2] = str(broken)
    assert main([*line, str(start / "set"), "--output", str(tmp_path / "a")]) == 1
    assert "broken.safetensors is no feature file" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    with safe_open(start / "f.safetensors", "np") as file:
        assert "study_id" not in str(file.metadata())
