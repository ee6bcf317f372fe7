"""Options and launchers of training runs that take seconds on one core."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

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


def heed_interrupts() -> None:
    """For ``preexec_fn``: a shell in the background hands on that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
    """Run a command to its end; on failure its stderr is in the message."""
    done = subprocess.run(
        arguments, env=environment(), capture_output=True, text=True, timeout=300, **kwargs
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done
