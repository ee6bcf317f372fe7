"""The README's main command on a few studies, and the README's own code on what it leaves."""

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from ct_video_hf.cli import build_parser
from tests.support.tiny_runs import REPOSITORY, environment

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.slow


def quickstart(out, *words):
    command = [sys.executable, str(REPOSITORY / "scripts" / "quickstart.py"), "--out", str(out)]
    sizes = ["--studies", "16", "6", "6", "--epochs", "1"]
    return subprocess.run(
        [*command, *sizes, *words],
        env=environment() | {"CT_VIDEO_HF_VENV": "none"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("readme")
    done = quickstart(place / "quickstart_output")
    assert done.returncode == 0, done.stderr[-4000:]
    return place, done.stdout


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


def test_readme_python_runs(run):
    place = run[0]
    shutil.copytree(
        REPOSITORY / "tests" / "data" / "lidc_idri_0001",
        place / "tests" / "data" / "lidc_idri_0001",
    )
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        done = subprocess.run(
            [sys.executable, "-c", block],
            cwd=place,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        assert done.stdout.strip()


def test_readme_commands_exist():
    lines = [
        line.partition("#")[0].strip()
        for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("ct-video-hf")
    ]
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line)[1:]
        assert build_parser(words[0]).parse_args(words).command == words[0]
