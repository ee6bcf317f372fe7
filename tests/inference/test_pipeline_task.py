"""``transformers.pipeline("ct-volume-classification", ...)`` is this package's prediction."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import pipeline

import ct_video_hf
from ct_video_hf.dicom.write import write_series
from ct_video_hf.errors import CTVideoError
from ct_video_hf.hub.model_repo import push_model
from ct_video_hf.inference import ModelLoadError
from tests.inference.test_pipeline import calibrated
from tests.support.hub_client import client_of
from tests.support.hub_server import HubServer
from tests.support.prediction import (
    SPACING,
    chest_hu,
    tiny_model,
    tiny_model_folder,
    tiny_processor,
    volume_of,
)
from tests.support.stranger import run_as_stranger
from tests.support.tiny_runs import REPOSITORY
from tests.support.transformers_models import video_model_folder

TASK = "ct-volume-classification"


@pytest.fixture(scope="module")
def predict(model_folder):
    return pipeline(TASK, model=str(model_folder), device="cpu", batch_size=3)


def without_timings(result):
    return {key: value for key, value in result.items() if key != "timings_s"}


def test_the_same_result_as_the_packages_own_call(predict, model_folder):
    volume = volume_of(chest_hu(40))
    ours = ct_video_hf.pipeline(model_folder, device="cpu", batch_size=3)(volume)
    assert without_timings(predict(volume)) == without_timings(ours)
    steps = predict.postprocess(predict.forward(predict.preprocess(volume)))
    assert without_timings(steps) == without_timings(ours)


def test_scans_on_disk_lists_and_folders_of_them(predict, tmp_path):
    for name, slices in (("a", 24), ("b", 24), ("c", 3)):
        write_series(chest_hu(slices), tmp_path / "all" / name, key=name, spacing=SPACING)
    one = predict(str(tmp_path / "all" / "a"))
    assert one["report"]["slices"] == 24
    volume = volume_of(chest_hu(24))
    found = predict([tmp_path / "all", volume, tmp_path / "all" / "a"])
    assert [result["study"] for result in found] == ["a", "b", "c", None, "a"]
    assert "3 slice" in found[2]["error"]
    assert found[2]["error_type"].endswith("Error")
    assert found[0]["study_logit"] == found[4]["study_logit"] == one["study_logit"]
    with pytest.raises(CTVideoError, match="3 slice"):
        predict(tmp_path / "all", on_error="raise")
    with pytest.raises(CTVideoError, match="on_error"):
        predict([volume], on_error="ignore")
    with pytest.raises(CTVideoError, match="empty"):
        predict([])


def test_options_reach_the_prediction(model_folder):
    predict = pipeline(
        TASK, model=str(model_folder), device=-1, stride=4, dtype=torch.bfloat16, backend="eager"
    )
    result = predict(volume_of(chest_hu(40)), include_ids=True)
    assert [clip["start"] for clip in result["clips"]] == list(range(0, 25, 4))
    assert "bfloat16" in result["precision"]
    assert result["clips"][1]["sop_instance_uids"] == volume_of(chest_hu(40)).slice_ids[4:20]
    with pytest.raises(TypeError, match="no option top_k"):
        pipeline(TASK, model=str(model_folder), device="cpu", top_k=3)
    with pytest.raises(CTVideoError, match="does not take cache_dir"):
        pipeline(TASK, model=str(model_folder), model_kwargs={"cache_dir": "x"})


def test_a_network_in_memory_needs_its_processor():
    model = tiny_model()
    with pytest.raises(CTVideoError, match="video_processor"):
        pipeline(TASK, model=model, device="cpu")
    predict = pipeline(TASK, model=model, video_processor=tiny_processor(stride=16), device="cpu")
    assert len(predict(volume_of(chest_hu(32)))["clips"]) == 2


def test_an_unusable_model_is_told_in_plain_words(model_folder, tmp_path):
    broken = tiny_model_folder(tmp_path / "broken")
    (broken / "video_preprocessor_config.json").unlink()
    with pytest.raises(ModelLoadError, match="nothing says how its scans were prepared"):
        pipeline(TASK, model=str(broken), device="cpu")


def test_a_model_of_transformers(tmp_path):
    folder = video_model_folder("videomae", tmp_path / "mae", num_labels=1)
    tiny_processor(num_frames=4, size=32, crop_size=32, num_channels=3, stride=4).save_pretrained(
        folder
    )
    result = pipeline(TASK, model=str(folder), device="cpu")(volume_of(chest_hu(12)))
    assert result["model"]["model_type"] == "videomae"
    assert 0 < result["study_probability"] < 1


def test_saving_keeps_what_the_pipeline_needs(predict, tmp_path):
    predict.save_pretrained(tmp_path / "saved")
    again = pipeline(TASK, model=str(tmp_path / "saved"), device="cpu", batch_size=3)
    volume = volume_of(chest_hu(40))
    assert again(volume)["clips"] == predict(volume)["clips"]


@pytest.mark.parametrize(
    "order", ["import ct_video_hf, transformers", "import transformers, ct_video_hf"]
)
def test_the_task_is_there_whatever_is_imported_first(order):
    code = (
        f"{order}; from transformers.pipelines import PIPELINE_REGISTRY as R;"
        f"print(R.check_task({TASK!r})[1]['impl'].__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.stdout.strip() == "ct_video_hf._pipeline_task", done.stderr


CLIENT = """
import json, sys, numpy as np
import ct_video_hf
from transformers import pipeline
from tests.support.prediction import chest_hu, volume_of
answers = []
for trust in (None, False, True):
    predict = pipeline(sys.argv[1], model="tester/tiny", revision="v1", device="cpu",
                       trust_remote_code=trust)
    answers.append(predict(volume_of(chest_hu(40))))
