"""The benchmark of preparing runs, and compares what it says it compares."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny_runs import environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_small_run():
    pytest.importorskip("h5py")
    command = [
        sys.executable, "scripts/benchmark_data.py", "prepare", "--studies", "4", "--slices", "6",
        "--repeats", "1", "--json",
    ]  # fmt: skip
    finished = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)["results"]["prepare"]
    assert {len(seconds) for seconds in report["all_seconds"].values()} == {1}
    assert len(report["all_seconds"]) == 5
    assert all(seconds > 0 for seconds in report["seconds_a_study"].values())
    assert len(report["times_one_process"]) == 2  # the pool's workers, and what the machine allows
    assert [goal["goal"] for goal in report["goals"]] == [8.0, 0.9]
