"""Generated chests, volumes and tiny model folders for tests of prediction and of the Hub."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ct_video_hf.dicom import CTVolume, GeometryReport
from ct_video_hf.models import CTVideoProcessor, create_model

SPACING = (2.5, 1.4, 1.4)


def chest_hu(slices: int = 40, size: int = 96, seed: int = 0) -> np.ndarray:
    """int16 HU (slice, row, column): body, two lungs that change along z, noise, a bright ball."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size - 0.5
    hu = np.full((slices, size, size), -1000, np.int16)
    for index in range(slices):
        t = 2 * index / slices - 1
        hu[index][(x / 0.44) ** 2 + (y / 0.33) ** 2 < 1] = 40
        for side in (-1, 1):
            lung = ((x - side * 0.18) / 0.13) ** 2 + (y / (0.24 * (1 - 0.5 * t * t))) ** 2 < 1
            hu[index][lung] = -850
        if abs(index - 0.7 * slices) < 3:
            hu[index][(x + 0.18) ** 2 + y**2 < 0.002] = 100
    return (hu + rng.normal(0, 20, hu.shape)).astype(np.int16)


def volume_of(hu: np.ndarray, spacing: tuple[float, float, float] = SPACING) -> CTVolume:
    """A CTVolume around HU; source order runs from head to feet."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    affine[:, 3] = (-80.0, -70.0, -300.0, 1.0)
    count = len(hu)
    report = GeometryReport(
        slices=count,
        rows=hu.shape[1],
        columns=hu.shape[2],
        spacing_mm=spacing,
        orientation="axial",
        modality="CT",
        transfer_syntaxes=[],
        hu_min=int(hu.min()),
        hu_max=int(hu.max()),
        policy="strict",
        source="array",
    )
    ids = [f"1.2.826.0.1.3680043.8.498.{index}" for index in range(count)]
    return CTVolume(hu, affine, ids, list(range(count))[::-1], report)


def tiny_model(num_labels: int = 1, **overrides):
    """A tiny random classifier whose residual branches and scores are alive."""
    torch.manual_seed(0)
    model = create_model("slow_tiny", num_labels=num_labels, **overrides)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.weight.fill_(1.0)
        model.classifier.weight.normal_(0.0, 1.0)
    return model.eval()


def tiny_processor(**overrides) -> CTVideoProcessor:
    """16 slices of 64x64, one channel, clips that overlap by half."""
    fields = {"size": 72, "crop_size": 64, "num_channels": 1, "num_frames": 16, "stride": 8}
    return CTVideoProcessor(**(fields | overrides))


def tiny_model_folder(folder: Path, num_labels: int = 1, **overrides) -> Path:
    """Write a tiny model with its processor."""
    from ct_video_hf.hub import save_model_folder

    return save_model_folder(tiny_model(num_labels, **overrides), tiny_processor(), folder)
