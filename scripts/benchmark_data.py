"""Time the road from scans to clips: the published way beside ours.

Four parts, each in a run of its own: ``prepare`` (a series of 300 x 512 x 512 to a set), ``input``
(a clip of 32 x 256 x 256 to network input), ``open`` (a set of 7,279 studies) and ``memory`` (of
preparing 10 and 1,000 studies). The published way is that of the paper's code (arXiv 2304.00546),
re-made from its description: pydicom slice by slice in float64, cv2 INTER_AREA, float32 in HDF5;
clips windowed, rotated with cubic splines by scipy and cropped. Ways take turns, so that whatever
else the machine does touches all of them; medians count; files come from the system's cache.

    python scripts/benchmark_data.py [prepare input open memory] [--repeats 5] [--json]

Needs h5py, scipy and psutil: ``pip install ct-video-hf[benchmark]``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))

FRAMES, SIZE, CROP = 32, 256, 224
CENTER, WIDTH = 400.0, 1000.0
STUDIES = 7279  # of RSNA STR PE
#: What is set out to be reached: times the published way, seconds, growth of memory in MB.
GOALS = {
    "prepare": 8.0, "scaling": 1.8, "input": 18.0, "input_8bit": 25.0, "open": 1.0, "memory": 60.0,
}  # fmt: skip


# --- preparing ----------------------------------------------------------------------------------


def published_preparation(folder: Path, target: Path) -> None:
    """pydicom slice by slice, float64, area resize, float32, one HDF5 data set."""
    import cv2
    import h5py
    import numpy as np
    import pydicom

    slices = [pydicom.dcmread(file) for file in folder.iterdir()]
    slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    planes = []
    for one in slices:
        hu = one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept)
        planes.append(cv2.resize(hu, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    with h5py.File(target, "w") as file:
        file.create_dataset("study", data=np.stack(planes), dtype="float32", chunks=True)


def write_scans(folder: Path, studies: int, slices: int) -> list[Path]:
    """Uncompressed series; the second and further ones are hard links to the first."""
    from benchmark_reading import SYNTAXES, generated_chest

    from ct_video_hf.dicom.write import write_series

    first = folder / "s000"
    volume = generated_chest(slices, 512)
    syntax = SYNTAXES["uncompressed"]
    write_series(
        volume, first, key="s", transfer_syntax=syntax, shuffle=True, spacing=(1.0, 0.7, 0.7)
    )
    found = [first]
    for number in range(1, studies):
        found.append(folder / f"s{number:03}")
        found[-1].mkdir()
        for file in first.iterdir():
            os.link(file, found[-1] / file.name)
    return found


def prepare_once(scans: Path, out: Path, workers: int) -> None:
    """Prepare a folder of scans as a user's would be."""
    from ct_video_hf.data import PrepareOptions, prepare_table
    from ct_video_hf.data.labels import table_of_studies

    options = PrepareOptions(size=SIZE, fractions=(1, 0, 0))
    prepare_table(table_of_studies(scans), out, options, workers=workers, progress=False)


def one_thread(scans: list[Path], out: Path) -> None:
    """What one of several workers does: study after study on one thread."""
    from ct_video_hf.data.labels import StudyEntry
    from ct_video_hf.data.worker import StudyTask, prepare_study

    out.mkdir()
    for number, scan in enumerate(scans):
        entry = StudyEntry(scan.name, scan, (0.0,))
        task = StudyTask(entry, scan.name, "p", "train", "s", SIZE, "strict", False, threads=1)
        prepare_study(task, os.fspath(out / f"{number}.arrow"))


def spin(kind: str, seconds: float = 0.5) -> float:
    """Rounds a second of arithmetic in Python (``cpu``), or of copying 40 MB (``memory``)."""
    import numpy as np

    one, other = (np.ones(20_000_000, np.uint16) for _ in range(2))
    rounds, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        if kind == "memory":
            np.copyto(other, one)
        else:
            sum(number * number for number in range(20_000))
        rounds += 1
    return rounds / (time.perf_counter() - began)


def machine_bound(processes: int) -> dict[str, float]:
    """How many times one process several of them do on this machine, whatever the program."""
    from joblib import Parallel, delayed

    found = {}
    for kind in ("cpu", "memory"):
        ratios = []
        for _ in range(4):  # the first one starts the processes
            alone = Parallel(processes)([delayed(spin)(kind)])[0]
            together = Parallel(processes)(delayed(spin)(kind) for _ in range(processes))
            ratios.append(sum(together) / alone)
        found[kind] = round(statistics.median(ratios[1:]), 2)
    return found


