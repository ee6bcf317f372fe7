"""Policy repair: interpolation along the normal and moves within the plane."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ct_video_hf.dicom import CTReadError
from ct_video_hf.dicom.findings import Collector
from ct_video_hf.dicom.geometry import build_stack
from ct_video_hf.dicom.repair import blend_slices, move_plane, plan_repair, unshear
from tests.support.frames import make_stack


def plan(frames):
    collector = Collector("repair")
    stack = build_stack(frames, collector)
    return plan_repair(stack, collector), stack


def test_one_missing_slice_is_interpolated_and_the_rest_copied():
    frames = make_stack(np.delete(2.5 * np.arange(12), 5))
    grid, _ = plan(frames)
    hu = np.random.default_rng(0).integers(-1000, 1000, (11, 4, 5)).astype(np.int16)
    result = blend_slices(hu, grid)
    assert grid.shape[0] == 12
    assert grid.nearest == [0, 1, 2, 3, 4, None, 5, 6, 7, 8, 9, 10]
    np.testing.assert_array_equal(np.delete(result, 5, axis=0), hu)
    np.testing.assert_array_equal(result[5], np.rint((hu[4].astype(float) + hu[5]) / 2))
    np.testing.assert_allclose(grid.affine[:3, 0], [0, 0, 2.5])


@pytest.mark.parametrize(("gone", "count"), [((5, 6), 12), ((2, 4, 6, 8), 12)])
def test_larger_holes_and_too_many_are_refused(gone, count):
    frames = make_stack(np.delete(2.5 * np.arange(count), gone))
    with pytest.raises(CTReadError) as caught:
        plan(frames)
    assert caught.value.code == "missing_slice"


def test_uneven_slices_come_onto_the_median_spacing():
    z = 2.0 * np.arange(20)
    z[1:-1] += np.random.default_rng(1).uniform(-0.4, 0.4, 18)
    grid, stack = plan(make_stack(z))
    # a volume linear in z stays linear under linear interpolation
    hu = np.broadcast_to(np.rint(40 * stack.along)[:, None, None], (20, 3, 3)).astype(np.int16)
    result = blend_slices(hu, grid)
    step = float(np.median(np.diff(stack.along)))
    targets = stack.along[0] + step * np.arange(len(result))
    assert targets[-1] <= stack.along[-1] + 1e-6
    np.testing.assert_allclose(result[:, 0, 0], 40 * targets, atol=1.01)
    assert grid.affine[2, 0] == pytest.approx(step)
    near = np.abs(targets[:, None] - stack.along).min(axis=1) <= 0.5 * step + 0.02
    assert [place is not None for place in grid.nearest] == near.tolist()


def test_no_slice_lies_outside_what_was_measured():
    z = [0.0, 2.0, 4.0, 6.5, 8.5, 10.9, 12.9, 14.9, 16.9]
    grid, stack = plan(make_stack(z))
    place = np.arange(grid.shape[0]) * grid.affine[2, 0] + grid.affine[2, 3]
    assert place.min() >= stack.along[0] - 1e-9
    assert place.max() <= stack.along[-1] + 0.05


@pytest.mark.parametrize("degrees", [18.5, -12.0, 30.0])
def test_tilt_is_unsheared_with_everything_in_view(degrees):
    angle = np.deg2rad(degrees)
    frames = make_stack(
        2.5 * np.arange(12),
        orientation=(1, 0, 0, 0, np.cos(angle), -np.sin(angle)),
        rows=30,
        columns=20,
        pixel_spacing=(0.5, 0.5),
    )
    grid, stack = plan(frames)
    axes = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    assert np.linalg.norm(grid.affine[:3, 0]) == pytest.approx(2.5 * np.cos(angle))
    # a bright pixel of each plane lands where its own header puts it
    for number, frame in enumerate(stack.frames):
        plane = np.full((30, 20), -1024, np.int16)
        plane[7, 11] = 3000
        out = np.empty(grid.shape[1:], np.int16)
        move_plane(plane, grid.moves[number], out)
        weights = out.astype(float) + 1024
        rows, columns = np.indices(out.shape)
        row = (weights * rows).sum() / weights.sum()
        column = (weights * columns).sum() / weights.sum()
        assert weights.sum() == pytest.approx(4024, abs=2)
        found = (grid.affine @ [number, row, column, 1])[:3]
        down = np.array(frame.orientation[3:])
        expected = np.array(frame.position) + 0.5 * 7 * down + 0.5 * 11 * np.array([1.0, 0, 0])
        np.testing.assert_allclose(found, expected, atol=5e-3)


def test_a_displaced_plane_is_moved_back_and_the_others_stay():
    frames = make_stack(2.5 * np.arange(12), rows=30, columns=20)
    x, y, z = frames[7].position
    frames[7] = replace(frames[7], position=(x + 0.7 * 3, y - 0.7, z))
    grid, _ = plan(frames)
    moves = grid.moves - grid.moves[0]
    np.testing.assert_allclose(moves[7], [-1, 3], atol=1e-6)
    assert not np.delete(moves, 7, axis=0).any()
    assert grid.shape == (12, 31, 23)
    plane = np.arange(600, dtype=np.int16).reshape(30, 20)
    out = np.empty(grid.shape[1:], np.int16)
    move_plane(plane, grid.moves[7], out)
    np.testing.assert_array_equal(out[:30, 3:], plane)
    assert (out[30] == -1024).all()
    assert (out[:, :3] == -1024).all()


def test_half_a_pixel_is_the_mean_of_two():
    plane = np.array([[0, 100], [200, 400]], np.int16)
    out = np.empty((3, 2), np.int16)
    move_plane(plane, np.array([0.5, 0.0]), out)
    np.testing.assert_array_equal(out, [[-512, -462], [100, 250], [-412, -312]])


def test_unshear_of_an_affine_agrees_with_the_repair_of_headers():
    angle = np.deg2rad(15.0)
    frames = make_stack(
        2.5 * np.arange(6),
        orientation=(1, 0, 0, 0, np.cos(angle), -np.sin(angle)),
        rows=30,
        columns=20,
    )
    grid, stack = plan(frames)
    hu = np.random.default_rng(2).integers(-1000, 1000, (6, 30, 20)).astype(np.int16)
    affine, result = unshear(stack.affine, hu)
    np.testing.assert_allclose(affine, grid.affine, atol=1e-9)
    for number in range(6):
        out = np.empty(grid.shape[1:], np.int16)
        move_plane(hu[number], grid.moves[number], out)
        assert np.abs(out.astype(int) - result[number]).max() <= 1
