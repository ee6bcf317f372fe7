"""In-plane fitting against a plain area average, padding, range and type."""

import numpy as np
import pytest

from ct_video_hf.dicom.resample import fit_in_plane, to_hu, to_uint16


def test_halving_averages_areas():
    hu = np.random.default_rng(0).integers(-1024, 3000, (2, 64, 64)).astype(np.int16)
    means = hu.astype(float).reshape(2, 32, 2, 32, 2).mean(axis=(2, 4))
    result = fit_in_plane(hu, 32)
    assert result.dtype == np.int16
    assert np.abs(result - means).max() <= 0.5


def test_a_fraction_keeps_the_mean():
    hu = np.random.default_rng(0).integers(-1024, 3000, (1, 60, 60)).astype(np.int16)
    assert abs(fit_in_plane(hu, 37).mean() - hu.mean()) < 1


def test_enlarging_interpolates_linearly():
    hu = np.tile(np.arange(0, 800, 100, dtype=np.int16), (8, 1))
    row = fit_in_plane(hu, 16)[4]
    np.testing.assert_allclose(row[2:14], np.arange(75, 675, 50), atol=1)


@pytest.mark.parametrize(("shape", "air"), [((6, 4), "columns"), ((4, 6), "rows")])
def test_planes_are_padded_to_squares_with_centred_air(shape, air):
    result = fit_in_plane(np.full(shape, 50, np.int16), 6)
    result = result if air == "columns" else result.T
    assert (result[:, [0, 5]] == -1024).all()
    assert (result[:, 1:5] == 50).all()


def test_the_odd_line_goes_to_the_end():
    result = fit_in_plane(np.full((5, 4), 50, np.int16), 5)
    assert (result[:, 4] == -1024).all()
    assert (result[:, 0] == 50).all()


def test_values_outside_are_clipped_and_the_rest_survives():
    hu = np.array([[-32768, -1025, -1024], [-1000, 0, 40], [3071, 32766, 32767]], np.int16)
    np.testing.assert_array_equal(to_hu(to_uint16(hu)), np.maximum(hu, -1024))
    np.testing.assert_array_equal(fit_in_plane(hu, 3), np.maximum(hu, -1024))
    np.testing.assert_array_equal(to_uint16(np.array([-0.6, 0.4])), [1023, 1024])


def test_float_planes_stay_float():
    assert fit_in_plane(np.zeros((4, 4), np.float32), 2).dtype == np.float32


@pytest.mark.parametrize(
    ("shape", "size"), [((4,), 2), ((1, 2, 3, 4), 2), ((0, 4, 4), 2), ((4, 4), 0)]
)
def test_bad_arguments_are_refused(shape, size):
    with pytest.raises(ValueError, match=r"size must|expected"):
        fit_in_plane(np.zeros(shape, np.int16), size)