print(json.dumps(answers))
"""


@pytest.mark.slow
def test_from_the_hub_by_revision_with_the_calibration_of_that_commit(model_folder, tmp_path):
    folder = calibrated(tiny_model_folder(tmp_path / "tiny"))
    with HubServer(tmp_path / "hub") as hub:
        with client_of(hub):
            commit = push_model(folder, "tester/tiny", revision="v1").commit
        environment = hub.env(tmp_path / "home", token="hf_write") | {
            "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, TASK], env=environment, capture_output=True, text=True,
            check=False, timeout=300, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        assert not any(line.endswith(".py") for line in map(str, hub.log)), "no code is fetched"
    answers = json.loads(done.stdout)
    assert len({json.dumps(without_timings(answer)) for answer in answers}) == 1
    assert answers[0]["calibrated"] is True
    assert answers[0]["model"] | {"revision": "v1", "commit": commit} == answers[0]["model"]


STRANGER = """
import sys
from transformers import pipeline
for trust in (True, False):
    try:
        pipeline("ct-volume-classification", model=sys.argv[1], trust_remote_code=trust)
    except (ImportError, ValueError) as error:
        print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_without_the_package_an_error_says_that_it_is_needed(model_folder, tmp_path):
    shown = run_as_stranger(STRANGER, model_folder, folder=tmp_path)
    trusted, other = shown.strip().split("\nValueError ")
    assert trusted.startswith("ImportError The pipeline 'ct-volume-classification' reads CT scans")
    assert "import ct_video_hf" in trusted
    assert "trust_remote_code=True" in other


def test_clips_tell_their_slices_in_source_order(predict):
    volume = volume_of(chest_hu(40))
    order = np.random.default_rng(0).permutation(40).tolist()  # source order need not follow z
    order[5] = None
    volume.source_index[:] = order
    for clip in predict(volume)["clips"]:
        here = order[clip["start"] : clip["stop"]]
        assert clip["source_slices"] == here
        known = [index for index in here if index is not None]
        assert clip["source_range"] == [min(known), max(known)]
        assert "sop_instance_uids" not in clip
