"""Reading a scan that a stranger sent: in a process of its own, with limits, that may die.

Decoders are written in C and have had their faults. The process that reads has a bound on memory,
processor time and files written; it is killed when it takes too long; and of what it has read only
Hounsfield units, geometry and findings come back, no identifier.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..dicom import CTVolume, Finding, GeometryReport
from ..dicom.errors import CTReadError
from ..errors import CTVideoError
from .limits import DemoLimits

__all__ = ["read_apart"]

_PACKAGE = Path(__file__).resolve().parents[2]
_POLL_S = 0.1


def read_apart(
    path: Path,
    out: Path,
    *,
    policy: str,
    limits: DemoLimits,
    tell: Callable[[int, int], None],
) -> CTVolume:
    """Read a scan in a child process; its HU stay on disk.

    Parameters
    ----------
    path : pathlib.Path
        What :func:`ct_video_hf.read_ct` reads.
    out : pathlib.Path
        An existing folder, for ``hu.npy``.
    policy : {"strict", "warn", "repair"}
    limits : DemoLimits
    tell : callable
        Called with (slices done, slices) and, while nothing moves, again every tenth of a second:
        what it raises kills the child and goes on to the caller.

    Returns
    -------
    CTVolume
        ``hu`` is mapped read-only from ``out``; ``slice_ids`` are None throughout.

    Raises
    ------
    CTReadError
        As :func:`ct_video_hf.read_ct`.
    CTVideoError
        When the child died or took longer than ``limits.read_seconds``.
    """
    request = {"path": str(path), "out": str(out), "policy": policy, "limits": asdict(limits)}
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_PACKAGE), os.environ.get("PYTHONPATH")]))
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "ct_video_hf.demo.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # libraries may print what is in the file
        env=environment,
        text=True,
        encoding="utf-8",
    )
    try:
        answer = _converse(child, request, limits.read_seconds, tell)
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        child.stdout.close()
    if answer is None:
        raise CTVideoError(_how_it_died(child.returncode))
    if "error" in answer:
        raise CTReadError(answer["error"], code=answer["code"], findings=answer["findings"])
    return _volume(answer, out)


def _converse(
    child: subprocess.Popen, request: dict[str, Any], seconds: float, tell: Callable
) -> dict[str, Any] | None:
    """The child's last line, None where it ended without one."""
    heard = _Listener(child.stdout)
    try:
        child.stdin.write(json.dumps(request))
        child.stdin.close()
    except BrokenPipeError:
        return None
    deadline = time.monotonic() + seconds
    while not heard.finished.wait(_POLL_S):
        if time.monotonic() > deadline:
            raise CTVideoError(
                f"Reading took longer than {seconds:.0f} seconds and was stopped. If the scan is "
                "sound, read it on a machine of your own: ct-video-hf predict."
            )
        tell(*heard.progress)
    return heard.answer


class _Listener(threading.Thread):
    """Hears what the child says, so that nobody waits for it."""

    def __init__(self, stream: Any) -> None:
        super().__init__(daemon=True, name="ct-video-demo-reading")
        self.stream = stream
        self.progress = (0, 0)
        self.answer: dict[str, Any] | None = None
        self.finished = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            for line in self.stream:
                said = json.loads(line)
                if "done" in said:
                    self.progress = (said["done"], said["of"])
                else:
                    self.answer = said
        except ValueError:  # a child that was killed may leave half a line, or a closed stream
            self.answer = None
        finally:
            self.finished.set()


def _how_it_died(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return (
            f"The process that read this scan was ended by the system ({name}). The scan is "
            "damaged, or larger than this machine can take. Nothing of it was kept."
        )
    return (
        f"The process that read this scan ended without an answer (exit code {code}). The scan is "
        "damaged in an unusual way. Nothing of it was kept."
    )


def _volume(answer: dict[str, Any], out: Path) -> CTVolume:
    report = answer["report"]
    report["findings"] = [Finding(**finding) for finding in report["findings"]]
    report["spacing_mm"] = tuple(report["spacing_mm"])
    hu = np.load(out / "hu.npy", mmap_mode="r", allow_pickle=False)
    return CTVolume(
        hu,
        np.array(answer["affine"], dtype=np.float64),
        [None] * len(hu),
        answer["source_index"],
        GeometryReport(**report),
    )
