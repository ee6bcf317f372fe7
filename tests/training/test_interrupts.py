"""Ctrl-C while workers load clips: one clean message, and a run that goes on."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ct_video_hf.training import run
from ct_video_hf.training.checkpoints import last_complete
from tests.support.tiny_runs import OPTIONS, PATIENCE, command, environment

pytestmark = pytest.mark.slow

GIVEN = {"epochs": 2, "early_stopping": 0, "test_split": "none", "validation_split": "none"}


def loader_workers(process):
    """Process ids of what ``process`` has spawned to load clips."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end at any moment
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("moment", "count"), [("while workers start", 2), ("in the middle", 1)])
def test_workers_leave_control_c_to_the_training(clip_set, tmp_path, moment, count):
    """The run is held in its second epoch, with its workers waiting; 9 steps are an epoch.

    What it learned with workers is what it learns without.
    """
    out, said = tmp_path / "out", tmp_path / "said.txt"
    held = ("-m", "tests.support.held_runs", "train")
    with said.open("wb") as stream:
        process = subprocess.Popen(
            command(*held, data=clip_set, output=out, workers=count, **GIVEN),
            env=environment() | {"HELD_STEP": "12", "PYTHONWARNINGS": "ignore"},
            start_new_session=True,
            stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while not (workers := loader_workers(process)) or (
            moment == "in the middle" and not last_complete(out)
        ):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(PATIENCE) == 130
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    told = "stopped; the same command with --resume goes on from the last whole checkpoint"
    assert said.read_text().splitlines() == [told]
    assert not [pid for pid in workers if is_there(pid)]
    if moment == "in the middle":
        said = OPTIONS | GIVEN | {"data": str(clip_set)}
        resumed = run(output=str(out), resume=True, **said)
        straight = run(output=str(tmp_path / "straight"), **said)
        weights = load_file(straight.folder / "model.safetensors")
        for name, value in load_file(resumed.folder / "model.safetensors").items():
            assert value.equal(weights[name]), name
