"""Generated scans with a ground truth: a body with lungs in which every voxel can be told apart."""

from __future__ import annotations

import numpy as np


def body(slices: int = 12, rows: int = 48, columns: int = 40, seed: int = 0) -> np.ndarray:
    """int16 HU (slice, row, column): air, an ellipse of tissue, lungs, and noise everywhere.

    Nothing about it is symmetric, so that a flip, a swap or a shift shows.
    """
    generator = np.random.default_rng(seed)
    row, column = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    hu = np.full((slices, rows, columns), -1000.0)
    hu[:, (row / 0.8) ** 2 + (column / 0.9) ** 2 < 1] = 40
    hu[:, ((row + 0.1) / 0.5) ** 2 + ((column + 0.4) / 0.25) ** 2 < 1] = -850
    hu[:, ((row - 0.1) / 0.5) ** 2 + ((column - 0.4) / 0.3) ** 2 < 1] = -800
    hu[:, (row - 0.7) ** 2 + column**2 < 0.01] = 700
    hu += 15 * np.arange(slices)[:, None, None]
    hu += generator.normal(0, 12, hu.shape)
    return np.clip(np.rint(hu), -1024, 3000).astype(np.int16)
