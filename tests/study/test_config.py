"""Designs are checked as they are read: every slip is named with its place."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ct_video_hf.errors import CTVideoError
from ct_video_hf.models import list_backbones
from ct_video_hf.study import grid_cells, read_study, shipped

from .designs import design, write


def test_a_design_is_read_with_paths_beside_its_file(tmp_path):
    config = read_study(write(tmp_path, design()))
    assert config.folder == tmp_path / "out"
    assert config.dataset("ct").set == tmp_path / "sets" / "ct"
    assert config.model("slow_tiny").arms == ("random", "in_domain")
    elsewhere = read_study(write(tmp_path, design()), folder=tmp_path / "there")
    assert elsewhere.folder == tmp_path / "there"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modles": {}}, "unknown key 'modles'; did you mean models"),
        ({"models": None}, "models is needed"),
        ({"fractions": [0.5, 1.5]}, r"fractions: \[0.5, 1.5\]; above 0 and at most 1"),
        ({"fractions": [0.5, 0.5]}, "appears twice"),
        ({"seeds": ["one"]}, "seeds: numbers are expected"),
        ({"learning_rates": [0.1, 0.01]}, "several rates need search"),
        ({"contrasts": [["kinetics", "random"]]}, "there is no arm 'kinetics'"),
        ({"contrasts": ["random"]}, "pairs"),
        ({"training": {"lr": 0.1}}, "lr is set by the grid"),
        ({"training": {"learning_rate": 0.1}}, "lr is set by the grid"),
        ({"training": {"epochs": "many"}}, "option epochs"),
        ({"models": {"slow_tiny": {"kind": "4d"}}}, "models slow_tiny: kind is 3d or 2d"),
        ({"models": {"slow_tiny": {"pretraining": ["none"]}}}, "there is no arm 'none'"),
        ({"data": {"ct": {}}}, "data ct: set is needed"),
        ({"data": {"ct": {"set": "x", "evaluate": False}}}, "no data set is evaluated"),
        ({"data": {"ct": {"set": "x", "prepare": {"source": "phantom"}}}}, "data_dir"),
        ({"pretraining": {"random": {}, "in_domain": {"from": {"ct": "other"}}}}, "start is ''"),
        ({"pretraining": {"random": {}, "in_domain": {"from": {"ct": "ct"}, "start": "random"}}},
         "ct is its own source"),
        ({"pretraining": {"random": {}, "in_domain": {"from": {"ct": "mars"}, "start": "random"}}},
         "there is no data set mars"),
        ({"keep_weights": "some"}, "needed, all or none"),
    ],
)  # fmt: skip
def test_a_slip_is_named_with_its_place(tmp_path, changes, words):
    with pytest.raises(CTVideoError, match=words):
        read_study(write(tmp_path, design(**changes)))


def test_a_file_that_is_not_there_names_the_shipped_designs(tmp_path):
    with pytest.raises(CTVideoError, match=r"no design of that name \(mini, paper\)"):
        read_study(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("name", ["mini", "paper"])
def test_shipped_designs_name_networks_that_exist(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read_study(name)
    assert set(shipped()) == {"mini", "paper"}
    assert {model.name for model in config.models} <= set(list_backbones())
    assert len(grid_cells(config)) > 30
    assert config.folder.parent == tmp_path


def test_reading_a_design_needs_no_torch(tmp_path):
    code = (
        "import sys; from ct_video_hf.study import read_study, grid_cells; "
        f"grid_cells(read_study({str(write(tmp_path, design()))!r})); "
        "assert not {'torch', 'transformers', 'matplotlib', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
