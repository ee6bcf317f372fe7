"""The process that reads one scan: ``python -m ct_video_hf.demo.child``, see :mod:`.reading`.

It takes one JSON object on standard input and answers in lines of JSON on standard output.
"""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
from pathlib import Path, PurePosixPath
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
        names = _Names(Path(request["path"]))
        _say({
            "error": names.hidden(_plain(str(error))),
            "code": error.code,
            "findings": names.without(error.findings),
        })  # fmt: skip
        return 0
    except MemoryError:
        words = "The scan needs more memory than one upload may take on this machine."
        _say({"error": words, "code": "too_large", "findings": []})
        return 0
    report = volume.report.to_dict()
    report["findings"] = _Names(Path(request["path"])).without(report["findings"])
    _say({
        "affine": volume.affine.tolist(),
        "source_index": volume.source_index,
        "report": report,
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


class _Names:
    """Names of an archive's members, which may be names of people, become numbers."""

    _SHORTEST = 4  # characters; a shorter one names nobody and may be a word or number of the text

    def __init__(self, path: Path) -> None:
        self.numbers: dict[str, str] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except (OSError, zipfile.BadZipFile):  # no archive, or one that was refused as such
            members = []
        for number, member in enumerate(members, start=1):
            name = PurePosixPath(member.filename).name
            if len(name) >= self._SHORTEST:
                for written in (name, repr(name)[1:-1]):
                    self.numbers.setdefault(written, f"file {number}")
        longest_first = sorted(self.numbers, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def hidden(self, text: str) -> str:
        """A text with numbers for names."""
        return self.pattern.sub(lambda found: self.numbers[found[0]], text)

    def without(self, findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Findings of the reader with numbers for names."""
        return [
            finding
            | {"message": self.hidden(finding["message"])}
            | {"files": list(map(self.hidden, finding.get("files", [])))}
            for finding in findings
        ]


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
