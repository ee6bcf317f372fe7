"""A small study from its first cell to its report: real training processes on tiny sets."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from unittest import mock

import psutil
import pytest

from ct_video_hf.cli import main
from ct_video_hf.errors import CTVideoError
from ct_video_hf.study import StudyState, grid_cells, read_study, run_local
from ct_video_hf.study.execute import cell_options, execute, stop_runs
from ct_video_hf.training.checkpoints import last_complete
from tests.support.clip_sets import write_clip_set
from tests.support.tiny_runs import PATIENCE, environment

from .designs import design, write

pytestmark = pytest.mark.slow


def state_of(path):
    config = read_study(path)
    return StudyState(config, grid_cells(config))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished small study: random and in-domain, two rates of which one cannot work."""
    folder = tmp_path_factory.mktemp("study")
    for number, name in enumerate(("ct", "other")):
        write_clip_set(folder / "sets" / name, seed=number)
    content = design(
        fractions=[1.0],
        seeds=[0],
        models={"slow_tiny": {}},
        learning_rates=[0.002, 1e9],
        search={"fraction": 1.0, "seed": 0},
        pretraining={
            "random": {},
            "in_domain": {"from": {"ct": "other"}, "start": "random"},
            "lost": {"weights": "weights/nowhere.pth"},
        },
    )
    path = write(folder, content)
    done = subprocess.run(
        [sys.executable, "-m", "ct_video_hf", "study", "run", str(path), "--jobs", "2", "--json"],
        env=environment(), capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    return path, done


def test_cells_finish_fail_and_wait_as_they_should(study):
    path, done = study
    assert done.returncode == 1, "some cells failed, and the exit code says so"
    answer = json.loads(done.stdout)
    state = state_of(path)
    statuses = {cell.name: state.status(cell) for cell in state.cells}
    lost = {name: status for name, status in statuses.items() if "/lost/" in name}
    assert set(lost.values()) == {"failed", "blocked"}, "its search failed, so its cell is blocked"
    huge = {name for name, status in statuses.items() if name.endswith("lr1e+09")}
    assert {statuses[name] for name in huge} == {"failed"}
    grid = {cell.name: statuses[cell.name] for cell in state.cells if cell.role == "grid"}
    assert sorted(grid.values()) == ["blocked", "finished", "finished"]
    assert answer["status"]["finished"] == list(statuses.values()).count("finished")
    for cell in state.cells:
        failure = state.folder(cell).failed()
        if failure and "lr1e+09" in cell.name and "/lost/" not in cell.name:
            assert "loss" in " ".join(failure["last_lines"])


def test_the_best_rate_is_used_and_the_same_run_is_not_run_twice(study):
    state = state_of(study[0])
    cell = next(c for c in state.cells if c.role == "grid" and c.pretraining == "random")
    assert state.best_rate(cell) == 0.002
    folder = state.folder(cell)
    assert "the same run as ct/slow_tiny/random/fraction1_seed0_lr0.002" in folder.log.read_text()
    tried = state.folder(state.tried(cell)[0])
    assert folder.record() == tried.record()


def test_the_in_domain_run_begins_with_the_source(study):
    state = state_of(study[0])
    cell = next(c for c in state.cells if c.role == "grid" and c.pretraining == "in_domain")
    weights = json.loads(state.folder(cell).options.read_text())["weights"]
    assert "/other/slow_tiny/random/" in weights.replace("\\", "/")
    assert not (state.folder(cell).run / "model.safetensors").exists(), "nothing needs it"


def test_a_second_run_starts_nothing_that_is_finished(study, capsys):
    path, _ = study
    state = state_of(path)
    stamps = {
        cell.name: (state.folder(cell).run / "training_config.json").stat().st_mtime_ns
        for cell in state.cells
        if state.folder(cell).finished
    }
    with mock.patch("ct_video_hf.study.execute.subprocess.Popen") as started:
        assert main(["study", "run", str(path), "--json"]) == 1
    assert not started.called
    assert json.loads(capsys.readouterr().out)["cells"] == {
        "finished": 0, "failed": 0, "not_started": 1,
    }  # fmt: skip
    for name, stamp in stamps.items():
        file = state.folder(state.cell(name)).run / "training_config.json"
        assert file.stat().st_mtime_ns == stamp


def test_status_and_report(study, capsys):
    path, _ = study
    assert main(["study", "status", str(path)]) == 0
    shown = capsys.readouterr().out
    for word in ("failed", "blocked", "nowhere.pth"):
        assert word in shown
    assert main(["study", "report", str(path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["findings"]) == 1
    text = (path.parent / "out/report/report.md").read_text(encoding="utf-8")
    assert "Not for clinical use" in text
    assert "not run" in text
    page = (path.parent / "out/report/report.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http-equiv", ""), "one page, nothing is fetched"
    assert str(path.parent) not in page + text, "no path of this machine"
    numbers = json.loads((path.parent / "out/report/results.json").read_text())
    place = {e["pretraining"]: e for e in numbers["estimates"]}
    recorded = json.loads(
        (path.parent / "out/cells/ct/slow_tiny/random/fraction1_seed0_lrbest/run/metrics.json")
        .read_text()
    )  # fmt: skip
    assert place["random"]["auroc"] == recorded["study/auroc"]["value"]
    assert "auroc" not in place["lost"]
    (difference,) = numbers["differences"]
    wanted = place["in_domain"]["auroc"] - place["random"]["auroc"]
    assert difference["difference"] == pytest.approx(wanted)
    for name in (
        "ct_auroc_1",
        "ct_in_domain_minus_random",
        "learning_rates",
        "beginnings",
    ):
        assert (path.parent / f"out/report/tables/{name}.csv").is_file()
        assert r"\toprule" in (path.parent / f"out/report/tables/{name}.tex").read_text()


def test_slurm_scripts_are_whole_and_nothing_is_queued(study, capsys):
    path, _ = study
    command = ["study", "run", str(path), "--engine", "slurm", "--sbatch=--gres=gpu:1", "--json"]
    assert main([*command, "--retry-failed", "--at-once", "3"]) == 0
    scripts = json.loads(capsys.readouterr().out)["scripts"]
    subprocess.run(["bash", "-n", *scripts], check=True)
    wave = (path.parent / "out/slurm/wave0.sh").read_text()
    cells = (path.parent / "out/slurm/wave0.txt").read_text().split()
    assert "#SBATCH --gres=gpu:1" in wave
    assert f"--array=0-{len(cells) - 1}%3" in wave
    assert all("lr1e+09" in name or "/lost/" in name for name in cells)
    fake = path.parent / "bin"
    fake.mkdir()
    (fake / "sbatch").write_text('#!/bin/bash\necho "$@" >> calls.txt\necho 7\n')
    (fake / "sbatch").chmod(0o755)
    done = subprocess.run(
        ["bash", scripts[-1]], cwd=path.parent, capture_output=True, text=True, check=True,
        env=environment() | {"PATH": f"{fake}:/usr/bin:/bin"},
    )  # fmt: skip
    calls = (path.parent / "calls.txt").read_text().splitlines()
    assert len(calls) == len(scripts) - 1 == len(done.stdout.splitlines())
    assert "--dependency=afterany:7" in calls[-1]


def test_a_killed_study_leaves_no_training_and_goes_on(tmp_path):
    write_clip_set(tmp_path / "sets" / "ct")
    content = design(
        data={"ct": {"set": "sets/ct"}},
        pretraining={"random": {}},
        models={"slow_tiny": {"training": {"epochs": 4000, "early_stopping": 0}}},
        contrasts=None,
        fractions=[1.0],
        seeds=[0],
    )
    path = write(tmp_path, content)
    run = tmp_path / "out/cells/ct/slow_tiny/random/fraction1_seed0_lr0.0003/run"
    words = [sys.executable, "-m", "tests.support.held_runs", "study", "run", str(path)]

    def started(checkpoint):
        """A study whose training has come further than the ``checkpoint``."""
        process = subprocess.Popen(words, env=environment(), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while last_complete(run) in (None, checkpoint):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return process

    first = started(None)
    trainings = psutil.Process(first.pid).children(recursive=True)
    first.kill()  # without a word to its training
    assert trainings
    assert not psutil.wait_procs(trainings, PATIENCE)[1]
    second = started(last_complete(run))
    second.send_signal(signal.SIGINT)
    assert second.wait(120) == 130
    state = state_of(path)
    (cell,) = state.cells
    assert state.status(cell) == "ready", "stopped is not failed"
    assert last_complete(run)


def test_a_run_that_was_about_to_start_when_all_were_stopped_does_not(tmp_path):
    write_clip_set(tmp_path / "sets" / "ct")
    content = design(
        data={"ct": {"set": "sets/ct"}}, pretraining={"random": {}}, models={"slow_tiny": {}},
        contrasts=None, fractions=[1.0], seeds=[0],
    )  # fmt: skip
    state = state_of(write(tmp_path, content))
    (cell,) = state.cells
    with mock.patch("ct_video_hf.study.execute.subprocess.Popen") as started:
        stop_runs()
        assert execute(state, cell) is False
        assert not started.called
        assert state.status(cell) == "ready", "stopped is not failed"
        started.return_value.wait.return_value = 143
        assert run_local(state, progress=False) == {"finished": 0, "failed": 1, "not_started": 0}
        assert started.called, "another study of this process may run"


def test_a_design_whose_set_is_missing_says_how_to_make_it(tmp_path):
    path = write(tmp_path, design())
    state = state_of(path)
    with pytest.raises(CTVideoError, match="begins with other/slow_tiny"):
        cell_options(state, next(c for c in state.cells if c.pretraining == "in_domain"))
    done = subprocess.run(
        [sys.executable, "-m", "ct_video_hf", "study", "run", str(path)],
        env=environment(), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the prepared set of ct is not at" in done.stderr
