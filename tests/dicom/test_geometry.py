"""Order, spacing, tilt, axes and affine from headers alone."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from ct_video_hf.dicom import CTReadError, geometry
from ct_video_hf.dicom.axes import patient_axes
from ct_video_hf.dicom.findings import RULES, Collector
from ct_video_hf.dicom.geometry import build_stack
from ct_video_hf.dicom.spacing import fit_spacing
from tests.support.frames import make_stack, shuffled


def codes(collector: Collector) -> set[str]:
    return {finding.code for finding in collector.findings}


def found(collector: Collector, code: str):
    return [finding for finding in collector.findings if finding.code == code]


def clean(step: float = 2.5, count: int = 12, **changes):
    return make_stack(-300 + step * np.arange(count), slice_thickness=step, **changes)


def test_the_table_in_the_docstring_is_the_one_in_force():
    rows = re.findall(
        r"^([a-z_0-9]+) +(error|warning|info|-) +(error|warning|info|-) +(error|warning|info|-) ",
        geometry.__doc__,
        re.M,
    )
    assert {row[0]: row[1:] for row in rows} == {
        code: (rule.strict, rule.warn, rule.repair) for code, rule in RULES.items()
    }


# --- order and affine -------------------------------------------------------------------------


def test_slices_are_ordered_by_position_and_by_nothing_else():
    frames = clean()
    stack = build_stack(shuffled(frames), Collector("strict"))
    assert [frame.source.name for frame in stack.frames] == [f.source.name for f in frames]
    expected = np.array([[0, 0, 0.7, -100], [0, 0.7, 0, -120], [2.5, 0, 0, -300], [0, 0, 0, 1]])
    np.testing.assert_allclose(stack.affine, expected, atol=1e-9)
    assert stack.affine_error_mm < 1e-9


@pytest.mark.parametrize("step", [0.5, 0.625, 1.0, 2.5, 5.0, 10.0])
@pytest.mark.parametrize("decimals", [1, 2, 3, 6])
def test_rounded_headers_are_uniform(step, decimals):
    """What a scanner writes with few decimals is not an uneven scan."""
    z = np.round(-312.375 + step * np.arange(200), decimals)
    collector = Collector("strict")
    stack = build_stack(make_stack(z), collector)
    assert not codes(collector) & {"uneven_spacing", "missing_slice"}
    assert abs(stack.fit.step - step) < 1e-3
    assert stack.affine_error_mm <= 0.1


@pytest.mark.parametrize("step", [0.625, 1.25])
def test_tenths_of_slightly_turned_planes_are_uniform(step):
    """Noise in the cosines moves every projection off the tenths that the header holds."""
    noisy = (0.999999, 1e-6, -3e-6, -1e-6, 0.999999, 2e-6)
    collector = Collector("strict")
    stack = build_stack(
        make_stack(np.round(-200 + step * np.arange(60), 1), orientation=noisy), collector
    )
    assert stack.fit.tenths
    assert not codes(collector) & {"uneven_spacing", "missing_slice"}


@pytest.mark.parametrize("step", [0.625, 0.75, 1.25])
def test_a_slice_missing_from_rounded_positions(step):
    """The gap is found, and nothing else: rounding does not make the rest uneven."""
    z = np.delete(np.round(-200 + step * np.arange(60), 1), [12, 40])
    collector = Collector("warn")
    stack = build_stack(make_stack(z), collector)
    assert [f.code for f in collector.findings].count("missing_slice") == 2
    assert "uneven_spacing" not in codes(collector)
    assert abs(stack.fit.step - step) < 2e-3
    assert stack.fit.index[-1] == 59


def test_a_slice_off_by_a_tenth_is_not_rounding():
    z = np.round(-200 + 2.5 * np.arange(30), 1)
    z[12] += 0.1
    with pytest.raises(CTReadError) as caught:
        build_stack(make_stack(z), Collector("strict"))
    assert caught.value.code == "uneven_spacing"


@pytest.mark.parametrize(
    ("orientation", "down", "across"),
    [
        ((1, 0, 0, 0, 1, 0), (0, 1, 0), (1, 0, 0)),  # head first supine, feet first supine
        ((-1, 0, 0, 0, -1, 0), (0, 1, 0), (1, 0, 0)),  # prone, shown table down
        ((-1, 0, 0, 0, 1, 0), (0, 1, 0), (1, 0, 0)),  # seen from the head
        ((1, 0, 0, 0, -1, 0), (0, 1, 0), (1, 0, 0)),
        ((0, -1, 0, 1, 0, 0), (0, 1, 0), (1, 0, 0)),  # decubitus right
        ((0, 1, 0, -1, 0, 0), (0, 1, 0), (1, 0, 0)),  # decubitus left
        ((0, 1, 0, 1, 0, 0), (0, 1, 0), (1, 0, 0)),
        ((0, -1, 0, -1, 0, 0), (0, 1, 0), (1, 0, 0)),
    ],
)
def test_every_way_of_lying_comes_to_the_same_axes(orientation, down, across):
    orientation = tuple(map(float, orientation))
    frames = clean(orientation=orientation, rows=400, columns=300, pixel_spacing=(0.8, 0.6))
    stack = build_stack(frames, Collector("strict"))
    directions = stack.affine[:3, :3] / np.linalg.norm(stack.affine[:3, :3], axis=0)
    np.testing.assert_allclose(directions.T, [(0, 0, 1), down, across], atol=1e-12)
    # the same voxel by DICOM's own equation (PS3.3 C.7.6.2.1.1-1) and by ours
    native_row, native_column = 13, 37
    row_cosines, column_cosines = np.array(orientation[:3]), np.array(orientation[3:])
    expected = (
        np.array(stack.frames[4].position)
        + row_cosines * 0.6 * native_column
        + column_cosines * 0.8 * native_row
    )
    row = 399 - native_row if stack.flip_rows else native_row
    column = 299 - native_column if stack.flip_columns else native_column
    if stack.transpose:
        row, column = column, row
    np.testing.assert_allclose((stack.affine @ [4, row, column, 1])[:3], expected, atol=1e-9)
    assert stack.shape == ((300, 400) if stack.transpose else (400, 300))


def test_small_obliques_stay_in_the_affine_and_are_told():
    angle = np.deg2rad(8)
    row = (np.cos(angle), np.sin(angle), 0.0)
    column = (-np.sin(angle), np.cos(angle), 0.0)
    collector = Collector("strict")
    stack = build_stack(clean(orientation=(*row, *column)), collector)
    assert stack.oblique_degrees == pytest.approx(8)
    assert "oblique" in codes(collector)
    np.testing.assert_allclose(stack.affine[:3, 2], 0.7 * np.array(row), atol=1e-12)


def test_swap_is_decided_by_the_larger_part_of_the_axes():
    for degrees, swapped in ((44, False), (46, True), (134, True), (136, False)):
        angle = np.deg2rad(degrees)
        axes = (np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0)
        assert patient_axes(axes)[2] is swapped


# --- gaps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["strict", "warn", "repair"])
def test_a_missing_slice_names_place_expected_and_found(policy):
    frames = [f for number, f in enumerate(clean()) if number != 5]
    collector = Collector(policy)
    if policy == "strict":
        with pytest.raises(CTReadError) as caught:
            build_stack(frames, collector)
        assert caught.value.code == "missing_slice"
        for word in ("s004.dcm", "s006.dcm", "2.500", "5.000", "-290.000"):
            assert word in str(caught.value)
    else:
        build_stack(frames, collector)
    (finding,) = found(collector, "missing_slice")
    assert finding.severity == ("error" if policy == "strict" else "warning")
    assert (finding.position_mm, finding.expected_mm, finding.found_mm) == (-290.0, 2.5, 5.0)
    assert finding.files == ["s004.dcm", "s006.dcm"]


def test_every_hole_is_told_and_counted():
    frames = [f for number, f in enumerate(clean(count=30)) if number not in (5, 11, 12, 20)]
    collector = Collector("warn")
    build_stack(frames, collector)
    assert [f.found_mm for f in found(collector, "missing_slice")] == [5.0, 7.5, 5.0]
    assert "2 slices missing" in found(collector, "missing_slice")[1].message


def test_the_gaps_of_the_real_sample():
    """5, 5 and 10 mm: the median and the smallest gap agree."""
    collector = Collector("warn")
    stack = build_stack(make_stack([18.1075, 23.1075, 28.107498, 38.107498]), collector)
    assert found(collector, "missing_slice")[0].expected_mm == pytest.approx(5.0)
    assert stack.affine_error_mm == pytest.approx(5.0)
    assert found(collector, "approximate_affine")[0].found_mm == pytest.approx(5.0)


def test_half_of_three_slices_missing():
    fit = fit_spacing(np.array([0.0, 2.0, 6.0]))
    assert fit.step == pytest.approx(2.0)
    assert fit.index.tolist() == [0, 1, 3]


@pytest.mark.parametrize("jitter", [0.06, 0.1, 0.3, 0.7])
def test_one_displaced_slice_is_uneven(jitter):
    z = -300 + 2.5 * np.arange(12)
    z[6] += jitter
    collector = Collector("strict")
    with pytest.raises(CTReadError) as caught:
        build_stack(make_stack(z), collector)
    assert caught.value.code == "uneven_spacing"
    (finding,) = found(collector, "uneven_spacing")
    assert abs(finding.found_mm - finding.expected_mm) == pytest.approx(jitter, abs=1e-6)


def test_jitter_below_the_tolerance_passes():
    z = -300 + 2.5 * np.arange(12)
    z[6] += 0.02
    stack = build_stack(make_stack(z), Collector("strict"))
    assert stack.affine_error_mm == pytest.approx(0.02)


def test_two_spacings_in_one_series_are_seen():
    z = np.concatenate([np.arange(10) * 3.0, 27 + 4.0 * np.arange(1, 10)])
    with pytest.raises(CTReadError) as caught:
        build_stack(make_stack(z), Collector("strict"))
    assert caught.value.code == "uneven_spacing"


def test_uneven_under_warn_has_an_honest_affine():
    z = np.sort(np.arange(20) * 2.0 + np.random.default_rng(1).uniform(-0.4, 0.4, 20))
    collector = Collector("warn")
    stack = build_stack(make_stack(z), collector)
    predicted = stack.affine[2, 3] + stack.affine[2, 0] * np.arange(20)
    assert stack.affine_error_mm == pytest.approx(np.abs(predicted - z).max())
    assert found(collector, "approximate_affine")[0].found_mm == pytest.approx(
        stack.affine_error_mm, abs=1e-6
    )


# --- tilt and displaced planes ----------------------------------------------------------------


def tilted(degrees: float = 18.5, count: int = 12):
    angle = np.deg2rad(degrees)
    frames = clean(count=count, orientation=(1, 0, 0, 0, np.cos(angle), -np.sin(angle)))
    return [replace(frame, gantry_tilt=-degrees) for frame in frames]


def test_tilt_is_seen_in_the_positions():
    collector = Collector("strict")
    with pytest.raises(CTReadError) as caught:
        build_stack(tilted(), collector)
    assert caught.value.code == "gantry_tilt"
    assert "18.50" in str(caught.value)


def test_tilt_under_warn_is_sheared_and_exact():
    collector = Collector("warn")
    stack = build_stack(tilted(), collector)
    assert stack.affine_error_mm < 1e-9
    np.testing.assert_allclose(stack.affine[:3, 0], [0, 0, 2.5], atol=1e-9)
    assert stack.fit.step == pytest.approx(2.5 * np.cos(np.deg2rad(18.5)))
    assert "approximate_affine" not in codes(collector)


def test_a_tilt_tag_without_tilted_positions_is_a_warning():
    collector = Collector("strict")
    build_stack(clean(gantry_tilt=12.0), collector)
    assert found(collector, "gantry_tilt")[0].severity == "warning"


def test_a_plane_off_the_line():
    frames = clean()
    x, y, z = frames[7].position
    frames[7] = replace(frames[7], position=(x + 3.0, y, z))
    collector = Collector("strict")
    with pytest.raises(CTReadError) as caught:
        build_stack(frames, collector)
    assert caught.value.code == "shifted_slice"
    assert found(collector, "shifted_slice")[0].files == ["s007.dcm"]
    assert found(collector, "shifted_slice")[0].found_mm == pytest.approx(3.0)


def test_orientations_that_drift_within_the_cluster_are_verified_at_the_far_corner():
    frames = clean(pixel_spacing=(0.2, 0.2), rows=2048, columns=2048)
    turned = (np.cos(9e-4), np.sin(9e-4), 0, -np.sin(9e-4), np.cos(9e-4), 0)
    frames[3] = replace(frames[3], orientation=turned)
    with pytest.raises(CTReadError) as caught:
        build_stack(frames, Collector("warn"))
    assert caught.value.code == "affine_mismatch"


# --- notes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("thickness", "code"), [(3.0, "overlap"), (1.25, "interslice_gap"), (2.5, None), (None, None)]
)
def test_thickness_is_a_note_and_never_the_spacing(thickness, code):
    frames = [replace(frame, slice_thickness=thickness) for frame in clean()]
    collector = Collector("strict")
    stack = build_stack(frames, collector)
    assert stack.fit.step == pytest.approx(2.5)
    assert codes(collector) == ({code} if code else set())


def test_few_slices_are_told():
    collector = Collector("strict")
    build_stack(clean(count=3), collector)
    assert codes(collector) == {"too_few_slices"}


def test_an_error_carries_everything_found():
    z = np.delete(-300 + 2.5 * np.arange(12), 5)
    with pytest.raises(CTReadError) as caught:
        build_stack(make_stack(z, slice_thickness=3.0), Collector("strict"))
    assert {finding["code"] for finding in caught.value.findings} >= {"missing_slice", "overlap"}
