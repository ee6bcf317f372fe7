"""The part ``input`` of ``benchmark_data.py``: from a prepared set to network input."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _measuring import goal

__all__ = ["time_input"]

FRAMES, SIZE, CROP = 32, 256, 224
CENTER, WIDTH = 400.0, 1000.0
#: Times the published way: from HU, and from one window in 8 bits.
GOAL, GOAL_8BIT = 18.0, 25.0


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
            goal("times the published way, uint16", base / found["ours, uint16"], GOAL),
            goal("times the published way, 8 bits", base / found["ours, 8 bits"], GOAL_8BIT),
        ],
    }