def time_preparing(repeats: int) -> dict:
    """Seconds a study: the published way, one of our processes, one thread of it, two workers."""
    import cv2

    cv2.setNumThreads(1)
    studies = 24  # so many that starting and finishing a set do not count
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scans = write_scans(folder / "scans", studies, 300)
        cores = min(2, os.cpu_count() or 1)
        names = ("published", "one process", "one thread", "two workers")
        times: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(-1, repeats):
            began = time.perf_counter()
            for scan in scans[:2]:
                published_preparation(scan, folder / "study.h5")
            spent = {"published": (time.perf_counter() - began) / 2}
            for way, workers in (("one process", 1), ("one thread", 0), ("two workers", cores)):
                out = folder / f"{workers}-workers"
                began = time.perf_counter()
                if workers:
                    prepare_once(folder / "scans", out, workers)
                else:
                    one_thread(scans, out)
                spent[way] = (time.perf_counter() - began) / studies
                shutil.rmtree(out)
            if turn >= 0:  # the first turn imports, and starts the workers
                for way, seconds in spent.items():
                    times[way].append(seconds)
    found = {way: statistics.median(values) for way, values in times.items()}
    ratio = found["published"] / found["one process"]
    scaling = found["one thread"] / found["two workers"]
    return {
        "seconds_a_study": {way: round(value, 4) for way, value in found.items()},
        f"times_one_process_by_{cores}": machine_bound(cores),
        "all_seconds": {way: [round(v, 4) for v in values] for way, values in times.items()},
        "goals": [
            _goal("times the published way, one process", ratio, GOALS["prepare"]),
            _goal(f"times one thread with {cores} workers", scaling, GOALS["scaling"]),
        ],
    }


# --- training input -----------------------------------------------------------------------------


def generated_volume(slices: int):
    """int16 HU (slices, 256, 256): smooth structure and noise, as in a scan."""
    import cv2
    import numpy as np

    random = np.random.default_rng(0)
    planes = [
        cv2.resize(random.normal(-300, 500, (24, 24)).astype(np.float32), (SIZE, SIZE))
        + random.normal(0, 15, (SIZE, SIZE)).astype(np.float32)
        for _ in range(slices)
    ]
    return np.clip(np.stack(planes), -1024, 3000).astype(np.int16)


def published_input(path: Path, order: int) -> Callable[[int], object]:
    """float32 from HDF5, window to 0..1, spline rotation filled with -1000, crop."""
    import h5py
    import numpy as np
    import torch
    from scipy import ndimage

    file = h5py.File(path, "r")
    random = np.random.default_rng(1)

    def one(start: int):
        clip = file["study"][start : start + FRAMES]
        clip = np.clip((clip - (CENTER - WIDTH / 2)) / WIDTH, 0, 1)
        angle = random.integers(-20, 21)
        clip = ndimage.rotate(clip, angle, (1, 2), reshape=False, order=order, cval=-1000)
        top, left = random.integers(0, SIZE - CROP + 1, 2)
        clip = clip[:, top : top + CROP, left : left + CROP] - 0.15897
        return torch.from_numpy(np.ascontiguousarray(clip, np.float32))

    return one


def our_input(folder: Path, train: bool, channels: int, **options) -> Callable[[int], object]:
    """Clips of a prepared set through ``CTClipDataset`` and ``ClipTransform``."""
    from ct_video_hf.data import (
        ClipTransform,
        CTClipDataset,
        build_clip_index,
        load_prepared,
        stored_window,
    )
    from ct_video_hf.models.processing_ct import CTVideoProcessor

    processor = CTVideoProcessor(
        windows=[[CENTER, WIDTH]], mean=[0.15897] * channels, num_channels=channels
    )
    data = load_prepared(folder, "train")
    index = build_clip_index(data, FRAMES, 1)
    transform = ClipTransform(processor, train, stored_window=stored_window(data), **options)
    return CTClipDataset(data, index, transform).__getitem__


def read_only(folder: Path) -> Callable[[int], object]:
    """Reading alone: a clip copied out of the memory-mapped set."""
    from ct_video_hf.data import CTClipDataset, build_clip_index, load_prepared

    data = load_prepared(folder, "train")
    clips = CTClipDataset(data, build_clip_index(data, FRAMES, 1), str)
    return lambda number: clips.clip(number).copy()


def prepare_sets(folder: Path, hu) -> tuple[Path, Path]:
    """Sets of one study with HU and with one window in 8 bits, made from NIfTI as a user's."""
    import nibabel
    import numpy as np

    from ct_video_hf.data import PrepareOptions, prepare

    scans = folder / "scans"
    scans.mkdir()
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])  # columns to the left, rows to the back
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), affine), scans / "scan.nii")
    (scans / "labels.csv").write_text("study,label,split\nscan.nii,0,train\n")
    for name, window in (("hu", None), ("window", (CENTER, WIDTH))):
        options = PrepareOptions(size=SIZE, store_window=window)
        prepare("folder", scans, folder / name, options=options, progress=False)
    return folder / "hu", folder / "window"


