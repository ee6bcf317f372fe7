"""A Space: what is written, its examples, its code, and its push to a loopback Hub."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import HfApi

import ct_video_hf
from ct_video_hf import read_ct
from ct_video_hf.cli import main
from ct_video_hf.demo import read_examples
from ct_video_hf.demo.space import write_space
from ct_video_hf.errors import CTVideoError
from ct_video_hf.hub import HubError, push_model, save_model_folder
from ct_video_hf.hub.space_repo import push_space
from tests.support.demo_server import Demo, Visitor
from tests.support.hub_client import client_of
from tests.support.hub_server import HubServer
from tests.support.listed_packages import hide_unlisted
from tests.support.prediction import tiny_model, tiny_model_folder, tiny_processor


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def hub(model, tmp_path_factory):
    """A Hub with a model; this process is its client while the tests of this file run."""
    with HubServer(tmp_path_factory.mktemp("hub")) as server, client_of(server):
        push_model(model, "tester/tiny")
        HfApi().create_tag("tester/tiny", tag="v1")
        yield server


@pytest.fixture(scope="module")
def commit(hub):
    return HfApi().model_info("tester/tiny").sha


@pytest.fixture(scope="module")
def space(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("space") / "space"
    write_space(folder, "tester/demo", "tester/tiny", revision="v1")
    return folder


def test_a_space_is_whole(space, commit):
    readme = (space / "README.md").read_text()
    metadata = yaml.safe_load(readme.split("---")[1])
    assert metadata["sdk"] == "gradio"
    assert metadata["app_file"] == "app.py"
    assert metadata["models"] == ["tester/tiny"]
    assert metadata["python_version"] == "{}.{}".format(*sys.version_info[:2])
    assert commit in readme
    assert len(metadata["short_description"]) <= 60
    assert "Not for clinical use" in readme
    wanted = (space / "requirements.txt").read_text().splitlines()
    names = {re.match(r"[\w.-]+", line)[0] for line in wanted}
    assert {"torch", "transformers", "gradio", "pydicom"} <= names
    assert "pytest" not in names
    assert any("pytest" in line for line in requires("ct-video-hf"))
    assert not list(space.rglob("__pycache__"))
    assert [path.name for path in space.parent.iterdir()] == ["space"]


def test_its_examples_are_generated_scans(space):
    listed = read_examples(space / "examples")
    assert len(listed) == 2
    for example in listed:
        volume = read_ct(example["path"])
        assert len(volume) == 48
        assert "no person" in example["words"]


def test_its_code_is_this_package(space, commit):
    words = "import ct_video_hf.demo as demo, pathlib; print(pathlib.Path(demo.__file__).resolve())"
    found = subprocess.run(
        [sys.executable, "-c", words], cwd=space, capture_output=True, text=True, timeout=120
    )
    assert found.stdout.strip() == str(space / "ct_video_hf" / "demo" / "__init__.py")
    compile((space / "app.py").read_text(), "app.py", "exec")
    assert f"'tester/tiny', revision='{commit}'" in (space / "app.py").read_text()


@pytest.mark.slow
def test_a_space_answers_with_the_model_that_it_was_written_for(
    hub, model, commit, space, tmp_path
):
    """Its app.py runs in a process of its own that has only what its requirements.txt names."""
    other = tiny_model()
    torch.nn.init.constant_(other.classifier.bias, 3.0)
    push_model(save_model_folder(other, tiny_processor(), tmp_path / "other"), "tester/tiny")
    listed = (space / "requirements.txt").read_text().splitlines()
    path = hide_unlisted(listed, tmp_path / "path")
    variables = hub.env(tmp_path / "hub_home") | {"PYTHONPATH": str(path)}
    tried = [sys.executable, "-c", "import numpy\nimport pytest"]
    refused = subprocess.run(
        tried, env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert "No module named 'pytest'" in refused.stderr
    whole = tmp_path / "space"
    shutil.copytree(space, whole)  # Python's caches stay out of the one that others look at
    running = Demo(None, tmp_path, space=whole, variables=variables)
    try:
        visitor = Visitor(running)
        for words in ("Not for clinical use", "tester/tiny", commit):
            assert words in str(visitor.config)
        scan = Path(read_examples(space / "examples")[0]["path"])
        html = visitor.press("ctv-run", visitor.upload(scan))
        result = visitor.look(html, "get/result.json").json()
    finally:
        code = running.close()
    assert code == 0
    assert (result["model"]["name"], result["model"]["commit"]) == ("tester/tiny", commit)
    expected = ct_video_hf.pipeline(model, device="cpu")(scan)
    assert result["study_score"] == pytest.approx(expected["study_score"], abs=1e-4)
    assert commit in html
    assert running.outside == 0


def test_folders_of_this_machine_are_refused(tmp_path, space):
    with pytest.raises(CTVideoError, match="push a folder there first"):
        write_space(tmp_path / "a", "tester/demo", str(tmp_path))
    with pytest.raises(CTVideoError, match="not empty"):
        write_space(space, "tester/demo", "tester/tiny")
    assert not list(tmp_path.iterdir())


def test_a_space_is_pushed_and_pushed_again(hub, space):
    first = push_space(space, "tester/demo")
    assert push_space(space, "tester/demo")
    info = HfApi().space_info("tester/demo")
    held = {entry.rfilename for entry in info.siblings} - {".gitattributes"}
    sent = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    sent = {name for name in sent if "__pycache__" not in name}
    assert first
    assert sent == held
    with pytest.raises(HubError, match="public"):
        push_space(space, "tester/demo", private=True)


def test_a_model_that_is_not_on_the_hub_gets_no_space(hub, tmp_path):
    for name, revision in (("tester/none", None), ("tester/tiny", "v2")):
        with pytest.raises(HubError, match="there is no such"):
            write_space(tmp_path / "a", "tester/demo", name, revision=revision)
    assert not list(tmp_path.iterdir())


def test_the_command_line_writes_lists_and_sends_nothing(hub, tmp_path, capsys):
    words = ["space", "tester/demo", "--model", "tester/tiny", "--out", str(tmp_path / "out")]
    assert main([*words, "--push", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "app.py" in said
    assert "nothing was sent" in said
    assert (tmp_path / "out" / "app.py").is_file()
    with pytest.raises(SystemExit):
        main(words[:4])
