"""Pushing model folders with the real client to a loopback Hub, and loading them from there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from ct_video_hf.cli import main
from ct_video_hf.errors import CTVideoError
from ct_video_hf.hub.guard import plan_upload
from ct_video_hf.hub.model_repo import push_model
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
        files = fetch(hub, tmp_path, told["commit"])
        text = "".join(p.read_text(errors="replace") for p in files.rglob("*") if p.is_file())
        assert "Jane Roe" not in text, "names of studies stay at home"
        card = (files / "README.md").read_text()
        assert 'ct_video_hf.pipeline("tester/tiny")' in card
        assert yaml.safe_load(card.split("---")[1])["license"] == "cc-by-4.0"
        assert json.loads((files / "metrics.json").read_text())["left_out"] == {"studies": 1}

        # the same again changes nothing; a file that the folder lost goes from the Hub as well
        again = json.loads(push(hub, tmp_path / "home", folder).stdout)
        assert again["verified"] == told["verified"]
        (folder / "metrics.json").unlink()
        third = json.loads(push(hub, tmp_path / "home", folder).stdout)
        assert not (fetch(hub, tmp_path, third["commit"]) / "metrics.json").exists()


def fetch(hub, tmp_path, revision):
    target = tmp_path / f"files-{revision[:8]}"
    code = (
        "import sys; from huggingface_hub import snapshot_download;"
        "snapshot_download('tester/tiny', revision=sys.argv[1], local_dir=sys.argv[2])"
    )
    done = client(hub, tmp_path / "reader", "-c", code, revision, target)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(target / ".cache", ignore_errors=True)
    return target


def test_a_branch_and_results_beside_a_data_set(folder, tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        done = push(
            hub, tmp_path / "home", folder, "--revision", "v2", "--dataset-id", "ct-lab/nodules"
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        results = fetch(hub, tmp_path, "v2") / ".eval_results" / "ct_video_hf.yaml"
        (entry,) = yaml.safe_load(results.read_text())
        assert entry["value"] == 0.875
        assert "0.700 to 0.950" in entry["notes"]
        assert told["revision"] == "v2"
        loaded = client(hub, tmp_path / "stranger", "-c", LOAD, "v2")
        assert loaded.returncode == 0, loaded.stderr


def test_busy_servers_are_asked_again_and_nothing_is_half_there(folder, tmp_path):
    with HubServer(tmp_path / "hub", fail_put_every=2, fail_commit_every=2) as hub:
        hub.set_faults(fail_put_every=2, fail_commit_every=2)
        first = push(hub, tmp_path / "home", folder)
        assert first.returncode == 0, first.stderr
        second = push(hub, tmp_path / "home", folder)
        assert second.returncode == 0, second.stderr
        hub.set_faults(fail_commit_every=1)
        (folder / "metrics.json").write_text(json.dumps(METRICS | {"resamples": 200}))
        third = push(hub, tmp_path / "home", folder)
        assert third.returncode == 1
        assert "did not answer 5 times (status 503)" in third.stderr
        told = json.loads(first.stdout)
        hub.clear_faults()
        assert (fetch(hub, tmp_path, told["commit"]) / "config.json").is_file()


@pytest.mark.parametrize(
    ("token", "variables", "words"),
    [
        (None, {}, "nobody is logged in"),
        ("hf_wrong", {}, "does not know this token"),
        ("hf_read", {}, "write permission"),
        ("hf_other", {}, "may not do that"),
        ("hf_write", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ("hf_write", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "did not answer"),
    ],
)
def test_refusals_in_plain_words(folder, tmp_path, token, variables, words):
    with HubServer(tmp_path / "hub") as hub:
        done = push(hub, tmp_path / "home", folder, token=token, **variables)
        assert done.returncode == 1
        assert words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_a_public_repository_is_not_taken_for_a_private_one(folder, tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        assert push(hub, tmp_path / "home", folder, "--public").returncode == 0
        done = push(hub, tmp_path / "home", folder, "--private")
        assert done.returncode == 1
        assert "is public and a private one was asked for" in done.stderr


def test_a_dry_run_asks_nobody(folder, capsys):
    assert main(["push", str(folder), "tester/tiny", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["commit"] is None
    assert {"config.json", "model.safetensors", "README.md"} <= set(told["files"])
    assert told["bytes"] > 10_000


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("scan.dcm", b"x", "a patient's scan"),
        ("IM0001", b"\0" * 128 + b"DICM", "a patient's scan"),
        ("ct.nii.gz", b"x", "a patient's scan"),
        ("private/salt", b"x", "a prepared set"),
        ("training_config.json", b'{"note": "/home/ada/scans"}', "names a place on a machine"),
        ("training_log.csv", b"epoch,loss\n1,hf_abcdefghijklmnopqrstuvwxyz\n", "access token"),
        ("training_log.csv", b"epoch\n1.2.840.113619.2.55.3.604688.12\n", "DICOM UID"),
        ("pytorch_model.bin", b"x", "pickled"),
    ],
)
def test_the_guard_names_what_must_not_go(folder, name, content, words):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    with pytest.raises(CTVideoError, match=words) as refusal:
        push_model(folder, "tester/tiny", dry_run=True)
    assert "hf_abc" not in str(refusal.value)


def test_links_and_unknown_files_stay_at_home(folder, tmp_path):
    outside = tmp_path / "secret.json"
    outside.write_text("{}")
    (folder / "conversion.json").symlink_to(outside)
    (folder / "notes.txt").write_text("about Jane")
    plan = plan_upload(folder, "---\n---\n")
    assert {"conversion.json", "notes.txt"} <= set(plan.left_out)
    assert "conversion.json" not in plan.files


@pytest.mark.parametrize(("where", "repo"), [("nowhere", "a/b"), (None, "no id")])
def test_wrong_use(folder, where, repo):
    with pytest.raises(CTVideoError):
        push_model(where or folder, repo, dry_run=True)
