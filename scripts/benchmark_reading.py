"""Time reading a chest CT series to HU of 256 x 256 in plane: ours beside other ways.

The script writes its own series (a generated chest with scanner-like noise) in five transfer
syntaxes. Every measurement is a fresh process that imports what it needs, reads three slices so
that all decoders are loaded, and is then timed. The ways take turns, so that whatever else the
machine does touches all of them; medians count. Memory is the peak while reading above what the
process held just before. Files come from the operating system's cache.

The published way is that of the paper's code (arXiv 2304.00546), re-made: pydicom slice by slice,
``pixel_array * slope + intercept`` in float64, cv2 INTER_AREA, float32.

    python scripts/benchmark_reading.py [--repeats 3] [--json]

SimpleITK, MONAI and ITK are optional: ``pip install ct-video-hf[benchmark]``. What is not
installed is said and left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SIZE = 256
SYNTAXES = {
    "uncompressed": "1.2.840.10008.1.2.1",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "RLE": "1.2.840.10008.1.2.5",
}
#: What this reader sets out to reach against the published way, and MONAI uncompressed.
GOALS = {
    "uncompressed": 8.0, "JPEG lossless": 5.0, "JPEG-LS": 4.0, "JPEG 2000": 1.6, "RLE": 3.0,
}  # fmt: skip
MONAI_GOAL = 40.0
MEMORY_GOAL_MB = 150.0
WARM_UP_SLICES = 3
PACKAGES = (
    "pydicom", "imagecodecs", "opencv-python-headless", "SimpleITK", "monai", "itk", "python-gdcm",
    "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls",
)  # fmt: skip


# --- the ways: each gives a function from a folder to an array (slice, row, column) --------------


def ours(workers: int) -> Callable:
    from ct_video_hf.dicom import read_ct

    def read(folder: Path):
        return read_ct(folder, in_plane=SIZE, workers=workers).hu

    return read


def _sorted_datasets(folder: Path) -> list:
    import pydicom

    datasets = [pydicom.dcmread(path) for path in folder.iterdir()]
    return sorted(datasets, key=lambda dataset: float(dataset.ImagePositionPatient[2]))


def published() -> Callable:
    import cv2
    import numpy as np

    def read(folder: Path):
        planes = []
        for dataset in _sorted_datasets(folder):
            hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
            plane = cv2.resize(hu, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
            planes.append(plane.astype(np.float32))
        return np.stack(planes)

    return read


def pydicom_int16() -> Callable:
    import cv2
    import numpy as np

    def read(folder: Path):
        planes = []
        for dataset in _sorted_datasets(folder):
            hu = dataset.pixel_array + np.int16(dataset.RescaleIntercept)
            planes.append(cv2.resize(hu, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
        return np.stack(planes)

    return read


def simpleitk() -> Callable:
    import cv2
    import numpy as np
    import SimpleITK as sitk

    def read(folder: Path):
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(os.fspath(folder)))
        image = reader.Execute()  # the view below lives only as long as this
        volume = sitk.GetArrayViewFromImage(image)
        planes = [
            cv2.resize(plane.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
            for plane in volume
        ]
        return np.stack(planes)

    return read


def monai(reader: str) -> Callable:
    from monai.transforms import Compose, LoadImage, Resize

    load = LoadImage(reader=reader, image_only=True, ensure_channel_first=True)

    def read(folder: Path):
        slices = sum(1 for _ in folder.iterdir())
        volume = Compose([load, Resize((SIZE, SIZE, slices), mode="area")])(os.fspath(folder))
        return volume[0].numpy().transpose(2, 1, 0)

    return read


#: name -> (maker, arguments, modules that it needs, syntaxes or None for all)
WAYS: dict[str, tuple[Callable, tuple, tuple[str, ...], tuple[str, ...] | None]] = {
    "published way": (published, (), ("pydicom", "cv2"), None),
    "ours, 1 worker": (ours, (1,), ("ct_video_hf",), None),
    "ours, 2 workers": (ours, (2,), ("ct_video_hf",), None),
    "pydicom, int16": (pydicom_int16, (), ("pydicom", "cv2"), None),
    "SimpleITK": (simpleitk, (), ("SimpleITK",), None),
    "MONAI, ITK": (monai, ("ITKReader",), ("monai", "itk"), ("uncompressed", "JPEG lossless")),
    "MONAI, pydicom": (monai, ("PydicomReader",), ("monai",), ("uncompressed", "JPEG lossless")),
}


# --- one measurement, in a process of its own ---------------------------------------------------


def measure(way: str, folder: Path, warm_up: Path, save: Path | None) -> dict[str, float]:
    """Seconds, seconds of all threads' computing, and peak MB above before, of one reading."""
    import numpy as np

    maker, arguments, _, _ = WAYS[way]
    read = maker(*arguments)
    read(warm_up)
    before = _resident_mb()
    _forget_peak()
    start, cpu_start = time.perf_counter(), time.process_time()
    volume = read(folder)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    peak = _peak_mb()
    if save is not None:
        np.save(save, np.asarray(volume))
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": max(0.0, peak - before)}


