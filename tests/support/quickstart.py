"""The README's main command on a few studies, once for all tests that look at what it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from .tiny_runs import REPOSITORY, environment

SIZES = ("--studies", "16", "6", "6", "--epochs", "1")


def quickstart(out: Path) -> subprocess.CompletedProcess:
    """``scripts/quickstart.py`` into ``out``, in the environment that the tests run in."""
    command = [sys.executable, str(REPOSITORY / "scripts" / "quickstart.py"), "--out", str(out)]
    return subprocess.run(
        [*command, *SIZES],
        env=environment() | {"CT_VIDEO_HF_VENV": "none"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def quickstart_place(base: Path) -> Path:
    """A folder with ``quickstart_output`` and ``printed.txt``; workers of xdist share one.

    Parameters
    ----------
    base : pathlib.Path
        Temporary folder of this process, of ``tmp_path_factory.getbasetemp()``.
    """
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    place = shared / "quickstart"
    with FileLock(shared / "quickstart.lock"):
        if not (place / "printed.txt").is_file():
            done = quickstart(place / "quickstart_output")
            assert done.returncode == 0, done.stderr[-4000:]
            (place / "printed.txt").write_text(done.stdout, encoding="utf-8")
    return place
