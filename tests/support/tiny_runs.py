"""Options and launchers of training runs that take seconds on one core."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 400.0  # seconds, for a command on a busy machine

#: For ``ct_video_hf.training.run``; the network is slow_tiny on clips of 8 x 32 x 32.
OPTIONS = {
    "backbone": "slow_tiny",
    "num_frames": 8,
    "crop_size": 32,
    "epochs": 2,
    "batch_size": 4,
    "lr": 2e-3,
    "resamples": 50,
    "disable_tqdm": True,
    "use_cpu": True,
}


def environment() -> dict[str, str]:
    """Of a child process: one thread, offline, this checkout importable from anywhere."""
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def words(**options) -> list[str]:
    """Options as they are written on a command line."""
    return [
        word
        for name, value in options.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]


def command(*launcher: str, **options) -> list[str]:
    """A training command: the launcher's words, then the options."""
    return [sys.executable, *launcher, *words(**(OPTIONS | options))]


def complete(arguments: list[str], **kwargs) -> subprocess.CompletedProcess:
    """Run a command to its end; on failure its stderr is in the message.

    One that hangs is killed with all that it has started, after saying where each thread stands.
    """
    with subprocess.Popen(
        arguments, env=environment() | {"PYTHONFAULTHANDLER": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs,
    ) as process:  # fmt: skip
        try:
            out, error = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            error = _ended(process)
            raise AssertionError(f"it hangs: {error[-8000:]}") from None
    assert process.returncode == 0, error[-4000:]
    return subprocess.CompletedProcess(arguments, process.returncode, out, error)


def kill_family(process: subprocess.Popen) -> None:
    """SIGKILL for a process and all that it has started: accelerate's are sessions of their own."""
    for member in _family(process):
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def _family(process: subprocess.Popen) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(process.pid)
        return [*first.children(recursive=True), first]
    return []


def _ended(process: subprocess.Popen) -> str:
    """What a process and those that it has started say when they are ended."""
    family = _family(process)
    error = "none of its processes says where it stands"
    for blow in (signal.SIGABRT, signal.SIGKILL):
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(blow)
        with suppress(subprocess.TimeoutExpired):
            error = process.communicate(timeout=30)[1]
    return error
