"""Models by Hub id, over HTTP against a loopback Hub, each client in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.loopback_hub import COMMIT, LoopbackHub
from tests.support.transformers_models import video_model_folder

ROOT = Path(__file__).parents[2]
CLIENT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from ct_video_hf.inference import ModelLoadError, load_model
answers = []
for name, revision in json.loads(sys.argv[2]):
    try:
        answers.append(load_model(name, revision=revision).describe())
    except ModelLoadError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def client(environment, *wanted):
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, str(ROOT), json.dumps(wanted)],
        env=environment, capture_output=True, text=True, timeout=240,
        cwd=environment["HF_HOME"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.mark.slow
def test_by_id_then_offline_from_the_cache(model_folder, home):
    with LoopbackHub(model_folder) as hub:
        environment = hub.environment(home)
        main, tagged, no_revision, no_repo = client(
            environment,
            ("tester/model", None),
            ("tester/model", "v1"),
            ("tester/model", "v9"),
            ("tester/other", None),
        )
        log = hub.log
    assert (main["name"], main["revision"], main["commit"]) == ("tester/model", "main", COMMIT)
    assert (tagged["revision"], tagged["commit"]) == ("v1", COMMIT)
    assert "no revision 'v9'" in no_revision
    assert "no model 'tester/other' on the Hub" in no_repo
    assert any(line.startswith("GET") and "model.safetensors" in line for line in log)
    assert not any(line.endswith(".py") for line in log)  # code is not even fetched

    # The server is gone: once with the variable that says so, once by finding it out.
    for variables in ({"HF_HUB_OFFLINE": "1"}, {}):
        cached, missing = client(
            environment | variables, ("tester/model", None), ("tester/other", None)
        )
        assert cached["commit"] == COMMIT
        assert "cannot be reached" in missing


@pytest.mark.slow
def test_a_download_that_breaks_off(model_folder, home):
    with LoopbackHub(model_folder, cut="model.safetensors") as hub:
        (answer,) = client(hub.environment(home), ("tester/model", None))
    assert "could not be fetched" in answer
    with LoopbackHub(model_folder) as hub:  # nothing half-downloaded is left in the way
        (answer,) = client(hub.environment(home), ("tester/model", None))
    assert answer["commit"] == COMMIT


START = """
import json, sys
sys.path.insert(0, sys.argv[1])
from ct_video_hf.models import create_model, processor_for
from ct_video_hf.models.transformers_processor import origin_of
answers = []
for name in sys.argv[2:]:
    try:
        model = create_model(name)
        answers.append([type(model).__name__, processor_for(name).num_frames, origin_of(name)])
    except OSError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


@pytest.mark.slow
def test_a_model_of_transformers_by_id_with_revision_licence_and_commit(home, tmp_path):
    folder = video_model_folder("videomae", tmp_path / "model", license="cc-by-nc-4.0")
    (folder / "modeling_evil.py").write_text("raise SystemExit('executed')")
    with LoopbackHub(folder) as hub:
        done = subprocess.run(
            [sys.executable, "-c", START, str(ROOT), "tester/model@v1", "tester/model@v9",
             "tester/other"],
            env=hub.environment(home), capture_output=True, text=True, timeout=240, cwd=home,
        )  # fmt: skip
        log = hub.log
    assert done.returncode == 0, done.stderr
    found, no_revision, no_repo = json.loads(done.stdout)
    origin = {"model_type": "videomae", "commit": COMMIT, "license": "cc-by-nc-4.0"}
    assert found == ["VideoMAEForVideoClassification", 4, origin]
    assert "no revision 'v9'" in no_revision
    assert "no model 'tester/other' on the Hub" in no_repo
    assert not any(line.endswith(".py") for line in log)
