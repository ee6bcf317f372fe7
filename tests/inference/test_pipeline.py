"""Whole-study prediction: equal to processor and model in one go, whatever the batch."""

import json

import numpy as np
import pytest
import torch

import ct_video_hf
from ct_video_hf.errors import CTVideoError
from ct_video_hf.inference import CTVideoPipeline, LoadedModel
from tests.support.prediction import (
    chest_hu,
    tiny_model,
    tiny_model_folder,
    tiny_processor,
    volume_of,
)


@pytest.fixture(scope="module")
def predict(model_folder):
    return ct_video_hf.pipeline(model_folder, device="cpu", batch_size=3)


@pytest.mark.parametrize("slices", [11, 16, 40, 45])
def test_equals_processor_and_model_in_one_go(predict, slices):
    volume = volume_of(chest_hu(slices))
    result = predict(volume)
    batch = predict.processor(volume)
    with torch.no_grad():
        logits = predict.model(pixel_values=batch["pixel_values"]).logits[:, 0]
    scores = torch.sigmoid(logits.double()).numpy()
    np.testing.assert_allclose([c["score"] for c in result["clips"]], scores, atol=1e-6)
    assert [c["start"] for c in result["clips"]] == batch["clip_starts"].tolist()
    lengths = [c["stop"] - c["start"] for c in result["clips"]]
    assert lengths == batch["clip_lengths"].tolist()
    assert result["study_probability"] == max(c["score"] for c in result["clips"])
    assert result["study_logit"] == pytest.approx(float(logits.max()), abs=1e-5)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("max", "max over clips"),
        ("mean_top_k", "mean of the 2 highest clips"),
        ("noisy_or", "noisy-or over clips"),
    ],
)
def test_study_scores_follow_the_rule_saved_with_the_model(tmp_path, method, words):
    folder = tiny_model_folder(tmp_path / "tiny", study_aggregation=method, study_top_k=2)
    result = ct_video_hf.pipeline(folder, device="cpu")(volume_of(chest_hu(40)))
    scores = sorted(clip["score"] for clip in result["clips"])
    expected = {
        "max": scores[-1],
        "mean_top_k": (scores[-1] + scores[-2]) / 2,
        "noisy_or": 1 - np.prod([1 - score for score in scores]),
    }[method]
    assert result["study_probability"] == pytest.approx(expected, abs=1e-12)
    assert torch.tensor(result["study_logit"], dtype=torch.float64).sigmoid().item() == (
        pytest.approx(expected, abs=1e-12)
    )
    assert result["aggregation"] == words


def test_the_scores_differ_between_clips(predict):
    scores = [clip["score"] for clip in predict(volume_of(chest_hu(60)))["clips"]]
    assert np.std(scores) > 1e-4  # otherwise no comparison above could fail


def test_batch_size_does_not_change_scores(model_folder):
    volume = volume_of(chest_hu(80))
    one, eight = (
        ct_video_hf.pipeline(model_folder, device="cpu", batch_size=size)(volume) for size in (1, 8)
    )
    for first, second in zip(one["clips"], eight["clips"], strict=True):
        assert first["score"] == pytest.approx(second["score"], abs=1e-5)
    assert [k["index"] for k in one["key_slices"]] == [k["index"] for k in eight["key_slices"]]


def test_result_is_plain_json_without_identifiers(predict):
    volume = volume_of(chest_hu(40))
    text = json.dumps(predict(volume), allow_nan=False)
    assert not any(identifier in text for identifier in volume.slice_ids)
    assert json.loads(text)["calibrated"] is False


def test_identifiers_of_key_slices_only_when_asked(predict):
    volume = volume_of(chest_hu(40))
    keys = predict(volume, include_ids=True)["key_slices"]
    assert keys
    for key in keys:
        assert key["sop_instance_uid"] == volume.slice_ids[key["index"]]


def test_places_in_the_body(predict):
    volume = volume_of(chest_hu(40))
    result = predict(volume)
    for clip in result["clips"]:
        first, last = clip["start"], clip["stop"] - 1
        assert clip["z_mm"] == [volume.z_mm[first], volume.z_mm[last]]
        assert clip["source_index"] == [volume.source_index[first], volume.source_index[last]]
    for key in result["key_slices"]:
        assert key["z_mm"] == volume.z_mm[key["index"]]
        assert key["source_index"] == volume.source_index[key["index"]]
        assert any(
            clip["start"] <= key["index"] < clip["stop"] and clip["score"] == key["score"]
            for clip in result["clips"]
        )


