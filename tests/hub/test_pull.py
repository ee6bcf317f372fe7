"""Models from the Hub over a bad line: an error in words, never other weights."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ct_video_hf.hub import push_model
from tests.support.hub_client import client_of
from tests.support.hub_server import HubServer
from tests.support.prediction import tiny_model_folder
from tests.support.tiny_runs import REPOSITORY

CLIENT = """
import json, os, shutil, sys, torch, urllib.request
stranger = sys.argv[1] == "stranger"
if stranger:
    sys.modules["ct_video_hf"] = None  # importing it fails from here on
else:
    import ct_video_hf
    from ct_video_hf.inference import load_model
from transformers import AutoModelForVideoClassification

def faults(**values):
    url, data = os.environ["HF_ENDPOINT"] + "/_faults", json.dumps(values).encode()
    urllib.request.urlopen(urllib.request.Request(url, data, method="POST")).read()

clear = {"corrupt": None, "truncate": None, "fail_get_every": 0, "latency": 0,
         "drop_header": None, "truncate_times": 1}
clip = torch.rand(1, 16, 1, 64, 64, generator=torch.manual_seed(0))
answers = []
for how, repo, token, wrong in json.loads(sys.argv[2]):
    os.environ["HF_TOKEN"] = token
    faults(**(clear | wrong))
    if how == "again":  # with what the attempt before left in the cache
        how = "auto"
    else:
        shutil.rmtree(os.path.join(os.environ["HF_HOME"], "hub"), ignore_errors=True)
    try:
        if how == "auto":
            kwargs = {"trust_remote_code": stranger}
            model = AutoModelForVideoClassification.from_pretrained(repo, **kwargs)
        else:
            model = load_model(repo).model
        answers.append(float(model.eval()(pixel_values=clip).logits))
    except Exception as error:
        answers.append(f"{type(error).__name__}: {error}")
print(json.dumps(answers))
"""
REPO, GATED = "tester/tiny", "tester/gated"
WEIGHTS = {"corrupt": "*.safetensors"}
CUT = {"truncate": "*.safetensors", "truncate_times": -1}


def ask(hub, home, who, rows):
    environment = hub.env(home) | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, who, json.dumps(rows)], env=environment,
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def hub(tmp_path):
    folder = tiny_model_folder(tmp_path / "tiny")
    with HubServer(tmp_path / "hub") as server:
        with client_of(server):
            push_model(folder, REPO)
            push_model(folder, GATED, private=False)
        server.gated.add(GATED)
        yield server


@pytest.mark.slow
def test_damaged_downloads_and_refusals(hub, tmp_path):
    rows = [
        ("auto", REPO, "hf_write", {}),
        ("auto", REPO, "hf_write", {"latency": 0.05} | CUT | {"truncate_times": 1}),
        ("auto", REPO, "hf_write", WEIGHTS),
        ("again", REPO, "hf_write", {}),
        ("load", REPO, "hf_write", {}),
        ("load", REPO, "hf_write", WEIGHTS),
        ("load", REPO, "hf_write", {"corrupt": "calibration.json", **CUT}),
        ("load", REPO, "hf_write", {"fail_get_every": 1}),
        ("load", REPO, "hf_write", {"drop_header": "X-Repo-Commit"}),
        ("load", REPO, "", {}),
        ("load", REPO, "hf_wrong", {}),
        ("load", REPO, "hf_other", {}),
        ("load", GATED, "hf_other", {}),
    ]
    answers = ask(hub, tmp_path / "home", "user", rows)
    whole = answers[0]
    assert isinstance(whole, float), whole
    assert answers[1] == whole, "a line that was cut once is tried again"
    assert answers[3:5] == [whole, whole], "what was damaged is fetched anew"
    for number, words in (
        (2, "model.safetensors of tester/tiny was damaged on its way"),
        (5, "model.safetensors of tester/tiny was damaged on its way"),
        (6, "could not be fetched"),
        (7, "the Hub is busy (status 503)"),
        (8, "headers that the Hub sends"),
        (9, "or it is private"),
        (10, "does not know the token"),
        (11, "or it is private"),
        (12, "Access to tester/gated is restricted"),
    ):
        assert words in str(answers[number]), (number, answers[number])


@pytest.mark.slow
def test_damaged_downloads_without_the_package(hub, tmp_path):
    rows = [("auto", REPO, "hf_write", wrong) for wrong in ({}, WEIGHTS, CUT)]
    whole, damaged, cut = ask(hub, tmp_path / "home", "stranger", rows)
    assert isinstance(whole, float), whole
    assert "was damaged on its way" in str(damaged)
    assert "Error" in str(cut)
