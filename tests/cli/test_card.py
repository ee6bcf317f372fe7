"""``ct-video-hf card`` at the command line."""

import json

import pytest

from ct_video_hf.cli import main
from tests.support.prediction import tiny_model_folder


@pytest.fixture
def folder(tmp_path):
    return tiny_model_folder(tmp_path / "model")


def test_render_then_check(folder, capsys):
    assert main(["card", str(folder)]) == 0
    assert (folder / "README.md").is_file()
    assert main(["card", str(folder), "--check"]) == 0
    assert "sound" in capsys.readouterr().out


def test_check_names_problems_and_writes_nothing(folder, capsys):
    before = sorted(folder.iterdir())
    assert main(["card", str(folder), "--check"]) == 1
    assert "README.md is missing" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


def test_check_as_json(folder, capsys):
    (folder / "hu_clips.py").unlink()
    assert main(["card", str(folder), "--check", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["sound"] is False
    assert any("hu_clips.py" in problem for problem in answer["folder"])


def test_out_and_licence(folder, tmp_path):
    out = tmp_path / "cards" / "card.md"
    assert main(["card", str(folder), "--out", str(out), "--license", "apache-2.0"]) == 0
    assert "license: apache-2.0" in out.read_text()


def test_no_folder(tmp_path, capsys):
    assert main(["card", str(tmp_path / "nothing")]) == 1
    assert "no model folder 'nothing'" in capsys.readouterr().err
