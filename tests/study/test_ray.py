"""A study on a real Ray cluster of two nodes: its cells run, fail apart, and run once."""

import json

import pytest

from ct_video_hf.cli import main
from ct_video_hf.study import StudyState, grid_cells, read_study
from tests.data.test_engine import cluster  # noqa: F401 - a fixture
from tests.support.clip_sets import write_clip_set

from .designs import design, write

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def test_cells_run_on_the_cluster_once_and_a_failure_stays_apart(cluster, tmp_path, capsys):  # noqa: F811
    write_clip_set(tmp_path / "sets" / "ct")
    content = design(
        data={"ct": {"set": "sets/ct"}},
        pretraining={"random": {}, "lost": {"weights": "weights/nowhere.pth"}},
        models={
            "slow_tiny": {"pretraining": ["random"]},
            "slow_tiny_2d": {"kind": "2d", "pretraining": ["lost"]},
        },
        contrasts=None,
        fractions=[1.0],
        seeds=[0],
    )
    path = write(tmp_path, content)
    words = ["study", "run", str(path), "--engine", "ray", "--address", cluster, "--json"]
    assert main(words) == 1, "a cell failed, and the exit code says so"
    told = json.loads(capsys.readouterr().out)
    assert told["cells"] == {"finished": 1, "failed": 1, "not_started": 0}
    config = read_study(path)
    state = StudyState(config, grid_cells(config))
    statuses = {cell.pretraining: state.status(cell) for cell in state.cells}
    assert statuses == {"random": "finished", "lost": "failed"}
    for cell in state.cells:
        failure = state.folder(cell).failed()
        assert (failure is None) == (cell.pretraining == "random")
        assert failure is None or "nowhere.pth" in " ".join(failure["last_lines"])
    logs = {cell.name: state.folder(cell).log.stat().st_mtime_ns for cell in state.cells}
    assert main(words) == 1
    assert json.loads(capsys.readouterr().out)["cells"] == {
        "finished": 0, "failed": 0, "not_started": 0,
    }  # fmt: skip
    assert main([*words, "--retry-failed"]) == 1
    assert json.loads(capsys.readouterr().out)["cells"]["failed"] == 1
    for cell in state.cells:
        again = state.folder(cell).log.stat().st_mtime_ns != logs[cell.name]
        assert again == (cell.pretraining == "lost"), "a finished cell is never run again"
