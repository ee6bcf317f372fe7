"""Policy "repair": from planes that are not on a uniform grid to planes that are.

Only geometry is mended. Along the normal, values are interpolated linearly between the two measured
planes on either side; a hole of more than :data:`WIDEST_GAP` spacings, or more than a quarter of
slices without a measured plane near them, is refused, since filling it would be invention. Within a
plane, tilt and displacement are undone by moving each plane as a whole, with linear interpolation
for the fraction of a pixel; the field grows by as many rows and columns as keep every voxel in
view, and what no plane covers is air.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .findings import Collector
from .geometry import IN_PLANE_TOLERANCE_MM, Stack
from .volume import AIR_HU

__all__ = ["Grid", "blend_slices", "move_plane", "plan_repair", "unshear"]

#: The widest gap, in spacings, that is interpolated: one slice missing between two.
WIDEST_GAP = 2.5
#: The largest part of the slices that may lie more than half a spacing from a measured plane.
MOST_INTERPOLATED = 0.25


@dataclass
class Grid:
    """The uniform grid and how measured planes come onto it.

    Attributes
    ----------
    affine : ndarray (4, 4)
        Of the grid: (slice, row, column) to mm, LPS; no shear.
    shape : tuple of int
        (slices, rows, columns) of the grid.
    lower, upper : int ndarray (slices,)
        The measured planes on either side of each slice of the grid.
    weight : ndarray (slices,)
        Share of ``upper``, 0 to 1.
    nearest : list of (int or None)
        The measured plane within half a spacing of each slice, where there is one.
    moves : ndarray (planes, 2)
        Where row 0, column 0 of each measured plane falls on the grid, in rows and columns.
    """

    affine: np.ndarray
    shape: tuple[int, int, int]
    lower: np.ndarray
    upper: np.ndarray
    weight: np.ndarray
    nearest: list[int | None]
    moves: np.ndarray

    @property
    def moves_planes(self) -> bool:
        """Whether any plane moves within itself."""
        return bool(self.moves.any())

    @property
    def blends(self) -> bool:
        """Whether slices of the grid differ from the measured planes one to one."""
        same = len(self.lower) == len(self.moves) and not self.weight.any()
        return not (same and bool((self.lower == np.arange(len(self.lower))).all()))


def plan_repair(stack: Stack, collector: Collector) -> Grid:
    """Lay out the uniform grid for a stack.

    Raises
    ------
    CTReadError
        ``missing_slice`` where a hole is too wide or too much would be interpolated;
        ``affine_mismatch`` where a plane does not fall where the grid says.
    """
    step = stack.fit.step
    _refuse_holes(stack, collector)
    lower, upper, weight, targets = _along_normal(stack)
    distance = np.abs(targets[:, None] - stack.along[None, :])
    nearest = distance.argmin(axis=1)
    near = distance.min(axis=1) <= 0.5 * step + stack.fit.tolerance
    invented = int((~near).sum())
    if invented > MOST_INTERPOLATED * len(targets):
        collector.fail(
            "missing_slice",
            f"{invented} of {len(targets)} slices would be interpolated; a quarter is the most "
            f"that policy 'repair' fills in",
        )
    base, moves = _within_plane(stack)
    before = np.maximum(-np.floor(moves.min(axis=0)), 0).astype(int)
    after = np.maximum(np.ceil(moves.max(axis=0)), 0).astype(int)
    moves = moves + before
    rows, columns = np.array(stack.shape) + before + after
    affine = stack.affine.copy()
    affine[:3, 0] = stack.normal * step
    affine[:3, 3] = base - affine[:3, 1:3] @ before
    grid = Grid(
        affine,
        (len(targets), int(rows), int(columns)),
        lower,
        upper,
        weight,
        [int(place) if close else None for place, close in zip(nearest, near, strict=True)],
        moves,
    )
    _verify(grid, stack, collector)
    return grid


def _refuse_holes(stack: Stack, collector: Collector) -> None:
    gaps = np.diff(stack.along)
    widest = int(gaps.argmax())
    if gaps[widest] <= WIDEST_GAP * stack.fit.step:
        return
    files = [stack.frames[widest].label, stack.frames[widest + 1].label]
    collector.fail(
        "missing_slice",
        f"the gap of {gaps[widest]:.3f} mm between {files[0]} at {stack.along[widest]:.3f} mm and "
        f"{files[1]} at {stack.along[widest + 1]:.3f} mm is wider than {WIDEST_GAP} spacings of "
        f"{stack.fit.step:.3f} mm; filling it would be invention",
        files,
        position_mm=float(stack.along[widest]),
        expected_mm=stack.fit.step,
        found_mm=float(gaps[widest]),
    )


def _along_normal(stack: Stack) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each slice of the grid: the planes on either side, the share of the upper, its place."""
    along, step, index = stack.along, stack.fit.step, stack.fit.index
    if index is None:
        count = int(np.floor((along[-1] - along[0] + stack.fit.tolerance) / step)) + 1
        targets = along[0] + step * np.arange(count)
        place = targets
        known = along
    else:  # the planes are on the grid: whole numbers copy them exactly
        targets = along[0] + step * np.arange(index[-1] + 1)
        place = np.arange(index[-1] + 1, dtype=float)
        known = index.astype(float)
    lower = np.clip(np.searchsorted(known, place, side="right") - 1, 0, len(known) - 1)
    upper = np.minimum(lower + 1, len(known) - 1)
    width = np.where(upper > lower, known[upper] - known[lower], 1.0)
    weight = np.clip((place - known[lower]) / width, 0.0, 1.0)
    weight[upper == lower] = 0.0
    return lower, upper, weight, targets