def test_key_slices_lie_apart(predict):
    indices = sorted(key["index"] for key in predict(volume_of(chest_hu(60)))["key_slices"])
    assert len(indices) > 1
    assert min(np.diff(indices)) >= 2  # an eighth of 16 slices


def test_stride_option(model_folder):
    volume = volume_of(chest_hu(40))
    starts = ct_video_hf.pipeline(model_folder, device="cpu", stride=4)(volume)["clips"]
    assert [clip["start"] for clip in starts] == [0, 4, 8, 12, 16, 20, 24]


@pytest.mark.parametrize("slices", [1, 7])
def test_too_few_slices_are_refused(predict, slices):
    with pytest.raises(CTVideoError, match=f"{slices} slice"):
        predict(volume_of(chest_hu(slices)))


def test_values_that_are_not_hu_are_refused(predict):
    with pytest.raises(CTVideoError, match="Hounsfield"):
        predict(volume_of(np.abs(chest_hu(40))))


def test_something_else_is_refused(predict):
    with pytest.raises(CTVideoError, match="ndarray"):
        predict(chest_hu(40))


def test_lists_keep_order_and_raise_when_asked(predict):
    volumes = [volume_of(chest_hu(24, seed=seed)) for seed in range(3)]
    results = predict(volumes)
    assert [r["study_logit"] for r in results] == [predict(v)["study_logit"] for v in volumes]
    with pytest.raises(CTVideoError):
        predict([volumes[0], volume_of(chest_hu(3))], on_error="raise")


def test_many_go_on_after_an_error(predict, tmp_path):
    scans = [volume_of(chest_hu(24)), tmp_path / "nothing", volume_of(chest_hu(3))]
    outcomes = list(predict.predict_many([*scans, scans[0]]))
    assert [outcome.error is None for outcome in outcomes] == [True, False, False, True]
    assert [outcome.scan for outcome in outcomes] == [*scans, scans[0]]


def test_several_labels(tmp_path):
    names = {0: "nodule", 1: "effusion"}
    loaded = LoadedModel(tiny_model(2, id2label=names), tiny_processor(), "two")
    volume = volume_of(chest_hu(30))
    first = CTVideoPipeline(loaded, device="cpu")(volume)
    second = CTVideoPipeline(loaded, device="cpu", label="effusion")(volume)
    assert first["label"] == "nodule"
    assert first["study_probability"] == first["study_probabilities"]["nodule"]
    assert second["study_probability"] == first["study_probabilities"]["effusion"]
    assert first["clips"][0]["scores"]["effusion"] == second["clips"][0]["score"]
    with pytest.raises(CTVideoError, match="nodule, effusion"):
        CTVideoPipeline(loaded, device="cpu", label="mass")