def _status_mb(field: str) -> float | None:
    """A field of /proc/self/status, None where there is no such file."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    except OSError:
        return None
    return None


def _resident_mb() -> float:
    found = _status_mb("VmRSS:")
    if found is None:
        import psutil

        found = psutil.Process().memory_info().rss / 2**20
    return found


def _forget_peak() -> None:
    """On Linux the peak counts from here on; elsewhere from the start of the process."""
    if platform.system() == "Linux":
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    found = _status_mb("VmHWM:")
    if found is not None:
        return found
    import psutil

    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):
        return memory.peak_wset / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


# --- the series ---------------------------------------------------------------------------------


def generated_chest(slices: int, side: int):
    """int16 HU (slice, row, column): body, lungs, spine, vessels, and noise as from a scanner."""
    import cv2
    import numpy as np

    random = np.random.default_rng(0)
    rows, columns = np.indices((side, side)) / side - 0.5
    body = (columns / 0.45) ** 2 + (rows / 0.33) ** 2 < 1
    lungs = (((np.abs(columns) - 0.2) / 0.14) ** 2 + (rows / 0.24) ** 2) < 1
    spine = columns**2 + (rows - 0.22) ** 2 < 0.045**2
    base = np.select([spine, lungs, body], [400.0, -850.0, 40.0], -1000.0).astype(np.float32)
    texture = cv2.GaussianBlur(random.normal(0, 1, (side, side)).astype(np.float32), (0, 0), 3)
    base += np.where(lungs, texture * 900, texture * 60 * body).astype(np.float32)
    volume = np.empty((slices, side, side), np.int16)
    for plane in volume:
        noise = random.standard_normal((side, side), np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), 0.7)
        plane[...] = np.clip(np.rint(base + noise * (18 / noise.std())), -1024, 3071)
    return volume


def write_all(folder: Path, slices: int, side: int, chosen: list[str]) -> None:
    """Each syntax as one folder, and a few slices of it for the warm-up as another."""
    from ct_video_hf.dicom.write import write_series

    volume = generated_chest(slices, side)
    for name in chosen:
        options = {"transfer_syntax": SYNTAXES[name], "shuffle": True, "spacing": (1.0, 0.7, 0.7)}
        write_series(volume, folder / name / "all", key=name, **options)
        write_series(volume[:WARM_UP_SLICES], folder / name / "warm", key=name, **options)


# --- the whole ----------------------------------------------------------------------------------


def run_child(way: str, folder: Path, save: Path | None) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", way, "--folder", os.fspath(folder)]
    if save is not None:
        command += ["--save", os.fspath(save)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"{way} failed:\n{finished.stderr.strip()[-2000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def available(ways: list[str]) -> tuple[list[str], dict[str, str]]:
    """The ways that can run, and why the others cannot."""
    missing = {}
    for way in ways:
        lacking = [name for name in WAYS[way][2] if importlib.util.find_spec(name) is None]
        if lacking:
            missing[way] = f"{' and '.join(lacking)} not installed"
    return [way for way in ways if way not in missing], missing


def compare(folder: Path, syntax: str, ways: list[str], repeats: int, say: Callable) -> dict:
    """Medians of all ways for one syntax."""
    import numpy as np

    runs: dict[str, list[dict]] = {way: [] for way in ways}
    reference, differences = None, {}
    for repeat in range(repeats):
        for way in ways:
            only = WAYS[way][3]
            if only is not None and syntax not in only:
                continue
            save = folder / "result.npy" if repeat == 0 else None
            runs[way].append(run_child(way, folder / syntax, save))
            say(f"{syntax}, {way}: {runs[way][-1]['seconds']:.2f} s")
            if save is not None:
                volume = np.load(save)
                reference = volume if reference is None else reference
                if volume.shape == reference.shape:
                    differences[way] = round(float(np.abs(volume - reference).max()), 3)
                save.unlink()
    result = {}
    base = statistics.median(run["seconds"] for run in runs[ways[0]])
    for way, found in runs.items():
        if found:
            seconds = statistics.median(run["seconds"] for run in found)
            result[way] = {
                "seconds": round(seconds, 4),
                "cpu_seconds": round(statistics.median(run["cpu_seconds"] for run in found), 4),
                "all_seconds": [round(run["seconds"], 4) for run in found],
                "peak_mb": round(statistics.median(run["peak_mb"] for run in found), 1),
                "times_published": round(base / seconds, 2),
                "max_hu_from_published": differences.get(way),
            }
    return result


def goals(results: dict[str, dict]) -> list[dict]:
    """Which of the goals were met in this run."""
    found = []
    for syntax, ways in results.items():
        ratios = [ways[way]["times_published"] for way in ways if way.startswith("ours")]
        if ratios and syntax in GOALS:
            found.append(
                {
                    "goal": f"{GOALS[syntax]:g}x published, {syntax}",
                    "found": max(ratios),
                    "met": max(ratios) >= GOALS[syntax],
                }
            )
    plain = results.get("uncompressed", {})
    own = [plain[way] for way in plain if way.startswith("ours")]
    if own and "MONAI, ITK" in plain:
        ratio = plain["MONAI, ITK"]["seconds"] / min(run["seconds"] for run in own)
        found.append(
            {
                "goal": f"{MONAI_GOAL:g}x MONAI, uncompressed",
                "found": round(ratio, 1),
                "met": ratio >= MONAI_GOAL,
            }
        )
    peaks = [
        ways[way]["peak_mb"] for ways in results.values() for way in ways if way.startswith("ours")
    ]
    if peaks:
        found.append(
            {
                "goal": f"under {MEMORY_GOAL_MB:g} MB above the interpreter",
                "found": max(peaks),
                "met": max(peaks) < MEMORY_GOAL_MB,
            }
        )
    return found


def environment() -> dict[str, str | int | None]:
    from importlib import metadata

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {"python": platform.python_version(), "cores": os.cpu_count(), **versions}


def _load() -> float | None:
    """Processes that ran or waited in the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _busy(load: float | None) -> str | None:
    """A warning, where other programs held cores before the first measurement."""
    cores = os.cpu_count() or 1
    if load is None or load < 0.4 * cores:
        return None
    return (
        f"other programs were running (load average {load} on {cores} cores): ratios of wall time, "
        "of two workers above all, say little; compare the computing seconds"
    )


