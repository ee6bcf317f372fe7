"""Learned attention: what it learns, and the road from a set to a prediction and to the Hub."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn

import ct_video_hf
from ct_video_hf.cli import main
from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation import read_predictions
from ct_video_hf.evaluation.attention import pooled_log_odds, read_attention
from ct_video_hf.hub import check_model_card, check_model_folder, save_model_folder
from ct_video_hf.hub.card import write_model_card
from ct_video_hf.hub.guard import plan_upload
from ct_video_hf.inference import CTVideoEnsemble, load_model
from ct_video_hf.training import run
from ct_video_hf.training.attention import Bags, fit_attention
from tests.support.attention import write_attention
from tests.support.clip_sets import write_clip_set
from tests.support.prediction import (
    chest_hu,
    tiny_model,
    tiny_model_folder,
    tiny_processor,
    volume_of,
)
from tests.support.tiny_runs import OPTIONS

# ---- what it learns ------------------------------------------------------------------------------


def bags(studies, seed):
    """A study is positive when it has a clip of kind A and none of kind B.

    A study with both holds every clip that one with A alone does, and one more: whatever scores
    clips, the highest of its clips is at least as high.
    """
    rng = np.random.default_rng(seed)
    kinds = 6 * np.eye(8)[:2]
    clips, places, labels = [], [], []
    for study in range(studies):
        has = rng.random(2) < (0.6, 0.5)
        made = [kinds[kind] for kind in (0, 1) if has[kind]]
        made += [np.zeros(8)] * int(rng.integers(1, 5))
        clips += [vector + rng.normal(size=8) for vector in made]
        places += [study] * len(made)
        labels.append([float(has[0] and not has[1])])
    order = rng.permutation(len(clips))
    features = np.array(clips, np.float32)[order]
    return Bags(features, np.array(places)[order], np.array(labels, np.float32))


def study_odds(head, some):
    values = head.clip_values(some.features)
    parts = (values[some.study == study] for study in range(len(some.labels)))
    return np.array([pooled_log_odds(part[..., 0], part[..., 1]) for part in parts])


@pytest.fixture(scope="module")
def learned():
    torch.manual_seed(0)
    return fit_attention(bags(150, 0), bags(80, 1), nn.Linear(8, 1), ("x",), "0" * 64, hidden=16)


def test_evidence_of_a_combination_is_learned_where_the_highest_clip_fails(learned):
    test = bags(300, 2)
    labels = test.labels[:, 0]
    assert roc_auc_score(labels, study_odds(learned, test)[:, 0]) > 0.95
    best = bags(300, 3)  # even by the direction that tells A apart, the highest clip is not enough
    highest = [best.features[best.study == study, 0].max() for study in range(300)]
    assert roc_auc_score(best.labels[:, 0], highest) < 0.85


def test_what_it_says_of_its_fit_is_so(learned):
    held = bags(80, 1)
    odds = study_odds(learned, held)[:, 0]
    expected = log_loss(held.labels[:, 0], 1 / (1 + np.exp(-odds)))
    assert learned.fit["validation_log_loss"] == pytest.approx(expected, abs=1e-4)
    assert expected < learned.fit["validation_log_loss_at_start"]
    assert (learned.fit["train_studies"], learned.fit["validation_studies"]) == (150, 80)


def test_the_same_seed_gives_the_same_head():
    def fit(seed, held=None):
        torch.manual_seed(5)
        head = nn.Linear(8, 1)
        return fit_attention(bags(20, 0), held, head, ("x",), "", seed=seed, hidden=4)

    first, again, other = fit(0), fit(0), fit(1)
    for name, value in first.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], value)
    assert not np.array_equal(other.tensors["tanh.weight"], first.tensors["tanh.weight"])
    assert first.fit["chosen_by"] == "a fixed number of epochs"
    assert first.fit["validation_log_loss"] is None
    json.dumps(first.fit, allow_nan=False)


def test_unknown_labels_teach_nothing_and_one_class_is_refused():
    some = bags(20, 0)
    both = np.concatenate([some.labels, np.full_like(some.labels, -1)], axis=1)
    torch.manual_seed(0)
    start = nn.Linear(8, 2)
    head = fit_attention(
        Bags(some.features, some.study, both), None, start, ("a", "b"), "", hidden=4
    )
    assert not head.tensors["attention.weight"][:, 1].any(), "nothing was known of it"
    assert head.tensors["attention.weight"][:, 0].any()
    alone = Bags(some.features, some.study, np.ones_like(some.labels))
    with pytest.raises(CTVideoError, match="both classes of a label"):
        fit_attention(alone, None, nn.Linear(8, 1), ("a",), "")


# ---- a training run ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(clip_set, tmp_path_factory):
    out = tmp_path_factory.mktemp("attention") / "run"
    said = OPTIONS | {"epochs": 1, "aggregation": "attention", "write_card": write_model_card}
    return run(data=str(clip_set), output=str(out), **said)


def test_a_run_ends_with_its_head_and_says_so(trained):
    folder = trained.folder
    assert check_model_folder(folder) + check_model_card(folder) == []
    assert json.loads((folder / "config.json").read_text())["study_aggregation"] == "attention"
    assert trained.metrics["aggregation"] == "attention"
    assert trained.config["attention"] == read_attention(folder).fit
    assert set(trained.config["model_files"]) == {"model.safetensors", "attention.safetensors"}
    card = (folder / "README.md").read_text()
    assert "The study's score: learned attention over clips." in card
    assert "a study's score: learned attention over clips" in card
    assert "| learned attention | gated (arXiv 1802.04712), 64 units" in card


def test_the_table_and_the_network_give_the_runs_metrics(trained, clip_set, tmp_path, capsys):
    table = trained.folder / "predictions.csv"
    how = ["--aggregation", "attention", "--resamples", "50", "--json"]
    assert main(["evaluate", "--predictions", str(table), *how]) == 0
    again = json.loads(capsys.readouterr().out)
    for name in ("study/auroc", "study/brier", "clip/auroc"):
        assert again[name] == trained.metrics[name]
    out = tmp_path / "again"
    line = ["evaluate", str(trained.folder), str(clip_set), "--out", str(out), "--json", "-q"]
    assert main([*line, "--resamples", "50", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["aggregation"] == "attention"
    first, second = (read_predictions(f / "predictions.parquet") for f in (trained.folder, out))
    pd.testing.assert_frame_equal(first, second, check_exact=False, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"backend": "eager"}, {}, {"stride": 4}, {"tta": "flips"}])
def test_a_prediction_weighs_its_clips(trained, options):
    predict = ct_video_hf.pipeline(str(trained.folder), device="cpu", **options)
    volume = volume_of(chest_hu(20, 36))
    found = predict(volume)
    assert found["aggregation"] == "learned attention over clips"
    weights = np.array([clip["attention"] for clip in found["clips"]])
    odds = np.array([clip["attention_logit"] for clip in found["clips"]])
    assert weights.sum() == pytest.approx(1)
    assert found["study_logit"] == pytest.approx((weights * odds).sum())
    if options.get("backend"):
        head = read_attention(trained.folder)
        values = head.clip_values(predict.features(volume)["features"])[:, 0]
        expected = pooled_log_odds(values[:, 0], values[:, 1])
        assert found["study_logit"] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_scan_of_one_clip_has_one_weight(trained):
    found = ct_video_hf.pipeline(str(trained.folder), device="cpu")(volume_of(chest_hu(8, 36)))
    (clip,) = found["clips"]
    assert clip["attention"] == 1
    assert found["study_logit"] == pytest.approx(clip["attention_logit"])


def test_an_ensemble_takes_members_by_different_rules(trained, tmp_path):
    other = tmp_path / "other"
    model = tiny_model(num_frames=8, image_size=32)
    save_model_folder(model, tiny_processor(size=36, crop_size=32, num_frames=8, stride=8), other)
    members = [ct_video_hf.pipeline(str(path), device="cpu") for path in (trained.folder, other)]
    found = CTVideoEnsemble(members)(volume_of(chest_hu(20, 36)))
    assert found["aggregation"] == "learned attention over clips; max over clips"
    own = [member["study_probability"] for member in found["members"]]
    assert found["study_probability"] == pytest.approx(np.mean(own))
    assert "attention" not in found["clips"][0]
    assert "attention" in found["members"][0]["clips"][0]


# ---- a finished model, and what does not fit -----------------------------------------------------


def test_a_finished_model_keeps_its_classifier_and_learns_to_weigh(tmp_path, capsys):
    data = write_clip_set(tmp_path / "set", others=("nodule",))
    model = tiny_model(2, num_frames=8, image_size=32, id2label={0: "label", 1: "nodule"})
    processor = tiny_processor(size=36, crop_size=32, num_frames=8, stride=8)
    start, cached, out = tmp_path / "model", tmp_path / "f.safetensors", tmp_path / "out"
    save_model_folder(model, processor, start)
    line = ["evaluate", str(start), str(data), "--aggregation", "attention", "--device", "cpu"]
    assert main([*line, "-q"]) == 1
    words = capsys.readouterr().err
    assert "model has no attention head" in words
    assert "ct-video-hf probe model F.safetensors SET --keep-head --aggregation attention" in words
    assert main(["features", str(start), str(data), "--out", str(cached), "-q"]) == 0
    line = ["probe", str(start), str(cached), str(data), "--keep-head", "--output", str(out), "-q"]
    assert main([*line, "--aggregation", "attention", "--resamples", "20"]) == 0
    assert check_model_folder(out) + check_model_card(out) == []
    first, second = (load_model(folder).model.state_dict() for folder in (start, out))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0)
    assert load_model(out).attention.labels == ("label", "nodule")
    again = tmp_path / "again"
    line = ["evaluate", str(out), str(data), "--out", str(again), "--resamples", "20", "-q"]
    assert main([*line, "--device", "cpu"]) == 0
    tables = [read_predictions(folder / "predictions.parquet") for folder in (out, again)]
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=1e-3, atol=1e-3)
    assert json.loads((again / "metrics.json").read_text())["aggregation"] == "attention"


@pytest.fixture
def folder(tmp_path):
    made = tiny_model_folder(tmp_path / "tiny", study_aggregation="attention")
    write_attention(made)
    return made


def test_the_rule_without_its_head_is_an_error_that_helps(folder):
    (folder / "attention.json").unlink()
    with pytest.raises(CTVideoError, match=r"without attention\.json"):
        load_model(folder)
    (folder / "attention.safetensors").unlink()
    with pytest.raises(CTVideoError, match=r"tiny has no attention head.*--keep-head"):
        ct_video_hf.pipeline(str(folder))


def test_a_head_of_other_weights_is_refused(folder, tmp_path):
    other = tiny_model(study_aggregation="attention")
    with torch.no_grad():
        next(other.backbone.parameters()).add_(1e-3)
    save_model_folder(other, tiny_processor(), folder)
    with pytest.raises(CTVideoError, match="fitted on other weights"):
        load_model(folder)


def test_a_push_takes_the_head_and_nothing_beside_it(folder, tmp_path):
    from safetensors.numpy import load_file, save_file

    write_model_card(folder)
    assert {"attention.json", "attention.safetensors"} <= set(plan_upload(folder).files)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    found = ct_video_hf.pipeline(str(copy), device="cpu")(volume_of(chest_hu(20)))
    assert found["aggregation"] == "learned attention over clips"
    file = folder / "attention.safetensors"
    save_file(load_file(file), file, metadata={"patient": "Doe"})
    with pytest.raises(CTVideoError, match="holds metadata beside"):
        plan_upload(folder)
    save_file(load_file(file) | {"scan": np.zeros(4, np.float32)}, file)
    with pytest.raises(CTVideoError, match="holds other tensors"):
        plan_upload(folder)
