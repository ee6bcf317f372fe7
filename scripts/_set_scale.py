"""The parts ``open`` and ``memory`` of ``benchmark_data.py``: sets of thousands of studies."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from pathlib import Path

from _measuring import goal, in_new_process

__all__ = ["measure_memory", "time_opening"]

STUDIES = 7279  # of RSNA STR PE
#: Seconds until a set is open; MB by which memory may grow.
GOAL_OPEN, GOAL_MEMORY = 1.0, 60.0


# --- opening ------------------------------------------------------------------------------------


def write_large_set(folder: Path) -> None:
    """A set of 7,279 studies: files of a few small ones, hard linked under many keys."""
    import hashlib

    from ct_video_hf.data.manifest import SetFolder, read_manifest

    scans = folder / "scans"
    from ct_video_hf.data import PrepareOptions, prepare

    write_small_scans(scans, 8)
    options = PrepareOptions(size=16)
    prepare("folder", scans, folder / "small", options=options, progress=False)
    manifest = read_manifest(folder / "small")
    large = SetFolder(folder / "large")
    large.open(manifest["parameters"])
    records = []
    for number in range(STUDIES):
        like = manifest["studies"][number % len(manifest["studies"])]
        key = hashlib.sha256(str(number).encode()).hexdigest()[:16]
        os.link(folder / "small" / "studies" / f"{like['key']}.arrow", large.study_file(key))
        records.append(like | {"key": key, "study_id": f"study-{number}"})
    manifest["studies"] = records
    for split in manifest["splits"]:
        manifest["splits"][split] = sum(record["split"] == split for record in records)
    for name in ("index", "format", "format_version"):
        manifest.pop(name)
    large.finish(manifest)


def write_small_scans(folder: Path, studies: int) -> None:
    """Small studies with a labels table; every second is positive."""
    import numpy as np

    from ct_video_hf.dicom.write import write_series

    random = np.random.default_rng(0)
    lines = ["study,label,slice_start,slice_stop,split"]
    for number in range(studies):
        hu = random.integers(-1000, 400, (40, 32, 32)).astype(np.int16)
        write_series(hu, folder / f"s{number}", key=f"s{number}", spacing=(2.0, 1.5, 1.5))
        span = "4,16" if number % 2 else ","
        lines.append(f"s{number},{number % 2},{span},{'train' if number % 4 < 3 else 'test'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


_OPEN = """
import json, sys, time
from ct_video_hf.data import CTClipDataset, build_clip_index, load_prepared
spent = {}
began = time.perf_counter()
data = load_prepared(sys.argv[1])
spent["open"] = time.perf_counter() - began
index = build_clip_index(data["train"], 32)
spent["open and index the clips"] = time.perf_counter() - began
clips = CTClipDataset(data["train"], index, str)
clips.clip(len(index) // 2).max()
spent["open, index, and read a clip"] = time.perf_counter() - began
print(json.dumps(spent))
"""


def time_opening(repeats: int) -> dict:
    """Seconds until a set of 7,279 studies is open, indexed, and gives a clip, in new processes."""
    with tempfile.TemporaryDirectory() as name:
        write_large_set(Path(name))
        runs = [in_new_process(_OPEN, os.path.join(name, "large")) for _ in range(repeats)]
    found = {step: statistics.median(run[step] for run in runs) for step in runs[0]}
    total = found["open and index the clips"]
    return {
        "studies": STUDIES,
        "seconds": {step: round(value, 3) for step, value in found.items()},
        "goals": [goal("seconds to open and index", total, GOAL_OPEN, least=False)],
    }


# --- memory -------------------------------------------------------------------------------------

_MEMORY = """
import json, sys, threading, time
import psutil
from ct_video_hf.data import PrepareOptions, prepare

peaks = {"parent": 0, "workers": 0}
def watch():
    me = psutil.Process()
    while True:
        peaks["parent"] = max(peaks["parent"], me.memory_info().rss)
        for child in me.children(recursive=True):
            try:
                peaks["workers"] = max(peaks["workers"], child.memory_info().rss)
            except psutil.Error:
                pass
        time.sleep(0.05)
threading.Thread(target=watch, daemon=True).start()
prepare("folder", sys.argv[1], sys.argv[2], options=PrepareOptions(size=128), workers=2,
        progress=False)
if sys.platform == "linux":  # exact; getrusage would give what the starting process held
    lines = open("/proc/self/status").read().splitlines()
    peaks["parent"] = next(int(s.split()[1]) * 1024 for s in lines if s.startswith("VmHWM"))
print(json.dumps({name: value / 2**20 for name, value in peaks.items()}))
"""


def measure_memory(repeats: int) -> dict:
    """Peak MB of the parent and of the largest worker for 10 and 1,000 small studies."""
    del repeats
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_small_scans(folder / "scans", 10)
        found[10] = in_new_process(_MEMORY, folder / "scans", folder / "10")
        lines = (folder / "scans" / "labels.csv").read_text().splitlines()
        for number in range(10, 1000):
            shutil.copytree(
                folder / "scans" / f"s{number % 10}", folder / "scans" / f"s{number}",
                copy_function=os.link,
            )  # fmt: skip
            lines.append(lines[1 + number % 10].replace(f"s{number % 10},", f"s{number},", 1))
        (folder / "scans" / "labels.csv").write_text("\n".join(lines) + "\n")
        found[1000] = in_new_process(_MEMORY, folder / "scans", folder / "1000")
    growth = max(found[1000][name] - found[10][name] for name in found[10])
    return {
        "peak_mb": {
            str(count): {name: round(mb, 1) for name, mb in peaks.items()}
            for count, peaks in found.items()
        },
        "goals": [goal("MB more for 1,000 studies than for 10", growth, GOAL_MEMORY, least=False)],
    }