def test_softmax_over_two_classes():
    model = tiny_model(2, problem_type="single_label_classification")
    predict = CTVideoPipeline(LoadedModel(model, tiny_processor(), "two"), device="cpu")
    volume = volume_of(chest_hu(30))
    with torch.no_grad():
        logits = model(pixel_values=predict.processor(volume)["pixel_values"]).logits.double()
    expected = logits.softmax(1)[:, 1].numpy()
    found = [clip["score"] for clip in predict(volume)["clips"]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_bfloat16_is_said_and_close(model_folder):
    volume = volume_of(chest_hu(30))
    exact = ct_video_hf.pipeline(model_folder, device="cpu")(volume)
    narrow = ct_video_hf.pipeline(model_folder, device="cpu", dtype="bfloat16")(volume)
    assert exact["precision"] == "float32"
    assert "bfloat16" in narrow["precision"]
    assert narrow["study_probability"] == pytest.approx(exact["study_probability"], abs=0.1)
    assert narrow["study_logit"] != exact["study_logit"]


@pytest.mark.parametrize(
    ("option", "value"),
    [("tta", "turns"), ("batch_size", 0), ("stride", 0), ("stride", 99), ("policy", "lenient"),
     ("dtype", "int8"), ("dtype", "float16"), ("device", "abacus"), ("label", 3)],
)  # fmt: skip
def test_wrong_options_are_refused(model_folder, option, value):
    with pytest.raises(CTVideoError, match=r"\w+"):
        ct_video_hf.pipeline(model_folder, **({"device": "cpu"} | {option: value}))


def test_a_network_that_gives_nan_is_an_error():
    model = tiny_model()
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    predict = CTVideoPipeline(LoadedModel(model, tiny_processor(), "broken"), device="cpu")
    with pytest.raises(CTVideoError, match="no number"):
        predict(volume_of(chest_hu(30)))


def test_timings_add_up(predict):
    timings = predict(volume_of(chest_hu(40)))["timings_s"]
    parts = timings["read"] + timings["prepare"] + timings["forward"]
    assert 0 < parts <= timings["total"] + 1e-3


def calibrated(folder, **changes):
    from ct_video_hf.evaluation.calibration import Calibration, OperatingPoint

    fields = {
        "method": "temperature", "parameters": {"temperature": 4.0}, "aggregation": "max",
        "top_k": 3, "label_from": "study", "split": "validation", "studies": 40, "positives": 20,
        "operating_points": (OperatingPoint("youden", "best", 0.5, 0.9, 0.8),),
    }  # fmt: skip
    Calibration(**(fields | changes)).write(folder)
    return folder


def test_the_models_calibration_is_used_and_said(tmp_path):
    folder = calibrated(tiny_model_folder(tmp_path / "tiny"))
    result = ct_video_hf.pipeline(folder, device="cpu")(volume_of(chest_hu(40)))
    assert result["calibrated"] is True
    assert result["calibration"].startswith("temperature scaling (T = 4), fitted on 40 validation")
    logit = result["study_logit"]
    assert result["study_probability"] == pytest.approx(1 / (1 + np.exp(-logit / 4)))
    assert result["study_score"] == pytest.approx(1 / (1 + np.exp(-logit)))
    assert result["study_score"] == max(clip["score"] for clip in result["clips"])
    (point,) = result["operating_points"]
    assert point["positive"] == (result["study_score"] >= 0.5)
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({}, {"stride": 4}, "clips 8 slices apart"),
        ({}, {"tta": "flips"}, "without test-time augmentation"),
        ({"aggregation": "noisy_or"}, {}, "another rule"),
    ],
)
def test_a_calibration_for_something_else_is_not_used(tmp_path, changes, options, words):
    folder = calibrated(tiny_model_folder(tmp_path / "tiny"), **changes)
    result = ct_video_hf.pipeline(folder, device="cpu", **options)(volume_of(chest_hu(40)))
    assert result["calibrated"] is False
    assert words in result["calibration"]
    assert result["study_probability"] == result["study_score"]
    assert "operating_points" not in result


def test_a_damaged_calibration_is_no_silent_none(tmp_path):
    folder = tiny_model_folder(tmp_path / "tiny")
    (folder / "calibration.json").write_text('{"method": "temperature"}')
    with pytest.raises(CTVideoError, match=r"calibration\.json is no calibration"):
        ct_video_hf.pipeline(folder, device="cpu")


def test_flips_are_the_mean_of_both_sides_and_said(model_folder):
    hu = chest_hu(40)
    mirrored = volume_of(hu[..., ::-1].copy())
    predict = ct_video_hf.pipeline(model_folder, device="cpu", batch_size=3)
    one, other = (
        np.array([log_odds(clip["score"]) for clip in predict(volume)["clips"]])
        for volume in (volume_of(hu), mirrored)
    )
    flips = ct_video_hf.pipeline(model_folder, device="cpu", tta="flips")
    result = flips(volume_of(hu))
    found = np.array([log_odds(clip["score"]) for clip in result["clips"]])
    np.testing.assert_allclose(found, (one + other) / 2, atol=1e-5)
    assert np.abs(one - other).max() > 1e-3  # otherwise nothing above could fail
    assert "mirrored left to right" in result["test_time_augmentation"]
    assert flips(mirrored)["study_logit"] == pytest.approx(result["study_logit"], abs=1e-5)
    assert predict(mirrored)["test_time_augmentation"] is None


def log_odds(score):
    return float(np.log(score) - np.log1p(-score))
