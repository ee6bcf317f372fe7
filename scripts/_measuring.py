"""What the parts of ``benchmark_data.py`` share: goals, and processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["environment", "goal", "in_new_process"]

ROOT = Path(__file__).resolve().parents[1]


def goal(what: str, found: float, wanted: float, *, least: bool = True) -> dict[str, Any]:
    """A figure beside what is set out to be reached, at ``least`` or at most."""
    met = found >= wanted if least else found <= wanted
    return {"what": what, "found": round(found, 2), "goal": wanted, "met": bool(met)}


def environment() -> dict[str, str]:
    """Variables of a process that imports this checkout and keeps quiet."""
    path = os.pathsep.join(filter(None, [os.fspath(ROOT), os.environ.get("PYTHONPATH", "")]))
    quiet = {"PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | quiet | {"PYTHONPATH": path}


def in_new_process(code: str, *words: str | os.PathLike) -> dict[str, Any]:
    """What a piece of code prints last, as JSON."""
    command = [sys.executable, "-c", code, *map(os.fspath, words)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])
