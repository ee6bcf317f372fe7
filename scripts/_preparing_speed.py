"""The part ``prepare`` of ``benchmark_data.py``: series of 300 x 512 x 512 to a prepared set.

Every way reads uncompressed DICOM from the system's cache and works on one thread a process:

- the published way, one study after another into one HDF5 file;
- ours as a user runs it, a whole set with one process and with as many workers as cores (two at
  most), which were started before; what starting them takes is told apart;
- the same work without the pool, by processes of this script's own: one alone, then as many as
  workers at the same time. How much more than the one they do together is what the machine allows,
  by its memory above all, and what workers are held to.

A virtual machine may give freed memory back to its host and get it anew ten times as slowly as
memory that is used again, two processes at once more slowly still. So that no way pays for
another's, as much memory as it writes is taken and freed before each is timed.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))

from _measuring import environment, goal

__all__ = ["time_preparing"]

SIZE = 256
#: Times the published way, and share of what the machine allows.
GOAL, GOAL_WORKERS = 8.0, 0.9


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


def prepare_set(scans: Path, out: Path, workers: int) -> None:
    """Prepare a folder of scans as a user's would be."""
    from ct_video_hf.data import PrepareOptions, prepare_table
    from ct_video_hf.data.labels import table_of_studies

    options = PrepareOptions(size=SIZE, fractions=(1, 0, 0))
    prepare_table(table_of_studies(scans), out, options, workers=workers, progress=False)


def touch_memory(folder: Path, count: int) -> None:
    """Take so many bytes for a file's pages, and free them."""
    block = bytes(1 << 22)
    with (folder / "touched").open("wb", buffering=0) as file:
        for _ in range(count // len(block) + 1):
            file.write(block)
    (folder / "touched").unlink()


class Worker:
    """A process of its own that prepares a share of the studies whenever it is told to."""

    def __init__(self, scans: list[Path], out: Path) -> None:
        out.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, __file__, os.fspath(out), *map(os.fspath, scans)],
            env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.wait()  # until it has imported, and done one study

    def start(self) -> None:
        """Tell it to work."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def wait(self) -> None:
        """Until it is done."""
        if not self._process.stdout.readline():
            raise SystemExit("a process that prepares by itself has ended")

    def end(self) -> None:
        """Let it go."""
        self._process.stdin.close()
        self._process.wait()


def work(out: Path, scans: list[Path]) -> None:
    """What :class:`Worker` runs: study after study on one thread, as one of the pool's workers."""
    from ct_video_hf.data.labels import StudyEntry
    from ct_video_hf.data.worker import StudyTask, prepare_study

    def one(scan: Path) -> None:
        entry = StudyEntry(scan.name, scan, (0.0,))
        task = StudyTask(entry, scan.name, "p", "train", "s", SIZE, "strict", False, threads=1)
        prepare_study(task, os.fspath(out / f"{scan.name}.arrow"))

    one(scans[0])
    print("ready", flush=True)
    for _ in sys.stdin:
        for scan in scans:
            one(scan)
        print("done", flush=True)


def timed(run: Callable[[], None]) -> float:
    """Seconds."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def at_once(workers: list[Worker]) -> None:
    """All of them, until the last is done."""
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.wait()


def time_preparing(repeats: int, studies: int = 24, slices: int = 300) -> dict[str, Any]:
    """Seconds a study of every way, and what comes of them."""
    import cv2

    cv2.setNumThreads(1)
    cores = min(2, os.cpu_count() or 1)
    pooled, together = f"{cores} workers", f"{cores} processes without a pool"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scans = write_scans(folder / "scans", studies, slices)
        write_scans(folder / "few", cores, slices)
        starting, started = (
            timed(lambda place=place: prepare_set(folder / "few", folder / place, cores))
            for place in ("starting", "started")
        )
        single = Worker(scans, folder / "single")
        share = [Worker(scans[n::cores], folder / f"share{n}") for n in range(cores)]

        def published() -> None:
            for scan in scans[:2]:
                published_preparation(scan, folder / "study.h5")

        ways: dict[str, tuple[Callable[[], None], int]] = {
            "published": (published, 2),
            "one process": (lambda: prepare_set(folder / "scans", folder / "set", 1), studies),
            pooled: (lambda: prepare_set(folder / "scans", folder / "set", cores), studies),
            "one process without a pool": (lambda: at_once([single]), studies),
            together: (lambda: at_once(share), studies),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        written = studies * slices * SIZE * SIZE * 2
        names = list(ways)
        for turn in range(-1, repeats):  # the first turn imports
            first = turn % len(names)  # what one way leaves behind is not always the same one's
            for way in names[first:] + names[:first]:
                run, count = ways[way]
                touch_memory(folder, written)
                seconds = timed(run) / count
                if turn >= 0:
                    times[way].append(seconds)
                for file in [*folder.glob("share*/*"), *folder.glob("single/*")]:
                    file.unlink()
                shutil.rmtree(folder / "set", ignore_errors=True)
        for worker in [single, *share]:
            worker.end()
    found = {way: statistics.median(values) for way, values in times.items()}
    alone = found["one process without a pool"]
    scaling, bound = alone / found[pooled], alone / found[together]
    return {
        "seconds_a_study": {way: round(value, 4) for way, value in found.items()},
        "times_published": {
            way: round(found["published"] / value, 2) for way, value in found.items()
        },
        "times_one_process": {pooled: round(scaling, 2), together: round(bound, 2)},
        "seconds_to_start_workers": round(starting - started, 2),
        "all_seconds": {way: [round(v, 4) for v in values] for way, values in times.items()},
        "goals": [
            goal(
                "times the published way, one process",
                found["published"] / found["one process"],
                GOAL,
            ),
            goal(
                f"of what the machine allows {cores} processes, with {cores} workers",
                scaling / bound,
                GOAL_WORKERS,
            ),
        ],
    }


if __name__ == "__main__":
    work(Path(sys.argv[1]), [Path(word) for word in sys.argv[2:]])