def show(report: dict) -> None:
    """A table a syntax, times against the published way first."""
    for syntax, ways in report["results"].items():
        print(f"\n{syntax}")
        for way, run in ways.items():
            spread = f"{min(run['all_seconds']):.2f}-{max(run['all_seconds']):.2f}"
            print(
                f"  {way:16} {run['times_published']:7.2f}x  {run['seconds']:8.3f} s "
                f"({spread} s, {run['cpu_seconds']:.2f} s computing)  {run['peak_mb']:8.1f} MB"
            )
    for way, reason in report["left_out"].items():
        print(f"\nleft out: {way}: {reason}")
    if report["busy"]:
        print(f"\n{report['busy']}")
    print()
    for goal in report["goals"]:
        print(f"{'reached' if goal['met'] else 'MISSED '}  {goal['goal']}: {goal['found']}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Not for clinical use."
    )
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--side", type=int, default=512, help="rows and columns of each slice")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--syntaxes", nargs="+", choices=SYNTAXES, default=list(SYNTAXES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", action="store_true", help="print one JSON document to stdout")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        folder = arguments.folder
        found = measure(arguments.measure, folder / "all", folder / "warm", arguments.save)
        print(json.dumps(found))
        return 0

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    wanted = ["published way", *(way for way in arguments.ways if way != "published way")]
    ways, left_out = available(wanted)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        load = _load()
        say(f"writing {arguments.slices} slices in {len(arguments.syntaxes)} syntaxes")
        write_all(folder, arguments.slices, arguments.side, arguments.syntaxes)
        results = {
            syntax: compare(folder, syntax, ways, arguments.repeats, say)
            for syntax in arguments.syntaxes
        }
    report = {
        "series": {"slices": arguments.slices, "side": arguments.side, "in_plane": SIZE},
        "environment": environment(),
        "results": results,
        "left_out": left_out,
        "load_before": load,
        "busy": _busy(load),
        "goals": goals(results),
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
