"""Time a training clip from storage to network input: the published way beside ours.

A clip of 32 x 256 x 256 is read, rotated by a whole number of degrees, cropped to 224 and windowed,
on one thread, from a warm page cache. The published way (arXiv 2304.00546, re-made from its
description) keeps float32 on disk, rotates with cubic splines on float32 and windows one channel.
Ours reads uint16 from a memory-mapped prepared set and warps once. The ways take turns clip by
clip, so that whatever else the machine does touches all of them.

    python scripts/benchmark_input.py [--clips 20] [--json]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

FRAMES, SIZE, CROP = 32, 256, 224
CENTER, WIDTH = 400.0, 1000.0


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


def published_way(path: Path, slices: int, order: int) -> Callable[[int], object]:
    """float32 on disk, window to 0..1, spline rotation of every plane filled with -1000, crop."""
    import numpy as np
    import torch
    from scipy import ndimage

    stored = np.memmap(path, np.float32, "r", shape=(slices, SIZE, SIZE))
    random = np.random.default_rng(1)

    def one(start: int):
        clip = np.array(stored[start : start + FRAMES])
        clip = np.clip((clip - (CENTER - WIDTH / 2)) / WIDTH, 0, 1)
        angle = random.integers(-20, 21)
        clip = ndimage.rotate(clip, angle, (1, 2), reshape=False, order=order, cval=-1000)
        top, left = random.integers(0, SIZE - CROP + 1, 2)
        clip = clip[:, top : top + CROP, left : left + CROP] - 0.15897
        return torch.from_numpy(np.ascontiguousarray(clip, np.float32))

    return one


def our_way(folder: Path, train: bool, channels: int) -> Callable[[int], object]:
    """Clips of a prepared set through ``CTClipDataset`` and ``ClipTransform``."""
    from ct_video_hf.data import ClipTransform, CTClipDataset, build_clip_index, load_prepared
    from ct_video_hf.models.processing_ct import CTVideoProcessor

    processor = CTVideoProcessor(
        windows=[[CENTER, WIDTH]], mean=[0.15897] * channels, num_channels=channels
    )
    data = load_prepared(folder, "train")
    index = build_clip_index(data, FRAMES, 1)
    clips = CTClipDataset(data, index, ClipTransform(processor, train))
    return clips.__getitem__


def read_only(folder: Path) -> Callable[[int], object]:
    """Reading alone: a clip copied out of the memory-mapped set."""
    from ct_video_hf.data import CTClipDataset, build_clip_index, load_prepared

    data = load_prepared(folder, "train")
    clips = CTClipDataset(data, build_clip_index(data, FRAMES, 1), str)
    return lambda number: clips.clip(number).copy()


def prepare_set(folder: Path, hu) -> Path:
    """A prepared set of one study, made from NIfTI as a user's would be."""
    import nibabel
    import numpy as np

    from ct_video_hf.data import PrepareOptions, prepare

    scans = folder / "scans"
    scans.mkdir()
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])  # columns to the left, rows to the back
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), affine), scans / "scan.nii")
    (scans / "labels.csv").write_text("study,label,split\nscan.nii,0,train\n")
    prepare("folder", scans, folder / "set", options=PrepareOptions(size=SIZE), progress=False)
    return folder / "set"


def measure(clips: int) -> dict[str, list[float]]:
    """Milliseconds of every clip for every way; the ways take turns."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    slices = 128
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hu = generated_volume(slices)
        hu.astype("float32").tofile(folder / "clip.f32")
        prepared = prepare_set(folder, hu)
        ways = {
            "published (cubic)": published_way(folder / "clip.f32", slices, 3),
            "published, linear": published_way(folder / "clip.f32", slices, 1),
            "ours, 1 channel": our_way(prepared, True, 1),
            "ours, 3 channels": our_way(prepared, True, 3),
            "ours without rotation": our_way(prepared, False, 1),
            "ours, read only": read_only(prepared),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(-2, clips):  # two turns to warm up
            for way, one in ways.items():
                began = time.perf_counter()
                one((turn * 7) % (slices - FRAMES))
                if turn >= 0:
                    times[way].append((time.perf_counter() - began) * 1000)
        del ways  # Windows cannot remove mapped files
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=20, help="clips timed for each way (20)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    times = measure(args.clips)
    base = statistics.median(times["published (cubic)"])
    result = {
        way: {
            "ms_per_clip": round(statistics.median(values), 3),
            "times_published": round(base / statistics.median(values), 2),
        }
        for way, values in times.items()
    }
    if args.json:
        print(json.dumps(result))
        return 0
    print(f"clip {FRAMES}x{SIZE}x{SIZE} -> {CROP}, one thread, median of {args.clips}")
    for way, row in result.items():
        print(f"  {way:24} {row['ms_per_clip']:8.2f} ms   {row['times_published']:6.1f}x")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
