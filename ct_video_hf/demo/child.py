"""The process that reads one scan: ``python -m ct_video_hf.demo.child``, see :mod:`.reading`.

It takes one JSON object on standard input and answers in lines of JSON on standard output.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..dicom import read_ct
from ..dicom.errors import CTReadError
from ..dicom.limits import Limits

_MOST_TOLD = 200  # lines of progress
_ADVICE = re.compile(r"\.? If [^.]*allow it with limits=Limits\([^)]*\)")


def main() -> int:
    """Read, write ``hu.npy``, answer."""
    request = json.load(sys.stdin)
    limits = request["limits"]
    _confine(limits)
    try:
        volume = read_ct(
            request["path"],
            request["policy"],
            limits=Limits(
                max_files=limits["files"],
                max_file_bytes=limits["expanded_bytes"],
                max_total_bytes=limits["expanded_bytes"],
                max_voxels=limits["voxels"],
            ),
            progress=_Told(),
        )
        np.save(Path(request["out"]) / "hu.npy", volume.hu, allow_pickle=False)
    except CTReadError as error:
        _say({"error": _plain(str(error)), "code": error.code, "findings": error.findings})
        return 0
    except MemoryError:
        words = "The scan needs more memory than one upload may take on this machine."
        _say({"error": words, "code": "too_large", "findings": []})
        return 0
    _say({
        "affine": volume.affine.tolist(),
        "source_index": volume.source_index,
        "report": volume.report.to_dict(),
    })  # fmt: skip
    return 0


def _confine(limits: dict[str, Any]) -> None:
    """Bounds that the system enforces; where it has none (Windows), those of the parent remain."""
    os.umask(0o077)
    try:
        import resource
    except ImportError:
        return
    memory, seconds = int(limits["read_memory_bytes"]), int(limits["read_seconds"])
    wanted = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: max(1, seconds) * (os.cpu_count() or 1),
        resource.RLIMIT_FSIZE: 2 * int(limits["voxels"]) + (1 << 20),
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


class _Told:
    """Progress in at most some hundred lines."""

    def __init__(self) -> None:
        self.last = -1

    def __call__(self, done: int, total: int) -> None:
        step = done * _MOST_TOLD // max(total, 1)
        if step != self.last:
            self.last = step
            _say({"done": done, "of": total})


def _plain(text: str) -> str:
    """Without the advice to programmers: a visitor cannot pass ``limits=``."""
    return _ADVICE.sub("", text)


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
