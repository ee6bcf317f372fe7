"""The README's main command on a few studies: what it says, and what it leaves."""

import csv
import json
import re

import pytest

from tests.support.quickstart import quickstart

pytestmark = pytest.mark.slow


@pytest.fixture
def run(quickstart_place):
    return quickstart_place, (quickstart_place / "printed.txt").read_text(encoding="utf-8")


def test_it_reports_what_it_measured_and_where_everything_lies(run):
    place, printed = run
    assert "all of these, combined" in printed
    assert re.search(
        r"slow_tiny +study/auroc +[01]\.\d{3} +\([01]\.\d{3} to [01]\.\d{3}\)", printed
    )
    assert re.search(r"slow_tiny_2d +study/auroc", printed)
    assert "Not for clinical use" in printed
    for name in ("dicom", "set", "slow_tiny", "slow_tiny_2d", "predictions", "pictures"):
        assert (place / "quickstart_output" / name).is_dir(), name


def test_the_model_folder_is_complete(run):
    folder = run[0] / "quickstart_output" / "slow_tiny"
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.json",
        "model.safetensors",
        "video_preprocessor_config.json",
        "slow.py",
        "README.md",
        "metrics.json",
        "training_config.json",
    }
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["study/auroc"]["n"] == 6
    assert str(run[0]) not in "".join(
        path.read_text(encoding="utf-8")
        for path in folder.iterdir()
        if path.suffix != ".py" and path.suffix in (".json", ".md", ".csv")
    )


def test_it_predicts_on_generated_and_real_scans(run):
    tables = list((run[0] / "quickstart_output" / "predictions").glob("*.csv"))
    assert len(tables) == 3
    for table in tables:
        with table.open(encoding="utf-8") as stream:
            assert 0 < float(next(csv.DictReader(stream))["probability"]) < 1
    pictures = list((run[0] / "quickstart_output" / "pictures").glob("*.png"))
    assert len(pictures) == 3
    assert all(picture.read_bytes()[:4] == b"\x89PNG" for picture in pictures)


def test_starting_it_again_does_nothing_twice(run):
    weights = run[0] / "quickstart_output" / "slow_tiny" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    done = quickstart(run[0] / "quickstart_output")
    assert done.returncode == 0, done.stderr[-4000:]
    assert weights.stat().st_mtime_ns == before