def _within_plane(stack: Stack) -> tuple[np.ndarray, np.ndarray]:
    """The grid's line of origins (its first point) and each plane's move in rows, columns."""
    base = stack.origins[0]
    count = len(stack.frames)
    if not stack.needs & {"gantry_tilt", "shifted_slice"}:
        return base, np.zeros((count, 2))
    lengths = np.linalg.norm(stack.affine[:3, 1:3], axis=0)
    axes = stack.affine[:3, 1:3] / lengths  # (3, 2): unit vectors of rows and columns
    upright = base + np.outer(stack.along - stack.along[0], stack.normal)
    offsets = (stack.origins - upright) @ axes  # mm
    if "gantry_tilt" not in stack.needs:  # most planes stay where they are
        middle = np.median(offsets, axis=0)
        base = base + axes @ middle
        offsets = offsets - middle
        offsets[np.abs(offsets) <= IN_PLANE_TOLERANCE_MM] = 0.0
    return base, _snapped(offsets / lengths)


def _snapped(moves: np.ndarray) -> np.ndarray:
    """Moves within a thousandth of a whole pixel become whole: those planes are only copied."""
    whole = np.round(moves)
    return np.where(np.abs(moves - whole) < 1e-3, whole, moves)


def _verify(grid: Grid, stack: Stack, collector: Collector) -> None:
    """Every measured plane's first voxel against the grid's affine."""
    place = (stack.along - stack.along[0]) / stack.fit.step
    index = np.column_stack([place, grid.moves, np.ones(len(place))])
    found = (index @ grid.affine.T)[:, :3]
    error = float(np.linalg.norm(found - stack.origins, axis=1).max())
    tolerance = stack.fit.tolerance + 2 * IN_PLANE_TOLERANCE_MM
    if error > tolerance:
        collector.fail(
            "affine_mismatch",
            f"after repair a plane falls {error:.3f} mm from where the affine puts it; "
            f"{tolerance:.3f} mm are tolerated",
            expected_mm=0.0,
            found_mm=error,
        )


def move_plane(plane: np.ndarray, move: np.ndarray, out: np.ndarray) -> None:
    """Put a plane onto a wider one, moved by fractions of a pixel, with air around it.

    Parameters
    ----------
    plane : int16 ndarray (rows, columns)
    move : (rows, columns), not negative
        Where its first voxel falls on ``out``.
    out : int16 ndarray
        At least as wide as the plane and its move, rounded up; overwritten.
    """
    whole = np.floor(move).astype(int)
    fraction = np.asarray(move) - whole
    values = plane.astype(np.float32)
    for axis in (0, 1):
        if fraction[axis] > 0:
            pad = [(0, 0), (0, 0)]
            pad[axis] = (1, 1)
            wide = np.pad(values, pad, constant_values=AIR_HU)
            ahead = wide[1:] if axis == 0 else wide[:, 1:]
            behind = wide[:-1] if axis == 0 else wide[:, :-1]
            values = ahead * np.float32(1 - fraction[axis]) + behind * np.float32(fraction[axis])
    out[...] = AIR_HU
    rows, columns = values.shape
    out[whole[0] : whole[0] + rows, whole[1] : whole[1] + columns] = np.rint(values)


def blend_slices(hu: np.ndarray, grid: Grid) -> np.ndarray:
    """Measured planes onto the grid's slices, int16; planes on a slice are copied unchanged."""
    result = np.empty((len(grid.lower), *hu.shape[1:]), dtype=np.int16)
    for target, (lower, upper, weight) in enumerate(
        zip(grid.lower, grid.upper, grid.weight, strict=True)
    ):
        if weight == 0:
            result[target] = hu[lower]
        elif weight == 1:
            result[target] = hu[upper]
        else:
            mixed = hu[lower] * np.float32(1 - weight) + hu[upper] * np.float32(weight)
            result[target] = np.rint(mixed)
    return result


def unshear(affine: np.ndarray, hu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A sheared stack (its step not along the normal) onto an upright grid.

    Parameters
    ----------
    affine : ndarray (4, 4)
        (slice, row, column) to mm; rows and columns at right angles.
    hu : int16 ndarray (slice, row, column)

    Returns
    -------
    affine, hu
        Without shear; the planes are wider, so that every voxel stays in view.
    """
    lengths = np.linalg.norm(affine[:3, 1:3], axis=0)
    axes = affine[:3, 1:3] / lengths
    normal = np.cross(axes[:, 1], axes[:, 0])
    step = affine[:3, 0]
    moves = _snapped(np.outer(np.arange(len(hu)), (step @ axes) / lengths))
    before = np.maximum(-np.floor(moves.min(axis=0)), 0).astype(int)
    after = np.maximum(np.ceil(moves.max(axis=0)), 0).astype(int)
    result = affine.copy()
    result[:3, 0] = normal * (step @ normal) / (normal @ normal)
    result[:3, 3] = affine[:3, 3] - affine[:3, 1:3] @ before
    rows, columns = np.array(hu.shape[1:]) + before + after
    moved = np.empty((len(hu), rows, columns), np.int16)
    for plane, move, target in zip(hu, moves + before, moved, strict=True):
        move_plane(plane, move, target)
    return result, moved