def time_input(repeats: int) -> dict:
    """Milliseconds of a clip on one thread for every way."""
    import cv2
    import h5py
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    slices, clips = 128, 4 * repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hu = generated_volume(slices)
        with h5py.File(folder / "study.h5", "w") as file:
            file.create_dataset("study", data=hu, dtype="float32", chunks=True)
        whole, window = prepare_sets(folder, hu)
        ways = {
            "published (cubic)": published_input(folder / "study.h5", 3),
            "published, linear": published_input(folder / "study.h5", 1),
            "ours, uint16": our_input(whole, True, 1),
            "ours, 8 bits": our_input(window, True, 1),
            "ours, uint16, 3 channels": our_input(whole, True, 3),
            "ours, 8 bits, 3 channels": our_input(window, True, 3),
            "ours, uint16, jitter": our_input(whole, True, 1, augmentation="wide"),
            "ours without rotation": our_input(whole, False, 1),
            "ours, read only": read_only(whole),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(-2, clips):  # two turns to warm up
            for way, one in ways.items():
                began = time.perf_counter()
                one((turn * 7) % (slices - FRAMES))
                if turn >= 0:
                    times[way].append((time.perf_counter() - began) * 1000)
        del ways  # Windows cannot remove mapped files
    found = {way: statistics.median(values) for way, values in times.items()}
    base = found["published (cubic)"]
    return {
        "ms_a_clip": {way: round(value, 3) for way, value in found.items()},
        "times_published": {way: round(base / value, 2) for way, value in found.items()},
        "goals": [
            _goal("times the published way, uint16", base / found["ours, uint16"], GOALS["input"]),
            _goal(
                "times the published way, 8 bits", base / found["ours, 8 bits"], GOALS["input_8bit"]
            ),
        ],
    }


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
        runs = [_child(_OPEN, os.path.join(name, "large")) for _ in range(repeats)]
    found = {step: statistics.median(run[step] for run in runs) for step in runs[0]}
    total = found["open and index the clips"]
    return {
        "studies": STUDIES,
        "seconds": {step: round(value, 3) for step, value in found.items()},
        "goals": [_goal("seconds to open and index", total, GOALS["open"], least=False)],
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
        found[10] = _child(_MEMORY, folder / "scans", folder / "10")
        lines = (folder / "scans" / "labels.csv").read_text().splitlines()
        for number in range(10, 1000):
            shutil.copytree(
                folder / "scans" / f"s{number % 10}", folder / "scans" / f"s{number}",
                copy_function=os.link,
            )  # fmt: skip
            lines.append(lines[1 + number % 10].replace(f"s{number % 10},", f"s{number},", 1))
        (folder / "scans" / "labels.csv").write_text("\n".join(lines) + "\n")
        found[1000] = _child(_MEMORY, folder / "scans", folder / "1000")
    growth = max(found[1000][name] - found[10][name] for name in found[10])
    return {
        "peak_mb": {
            str(count): {name: round(mb, 1) for name, mb in peaks.items()}
            for count, peaks in found.items()
        },
        "goals": [
            _goal("MB more for 1,000 studies than for 10", growth, GOALS["memory"], least=False)
        ],
    }


# --- the whole ----------------------------------------------------------------------------------


def _child(code: str, *words: str | os.PathLike) -> dict:
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false"}
    root = os.fspath(Path(__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [root, os.environ.get("PYTHONPATH", "")])
    )
    command = [sys.executable, "-c", code, *map(os.fspath, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _goal(what: str, found: float, goal: float, *, least: bool = True) -> dict:
    met = found >= goal if least else found <= goal
    return {"what": what, "found": round(found, 2), "goal": goal, "met": bool(met)}


PARTS: dict[str, Callable[[int], dict]] = {
    "prepare": time_preparing,
    "input": time_input,
    "open": time_opening,
    "memory": measure_memory,
}


def show(part: str, result: dict) -> None:
    """One part's figures and goals."""
    print(f"\n{part}")
    for name, values in result.items():
        if name in ("goals", "all_seconds"):
            continue
        if not isinstance(values, dict):
            print(f"  {name:28} {values}")
            continue
        for way, value in values.items():
            print(f"  {way:28} {name.replace('_', ' '):16} {value}")
    for goal in result["goals"]:
        mark = "reached" if goal["met"] else "MISSED "
        print(f"  {mark}  {goal['found']} {goal['what']} (goal {goal['goal']:g})")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Not for clinical use."
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (all)")
    parser.add_argument("--repeats", type=int, default=5, help="turns that are timed (5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    unknown = sorted(set(args.parts) - set(PARTS))
    if unknown or args.repeats < 1:
        parser.error(f"parts are {', '.join(PARTS)}, not {', '.join(unknown)}; repeats at least 1")
    logging.basicConfig(level=logging.ERROR)
    results = {}
    for part in args.parts or PARTS:
        results[part] = PARTS[part](args.repeats)
        if not args.json:
            show(part, results[part])
    if args.json:
        about = {"python": platform.python_version(), "cores": os.cpu_count()}
        print(json.dumps({"environment": about, "results": results}, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
