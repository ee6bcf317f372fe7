"""The reading benchmark runs, agrees with the published way, and says what it left out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_small_run():
    command = [
        sys.executable, "scripts/benchmark_reading.py", "--slices", "4", "--side", "512",
        "--repeats", "1", "--ways", "ours, 2 workers", "--syntaxes", "RLE", "--json",
    ]  # fmt: skip
    finished = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(finished.stdout)
    ways = report["results"]["RLE"]
    assert set(ways) == {"published way", "ours, 2 workers"}
    assert ways["ours, 2 workers"]["max_hu_from_published"] <= 0.5  # rounding to whole HU
    assert all(run["seconds"] > 0 for run in ways.values())
    assert {goal["goal"] for goal in report["goals"]} == {
        "3x published, RLE",
        "under 150 MB above the interpreter",
    }
