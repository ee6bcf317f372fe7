"""Pushing model folders with the real client to a loopback Hub, and loading them from there."""

from __future__ import annotations

import json
import subprocess
import sys
from unittest import mock

import pytest
import yaml
from huggingface_hub import HfApi

from ct_video_hf.cli import main
from ct_video_hf.errors import CTVideoError
from ct_video_hf.hub import HubError
from ct_video_hf.hub.guard import plan_upload
from ct_video_hf.hub.model_repo import push_model
from tests.support.hub_client import client_of
from tests.support.hub_server import HubServer
from tests.support.prediction import tiny_model_folder
from tests.support.tiny_runs import REPOSITORY

METRICS = {
    "study/auroc": {"value": 0.875, "low": 0.7, "high": 0.95, "n": 30, "positives": 12},
    "split": "test", "confidence": 0.95, "resamples": 100, "aggregation": "max",
    "left_out": {"studies": 1, "study_ids": ["Jane Roe 1961"]},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A model folder as training leaves it, with things in it that must not go."""
    path = tiny_model_folder(tmp_path / "tiny")
    (path / "metrics.json").write_text(json.dumps(METRICS))
    (path / "predictions.csv").write_text("study_id,score\nJane Roe 1961,0.5\n")
    (path / "checkpoint-3").mkdir()
    (path / "checkpoint-3" / "optimizer.pt").write_bytes(b"x")
    return path


def client(hub, home, *words, token="hf_write", **variables):
    environment = hub.env(home, token=token) | {
        "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CT_VIDEO_HF_PAUSE": "0.01",
    } | variables  # fmt: skip
    return subprocess.run(
        [sys.executable, *map(str, words)], env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def push(hub, home, folder, *more, **kwargs):
    words = ("-m", "ct_video_hf", "push", folder, "tester/tiny", "--json", *more)
    return client(hub, home, *words, **kwargs)


LOAD = """
import sys, torch
sys.modules["ct_video_hf"] = None
from transformers import AutoModelForVideoClassification, AutoVideoProcessor
kwargs = dict(trust_remote_code=True, revision=sys.argv[1])
model = AutoModelForVideoClassification.from_pretrained("tester/tiny", **kwargs)
processor = AutoVideoProcessor.from_pretrained("tester/tiny", **kwargs)
torch.manual_seed(0)
print(float(model(pixel_values=torch.rand(1, 16, 1, 64, 64)).logits))
"""


def test_pushed_verified_and_loaded_without_the_package(folder, tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        done = push(hub, tmp_path / "home", folder, "--private", "--license", "cc-by-4.0")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["private"] is True
        assert told["verified"] == len(told["files"]) > 5
        assert {"predictions.csv", "checkpoint-3/optimizer.pt"} <= set(told["left_out"])
        loaded = client(hub, tmp_path / "stranger", "-c", LOAD, told["commit"])
        assert loaded.returncode == 0, loaded.stderr
        files = hub.files("tester/tiny", revision=told["commit"])
        assert b"Jane Roe" not in b"".join(files.values()), "names of studies stay at home"
        card = files["README.md"].decode()
        assert 'ct_video_hf.pipeline("tester/tiny")' in card
        assert yaml.safe_load(card.split("---")[1])["license"] == "cc-by-4.0"
        assert json.loads(files["metrics.json"])["left_out"] == {"studies": 1}

        # the same again changes nothing; a file that the folder lost goes from the Hub as well
        with client_of(hub):
            assert push_model(folder, "tester/tiny", license="cc-by-4.0").commit == told["commit"]
            (folder / "metrics.json").unlink()
            push_model(folder, "tester/tiny")
        assert "metrics.json" not in hub.files("tester/tiny")


def test_a_branch_and_results_beside_a_data_set(folder, tmp_path):
    with HubServer(tmp_path / "hub") as hub, client_of(hub):
        told = push_model(folder, "tester/tiny", revision="v2", dataset_id="ct-lab/nodules")
        files = hub.files("tester/tiny", revision="v2")
        assert files.keys() == set(told.files)
        (entry,) = yaml.safe_load(files[".eval_results/ct_video_hf.yaml"])
        assert entry["value"] == 0.875
        assert "95 % interval 0.700 to 0.950" in entry["notes"]
        assert hub.files("tester/tiny") == {}, "main is as it was"
        read = HfApi().model_info("tester/tiny", revision="v2", expand=["evalResults"])
        assert [result.task_id for result in read.eval_results] == ["study_auroc"]


def test_files_that_are_not_what_was_sent(folder, tmp_path):
    for glob in ("*.safetensors", "config.json"):
        with (
            HubServer(tmp_path / f"hub{len(glob)}", misstate=glob) as hub,
            client_of(hub),
            pytest.raises(HubError, match="1 files on the Hub are not what was sent, such as"),
        ):
            push_model(folder, "tester/tiny")


def test_busy_servers_are_asked_again_and_nothing_is_half_there(folder, tmp_path):
    faults = {"fail_put_every": 2, "fail_commit_every": 2}
    with HubServer(tmp_path / "hub", **faults) as hub, client_of(hub):
        push_model(folder, "tester/tiny")
        push_model(folder, "tester/tiny")
        before = hub.files("tester/tiny")
        hub.set_faults(fail_commit_every=1)
        (folder / "metrics.json").write_text(json.dumps(METRICS | {"resamples": 200}))
        with pytest.raises(HubError, match=r"did not answer 5 times \(status 503\)"):
            push_model(folder, "tester/tiny")
        assert hub.files("tester/tiny") == before


def test_cut_connections_and_lost_answers(folder, tmp_path):
    with HubServer(tmp_path / "hub", cut_puts=2, lose_commits=1) as hub, client_of(hub):
        first = push_model(folder, "tester/tiny")
        assert first.verified == len(first.files)
        # made, and the answer lost: the file that went with it cannot go twice
        (folder / "metrics.json").unlink()
        hub.set_faults(lose_commits=1)
        push_model(folder, "tester/tiny")
        assert hub.faults["lose_commits"] == hub.faults["cut_puts"] == 0
        assert hub.files("tester/tiny").keys() == set(first.files) - {"metrics.json"}


@pytest.mark.parametrize("status", [402, 413, 507])
@pytest.mark.parametrize("fault", ["fail_put_every", "fail_commit_every"])
def test_no_room_left_is_said_at_once(status, fault, folder, tmp_path, caplog):
    with (
        HubServer(tmp_path / "hub", fail_status=status, **{fault: 1}) as hub,
        client_of(hub),
        pytest.raises(HubError, match=r"the Hub has no room left for this \(quota\)"),
    ):
        push_model(folder, "tester/tiny")
    assert "no answer" not in caplog.text


def test_a_file_that_never_arrives_is_told_in_plain_words(folder, tmp_path):
    with (
        HubServer(tmp_path / "hub", fail_put_every=1) as hub,
        client_of(hub),
        mock.patch("huggingface_hub.utils._http.time.sleep"),  # the client's own pauses
        pytest.raises(HubError, match=r"did not answer 5 times \(status 503\)"),
    ):
        push_model(folder, "tester/tiny")


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (None, "nobody is logged in"),
        ("hf_wrong", "does not know this token"),
        ("hf_read", "write permission"),
        ("hf_other", "may not do that"),
    ],
)
def test_refusals_in_plain_words(folder, tmp_path, token, words):
    with (
        HubServer(tmp_path / "hub") as hub,
        client_of(hub, token),
        pytest.raises(HubError, match=words),
    ):
        push_model(folder, "tester/tiny")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "did not answer"),
    ],
)
def test_no_network_in_plain_words(folder, tmp_path, variables, words):
    with HubServer(tmp_path / "hub") as hub:
        done = push(hub, tmp_path / "home", folder, **variables)
        assert done.returncode == 1
        assert words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_a_public_repository_is_not_taken_for_a_private_one(folder, tmp_path):
    with HubServer(tmp_path / "hub") as hub, client_of(hub):
        push_model(folder, "tester/tiny", private=False)
        with pytest.raises(HubError, match="is public and a private one was asked for"):
            push_model(folder, "tester/tiny")


def test_a_dry_run_asks_nobody(folder, capsys):
    assert main(["push", str(folder), "tester/tiny", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["commit"] is None
    assert {"config.json", "model.safetensors", "README.md"} <= set(told["files"])
    assert told["bytes"] > 10_000


def test_names_of_studies_become_counts_in_every_file(folder):
    left = {"studies": 1, "study_ids": ["MILLER_ADA"], "clips_of_uncertain_label": 3}
    record = {"data": {"counts": {"train": {"studies": 9, "left_out": left}}}}
    (folder / "training_config.json").write_text(json.dumps(record))
    files = plan_upload(folder).files
    kept = json.loads(files["training_config.json"])["data"]["counts"]["train"]["left_out"]
    assert kept == {"studies": 1, "clips_of_uncertain_label": 3}
    assert b"Jane Roe" not in files["metrics.json"]


@pytest.mark.parametrize(("where", "repo"), [("nowhere", "a/b"), (None, "no id")])
def test_wrong_use(folder, where, repo):
    with pytest.raises(CTVideoError):
        push_model(where or folder, repo, dry_run=True)
