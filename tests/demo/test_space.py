"""A Space: what is written, its examples, its code, and its push to a loopback Hub."""

import re
import subprocess
import sys
from importlib.metadata import requires

import pytest
import yaml
from huggingface_hub import HfApi

from ct_video_hf import read_ct
from ct_video_hf.cli import main
from ct_video_hf.demo import read_examples
from ct_video_hf.demo.space import write_space
from ct_video_hf.errors import CTVideoError
from ct_video_hf.hub import HubError
from ct_video_hf.hub.space_repo import push_space
from tests.support.hub_client import client_of
from tests.support.hub_server import HubServer


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space") / "space"
    write_space(folder, "tester/demo", "tester/tiny", revision="v1")
    return folder


def test_a_space_is_whole(space):
    readme = (space / "README.md").read_text()
    metadata = yaml.safe_load(readme.split("---")[1])
    assert metadata["sdk"] == "gradio"
    assert metadata["app_file"] == "app.py"
    assert metadata["models"] == ["tester/tiny"]
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


def test_its_code_is_this_package(space):
    words = "import ct_video_hf.demo as demo, pathlib; print(pathlib.Path(demo.__file__).resolve())"
    found = subprocess.run(
        [sys.executable, "-c", words], cwd=space, capture_output=True, text=True, timeout=120
    )
    assert found.stdout.strip() == str(space / "ct_video_hf" / "demo" / "__init__.py")
    compile((space / "app.py").read_text(), "app.py", "exec")
    assert "'tester/tiny', revision='v1'" in (space / "app.py").read_text()


def test_folders_of_this_machine_are_refused(tmp_path, space):
    with pytest.raises(CTVideoError, match="push a folder there first"):
        write_space(tmp_path / "a", "tester/demo", str(tmp_path))
    with pytest.raises(CTVideoError, match="not empty"):
        write_space(space, "tester/demo", "tester/tiny")
    assert not list(tmp_path.iterdir())


def test_a_space_is_pushed_and_pushed_again(space, tmp_path):
    with HubServer(tmp_path / "hub") as hub, client_of(hub):
        first = push_space(space, "tester/demo")
        assert push_space(space, "tester/demo")
        info = HfApi(endpoint=hub.url, token="hf_write").space_info("tester/demo")
        held = {entry.rfilename for entry in info.siblings} - {".gitattributes"}
        sent = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
        sent = {name for name in sent if "__pycache__" not in name}
        assert first
        assert sent == held
        with pytest.raises(HubError, match="public"):
            push_space(space, "tester/demo", private=True)


def test_the_command_line_writes_lists_and_sends_nothing(tmp_path, capsys):
    words = ["space", "tester/demo", "--model", "tester/tiny", "--out", str(tmp_path / "out")]
    assert main([*words, "--push", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "app.py" in said
    assert "nothing was sent" in said
    assert (tmp_path / "out" / "app.py").is_file()
    with pytest.raises(SystemExit):
        main(words[:4])
