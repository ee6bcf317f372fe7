"""read_ct on generated scans: every way a scan can lie, be stored, be mixed up or be broken."""

from __future__ import annotations

import itertools
import os
import shutil
import zipfile

import numpy as np
import pydicom
import pytest

from ct_video_hf.dicom import (
    CTReadError,
    CTVolume,
    VolumeMemory,
    find_series,
    read_ct,
    write_series,
)
from ct_video_hf.dicom import syntax as uids
from ct_video_hf.dicom.resample import fit_in_plane
from ct_video_hf.dicom.write_enhanced import write_enhanced
from tests.support.reference import assert_same_as_pydicom
from tests.support.scans import body


@pytest.fixture(scope="module")
def hu() -> np.ndarray:
    return body()


def codes(volume: CTVolume) -> dict[str, str]:
    return {finding.code: finding.severity for finding in volume.report.findings}


def expect(code: str, path, policy="strict", **options) -> CTReadError:
    with pytest.raises(CTReadError) as caught:
        read_ct(path, policy, **options)
    assert caught.value.code == code, str(caught.value)
    return caught.value


def test_an_unspecified_rescale_type_is_no_warning(tmp_path, hu):
    """Converters write US, unspecified, into every series that passes through them."""
    for path in write_series(hu, tmp_path):
        dataset = pydicom.dcmread(path)
        dataset.RescaleType = "US"
        dataset.save_as(path)
    volume = read_ct(tmp_path)
    np.testing.assert_array_equal(volume.hu, hu)
    assert codes(volume)["not_hu"] == "info"


# --- the plain case ---------------------------------------------------------------------------


def test_a_plain_series(tmp_path, hu):
    files = write_series(hu, tmp_path, spacing=(2.5, 0.8, 0.6), origin=(-12.0, -20.0, 30.0))
    volume = read_ct(tmp_path)
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.hu.dtype == np.int16
    assert volume.hu.flags.c_contiguous
    expected = [[0, 0, 0.6, -12], [0, 0.8, 0, -20], [2.5, 0, 0, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.affine, expected, atol=1e-9)
    assert volume.spacing == pytest.approx((2.5, 0.8, 0.6))
    assert volume.report.codes() == set()
    assert volume.source_index == list(range(12))
    assert len(set(volume.slice_ids)) == 12
    assert_same_as_pydicom(volume, files)
    report = volume.report.to_dict()
    assert (report["slices"], report["rows"], report["columns"]) == hu.shape
    assert report["spacing_mm"] == [2.5, 0.8, 0.6]
    assert (report["hu_min"], report["hu_max"]) == (hu.min(), hu.max())
    assert report["modality"] == "CT"
    assert report["transfer_syntaxes"] == [uids.EXPLICIT_LITTLE]


def test_names_and_instance_numbers_do_not_matter(tmp_path, hu):
    numbers = list(range(12, 0, -1))
    write_series(hu, tmp_path, shuffle=True, instance_numbers=numbers)
    volume = read_ct(tmp_path)
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.source_index == [number - 1 for number in numbers]


@pytest.mark.parametrize(
    "syntax",
    [
        uids.IMPLICIT_LITTLE,
        uids.BIG_ENDIAN,
        uids.DEFLATED,
        uids.RLE,
        uids.JPEG_LOSSLESS_SV1,
        uids.JPEG_LS,
        uids.JPEG_2000_LOSSLESS,
    ],
)
def test_every_lossless_syntax(tmp_path, hu, syntax):
    write_series(hu, tmp_path, transfer_syntax=syntax)
    volume = read_ct(tmp_path, workers=2)
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.report.transfer_syntaxes == [syntax]


@pytest.mark.parametrize(
    "options",
    [
        {"signed": False},
        {"signed": False, "bits_stored": 12},
        {"signed": True, "intercept": 0.0},
        {"photometric": "MONOCHROME1", "signed": False, "bits_stored": 12},
        {"bits_allocated": 8, "bits_stored": 8, "signed": False, "slope": 16.0},
        {"slope": 0.5},
        {"meta": False, "preamble": False, "transfer_syntax": uids.IMPLICIT_LITTLE},
    ],
    ids=str,
)
def test_every_way_of_storing(tmp_path, hu, options):
    stored = hu
    if options.get("slope") == 16.0:
        stored = ((np.clip(hu, -1024, 3000) + 1024) // 16 * 16 - 1024).astype(np.int16)
    write_series(stored, tmp_path, **options)
    np.testing.assert_array_equal(read_ct(tmp_path).hu, stored)


@pytest.mark.parametrize("vr", ["US", "SS"])
def test_padding_becomes_air(tmp_path, hu, vr):
    outside = np.zeros(hu.shape, bool)
    outside[:, :4, :5] = True
    write_series(hu, tmp_path, padding_mask=outside, padding_value=-2000, padding_vr=vr)
    volume = read_ct(tmp_path)
    np.testing.assert_array_equal(volume.hu, np.where(outside, -1024, hu))
    assert codes(volume) == {"pixel_padding": "info"}
    assert volume.report.hu_min == -1024


# --- how the patient lies ---------------------------------------------------------------------

UPRIGHT = [
    (sign_1 * np.roll([1, 0, 0], turn), sign_2 * np.roll([0, 1, 0], -turn if turn else 0))
    for turn, sign_1, sign_2 in itertools.product((0, 1), (1, -1), (1, -1))
]


@pytest.mark.parametrize("axes", UPRIGHT, ids=lambda axes: f"{axes[0]}{axes[1]}")
@pytest.mark.parametrize("shape", [(10, 48, 40), (10, 32, 32)])
def test_every_way_of_lying(tmp_path, axes, shape):
    stored = body(*shape)
    orientation = tuple(map(float, np.concatenate(axes)))
    files = write_series(stored, tmp_path, orientation=orientation, spacing=(2.0, 0.8, 0.6))
    volume = read_ct(tmp_path)
    assert volume.affine[2, 0] > 0
    assert volume.affine[1, 1] > 0
    assert volume.affine[0, 2] > 0
    assert_same_as_pydicom(volume, files)
    assert volume.hu.flags.c_contiguous


@pytest.mark.parametrize("axes", UPRIGHT, ids=lambda axes: f"{axes[0]}{axes[1]}")
def test_fitting_while_reading_is_fitting_afterwards(tmp_path, axes):
    write_series(body(9, 48, 41), tmp_path, orientation=tuple(map(float, np.concatenate(axes))))
    whole = read_ct(tmp_path)
    fitted = read_ct(tmp_path, in_plane=24)
    np.testing.assert_array_equal(fitted.hu, fit_in_plane(whole.hu, 24))
    # the report tells of the scan, whatever the volume was read for
    assert fitted.report.to_dict() == whole.report.to_dict()
    assert (fitted.report.rows, fitted.report.columns) == whole.hu.shape[1:]
    assert fitted.spacing[1:] != pytest.approx(fitted.report.spacing_mm[1:])
    assert whole.spacing == pytest.approx(fitted.report.spacing_mm)
    # the field's outer corner stays where it was: half a voxel before the first, padding included
    side = max(whole.hu.shape[1:])
    before = [(side - length) // 2 for length in whole.hu.shape[1:]]
    corner = whole.affine @ [0, -0.5 - before[0], -0.5 - before[1], 1]
    np.testing.assert_allclose(fitted.affine @ [0, -0.5, -0.5, 1], corner, atol=1e-9)
    np.testing.assert_allclose(
        fitted.affine @ [8, 23.5, 23.5, 1],
        whole.affine @ [8, side - 0.5 - before[0], side - 0.5 - before[1], 1],
        atol=1e-9,
    )
    assert (fitted.report.hu_min, fitted.report.hu_max) == (whole.hu.min(), whole.hu.max())


def test_one_memory_for_scan_after_scan(tmp_path, hu):
    """Larger, smaller, turned, with a slice missing: each as in memory of its own."""
    kept = np.delete(np.arange(12), 5)
    write_series(hu, tmp_path / "whole")
    write_series(hu[::2], tmp_path / "short")
    write_series(body(9, 48, 41), tmp_path / "turned", orientation=(0.0, 1, 0, 1, 0, 0))
    write_series(hu[kept], tmp_path / "gap", positions=heights(*(2.5 * kept)))
    memory = VolumeMemory()
    for name, in_plane in itertools.product(("whole", "short", "turned", "gap"), (None, 20)):
        before = memory.array((1,))
        options = {"policy": "repair", "in_plane": in_plane}
        volume = read_ct(tmp_path / name, memory=memory, **options)
        alone = read_ct(tmp_path / name, **options)
        np.testing.assert_array_equal(volume.hu, alone.hu)
        assert volume.report.to_dict() == alone.report.to_dict()
        if (name, in_plane) in (("short", None), ("turned", 20)):
            assert np.shares_memory(volume.hu, before)


def test_memory_is_kept_within_bounds():
    memory = VolumeMemory(most_bytes=4000)
    first = memory.array((10, 10, 10))
    assert (first.shape, first.dtype) == ((10, 10, 10), np.int16)
    assert np.shares_memory(first, memory.array((2, 500)))
    assert not np.shares_memory(first, memory.array((20, 10, 10)))  # grown, the old one let go
    large = memory.array((2001,))
    assert not np.shares_memory(large, memory.array((2000,)))
    assert not np.shares_memory(large, memory.array((2001,)))


def test_an_oblique_scan(tmp_path):
    angle = np.deg2rad(7)
    axes = (np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0)
    files = write_series(body(), tmp_path, orientation=axes)
    volume = read_ct(tmp_path)
    assert volume.report.oblique_degrees == pytest.approx(7, abs=1e-3)
    assert_same_as_pydicom(volume, files)


# --- enhanced multi-frame ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "order", [range(12), range(11, -1, -1), [5, 0, 11, 3, 1, 2, 4, 10, 9, 6, 8, 7]]
)
def test_enhanced_frames_in_any_order(tmp_path, hu, order):
    path = write_enhanced(hu, tmp_path / "enhanced.dcm", order=list(order))
    volume = read_ct(path)
    np.testing.assert_array_equal(volume.hu, hu)
    frame = {slice_index: place for place, slice_index in enumerate(order)}
    assert volume.source_index == [frame[index] for index in range(12)]
    assert volume.slice_ids[0].endswith(f"#{frame[0] + 1}")


def test_enhanced_frames_with_a_rescale_each(tmp_path, hu):
    rescales = [(1.0, -1024.0 - place) for place in range(12)]
    path = write_enhanced(hu, tmp_path / "enhanced.dcm", rescale_per_frame=rescales)
    np.testing.assert_array_equal(read_ct(path).hu, hu)


def test_a_frame_is_named_in_messages(tmp_path, hu):
    positions = np.column_stack([np.zeros((12, 2)), 2.5 * np.arange(12)])
    positions[7:, 2] += 2.5
    path = write_enhanced(hu, tmp_path / "enhanced.dcm", positions=positions)
    assert "enhanced.dcm frame 8" in str(expect("missing_slice", path))


# --- what lies beside -------------------------------------------------------------------------


def test_trees_zips_and_bystanders(tmp_path, hu):
    names = [f"tree/{number % 3}/IM{number}" for number in range(12)]
    write_series(hu, tmp_path / "scan", file_names=names)
    (tmp_path / "scan" / "readme.txt").write_text("not an image")
    (tmp_path / "scan" / "tree" / "notes").write_text("neither is this, and it is long enough " * 9)
    volume = read_ct(tmp_path / "scan")
    np.testing.assert_array_equal(volume.hu, hu)
    assert codes(volume) == {"not_dicom_ignored": "info"}
    archive = shutil.make_archive(tmp_path / "packed", "zip", tmp_path / "scan")
    np.testing.assert_array_equal(read_ct(archive).hu, hu)


def test_a_zip_in_a_zip_says_what_to_do(tmp_path, hu):
    write_series(hu, tmp_path / "scan")
    inner = shutil.make_archive(tmp_path / "inner", "zip", tmp_path / "scan")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as outer:
        outer.write(inner, "inner.zip")
    assert "zip" in str(expect("no_dicom", tmp_path / "outer.zip"))


def scout(folder, orientation=(0, 1, 0, 0, 0, -1), rows=48, columns=40, **options):
    """One plane of another orientation, of the volume's matrix unless told otherwise."""
    return write_series(
        body(1, rows, columns),
        folder,
        orientation=tuple(map(float, orientation)),
        positions=[(0.0, -120.0, 60.0)],
        file_names=["scout.dcm"],
        **options,
    )


@pytest.mark.parametrize("key", ["series", "another"])
@pytest.mark.parametrize("orientation", [(0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)])
@pytest.mark.parametrize("policy", ["strict", "warn", "repair"])
def test_a_localizer_is_dropped_by_name(tmp_path, hu, key, orientation, policy):
    """In the same series or in one of its own, with the same matrix and calling itself AXIAL."""
    write_series(hu, tmp_path, study_key="study")
    scout(tmp_path, orientation, key=key, study_key="study",
          extra={"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]})  # fmt: skip
    volume = read_ct(tmp_path, policy)
    np.testing.assert_array_equal(volume.hu, hu)
    assert codes(volume) == {"localizer_dropped": "warning"}
    assert volume.report.findings[0].files == ["scout.dcm"]


@pytest.mark.parametrize("policy", ["strict", "warn", "repair"])
def test_a_localizer_alone_is_refused(tmp_path, policy):
    scout(tmp_path)
    assert "scout.dcm" in str(expect("not_axial", tmp_path, policy))


def test_several_series_and_the_choice(tmp_path, hu):
    write_series(hu[:6], tmp_path / "a", key="a", study_key="s", extra={"SeriesNumber": 3})
    write_series(hu, tmp_path / "b", key="b", study_key="s", extra={"SeriesNumber": 5})
    volume = read_ct(tmp_path)
    np.testing.assert_array_equal(volume.hu, hu)
    assert codes(volume) == {"several_series": "warning"}
    listed = find_series(tmp_path)
    assert [(info.series_number, info.slices, info.chosen) for info in listed] == [
        (3, 6, False),
        (5, 12, True),
    ]
    for name in ("#1", 3, "3", listed[0].series_instance_uid):
        np.testing.assert_array_equal(read_ct(tmp_path, series=name).hu, hu[:6])
    expect("no_such_series", tmp_path, series="17")


def test_several_studies_are_an_error_until_one_is_named(tmp_path, hu):
    write_series(hu, tmp_path / "a", key="a", extra={"SeriesNumber": 3})
    write_series(hu[:8], tmp_path / "b", key="b", extra={"SeriesNumber": 4})
    for policy in ("strict", "warn", "repair"):
        expect("several_studies", tmp_path, policy)
    np.testing.assert_array_equal(read_ct(tmp_path, series=4).hu, hu[:8])


def test_other_dicom_objects_are_left_out(tmp_path, hu):
    write_series(hu, tmp_path, study_key="s")
    write_series(hu[:1], tmp_path, key="mr", study_key="s", file_names=["mr.dcm"],
                 extra={"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"})  # fmt: skip
    volume = read_ct(tmp_path)
    np.testing.assert_array_equal(volume.hu, hu)
    assert codes(volume) == {"not_ct_dropped": "info"}


def test_headers_as_trimmed_as_rsnas(tmp_path, hu, caplog, recwarn):
    write_series(
        hu,
        tmp_path,
        patient_id=None,
        extra={"SOPClassUID": "a3f5b1c2d4e6", "StudyInstanceUID": "6897fa9de148",
               "SeriesInstanceUID": "2bfbb7fd2e8b"},
        missing=["InstanceNumber", "FrameOfReferenceUID", "Manufacturer", "ImageType"],
    )  # fmt: skip
    np.testing.assert_array_equal(read_ct(tmp_path).hu, hu)
    assert not caplog.records
    assert not recwarn.list


def test_no_modality_and_no_rescale(tmp_path, hu):
    write_series(hu, tmp_path, intercept=0.0,
                 missing=["Modality", "RescaleSlope", "RescaleIntercept", "PatientID"])  # fmt: skip
    volume = read_ct(tmp_path)
    np.testing.assert_array_equal(volume.hu, hu)
    assert codes(volume) == {"missing_modality": "info", "missing_rescale": "warning"}


def test_values_that_are_no_hu(tmp_path, hu):
    write_series(hu, tmp_path / "raw", signed=False, missing=["RescaleSlope", "RescaleIntercept"])
    volume = read_ct(tmp_path / "raw")
    assert codes(volume) == {"missing_rescale": "warning", "implausible_hu": "warning"}
    write_series(hu - 1024, tmp_path / "twice", intercept=0.0)
    assert "implausible_hu" in codes(read_ct(tmp_path / "twice"))
    write_series(np.full_like(hu, -1000), tmp_path / "air")
    assert "implausible_hu" in codes(read_ct(tmp_path / "air"))


# --- defects of geometry, with the pixels -----------------------------------------------------


def heights(*z) -> np.ndarray:
    return np.column_stack([np.zeros((len(z), 2)), z])


def test_missing_slice(tmp_path, hu):
    kept = np.delete(np.arange(12), 5)
    write_series(hu[kept], tmp_path, positions=heights(*(2.5 * kept)))
    error = expect("missing_slice", tmp_path)
    assert error.findings[0]["expected_mm"] == 2.5
    assert error.findings[0]["found_mm"] == 5.0
    warned = read_ct(tmp_path, "warn")
    np.testing.assert_array_equal(warned.hu, hu[kept])
    assert warned.report.affine_error_mm == 2.5
    repaired = read_ct(tmp_path, "repair")
    assert repaired.hu.shape == hu.shape
    np.testing.assert_array_equal(repaired.hu[kept], hu[kept])
    assert repaired.slice_ids[5] is None
    assert repaired.source_index[5] is None
    mean = (hu[4].astype(float) + hu[6]) / 2
    np.testing.assert_array_equal(repaired.hu[5], np.rint(mean))
    assert repaired.report.affine_error_mm == 0.0
    fitted = read_ct(tmp_path, "repair", in_plane=20)
    assert np.abs(fitted.hu.astype(int) - fit_in_plane(repaired.hu, 20)).max() <= 1


def test_a_wide_hole_is_not_filled(tmp_path, hu):
    kept = np.delete(np.arange(12), [5, 6])
    write_series(hu[kept], tmp_path, positions=heights(*(2.5 * kept)))
    expect("missing_slice", tmp_path, "repair")
    assert len(read_ct(tmp_path, "warn")) == 10


def test_two_far_parts_are_no_volume_under_any_policy(tmp_path, hu):
    z = np.concatenate([2.5 * np.arange(6), 400 + 2.5 * np.arange(6)])
    write_series(hu, tmp_path, positions=heights(*z))
    for policy in ("strict", "warn", "repair"):
        assert "no one volume" in str(expect("missing_slice", tmp_path, policy))


def test_slices_that_share_a_uid(tmp_path, hu):
    write_series(hu, tmp_path, slice_extra=[{"SOPInstanceUID": "1.2.3"}] * 12)
    volume = read_ct(tmp_path)
    np.testing.assert_array_equal(volume.hu, hu)
    assert codes(volume) == {"duplicate_uid": "warning"}


def test_what_is_no_ct_is_named(tmp_path, hu):
    write_series(hu, tmp_path, extra={"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"})
    error = expect("not_ct", tmp_path)
    assert "econdary" in str(error)
    assert "11 more alike" in str(error)


def test_uneven_spacing(tmp_path, hu):
    z = 2.5 * np.arange(12)
    z[[3, 7]] += [0.8, -0.6]
    write_series(hu, tmp_path, positions=heights(*z))
    expect("uneven_spacing", tmp_path)
    warned = read_ct(tmp_path, "warn")
    np.testing.assert_array_equal(warned.hu, hu)
    assert warned.report.affine_error_mm == pytest.approx(0.8)
    repaired = read_ct(tmp_path, "repair")
    assert repaired.spacing[0] == pytest.approx(2.5)
    for index in range(12):
        expected = [np.interp(2.5 * index, z, hu[:, row, 20]) for row in range(48)]
        np.testing.assert_allclose(repaired.hu[index, :, 20], expected, atol=0.51)


def test_gantry_tilt(tmp_path, hu):
    angle = np.deg2rad(-18.5)
    axes = (1, 0, 0, 0, np.cos(angle), np.sin(angle))
    files = write_series(hu, tmp_path, orientation=axes, positions=heights(*(2.5 * np.arange(12))),
                         extra={"GantryDetectorTilt": -18.5})  # fmt: skip
    expect("gantry_tilt", tmp_path)
    warned = read_ct(tmp_path, "warn")
    assert_same_as_pydicom(warned, files)
    assert warned.spacing[0] == pytest.approx(2.5 * np.cos(angle))
    repaired = read_ct(tmp_path, "repair")
    directions = repaired.affine[:3, :3] / np.linalg.norm(repaired.affine[:3, :3], axis=0)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-9)
    assert repaired.hu.shape[1] > 48
    # the mean of each slice above air is kept: nothing left the field of view
    for index in range(12):
        kept = (repaired.hu[index].astype(float) + 1024).sum()
        assert kept == pytest.approx((hu[index].astype(float) + 1024).sum(), rel=1e-3)
    fitted = read_ct(tmp_path, "repair", in_plane=30)
    np.testing.assert_array_equal(fitted.hu, fit_in_plane(repaired.hu, 30))


@pytest.mark.parametrize(
    "turn", [(1, 1, False), (-1, -1, False), (-1, 1, False), (1, -1, True), (-1, 1, True)]
)
def test_tilt_of_a_patient_who_lies_otherwise(tmp_path, hu, turn):
    """The centre of each plane's tissue stays where its own header puts it, whatever is flipped."""
    angle = np.deg2rad(12)
    across, down = np.array([1.0, 0, 0]), np.array([0, np.cos(angle), np.sin(angle)])
    first, second, swap = turn
    axes = np.concatenate(
        [second * down, first * across] if swap else [first * across, second * down]
    )
    positions = heights(*(2.5 * np.arange(12)))
    write_series(hu, tmp_path, orientation=tuple(axes), positions=positions)
    volume = read_ct(tmp_path, "repair")
    assert volume.report.codes() == {"gantry_tilt", "oblique", "overlap"}

    def centre(plane):
        weights = plane.astype(float) + 1024  # linear: interpolation keeps its centre
        rows, columns = np.indices(plane.shape)
        return [(weights * grid).sum() / weights.sum() for grid in (rows, columns)]

    for index in range(12):
        row, column = centre(hu[index])
        expected = positions[index] + 0.7 * (column * axes[:3] + row * axes[3:])
        found = volume.position(index, *centre(volume.hu[index]))
        np.testing.assert_allclose(found, expected, atol=0.02)


def test_duplicates(tmp_path, hu):
    files = write_series(hu, tmp_path)
    shutil.copy(files[4], tmp_path / "copy.dcm")
    for policy in ("strict", "warn", "repair"):
        volume = read_ct(tmp_path, policy)
        np.testing.assert_array_equal(volume.hu, hu)
        assert codes(volume) == {"duplicate_position": "warning"}
    (tmp_path / "copy.dcm").unlink()
    write_series(hu[:1] + 1, tmp_path, positions=heights(10.0), file_names=["twin.dcm"],
                 instance_numbers=[99])  # fmt: skip
    error = expect("duplicate_position", tmp_path)
    assert "twin.dcm" in str(error)
    for policy in ("warn", "repair"):
        np.testing.assert_array_equal(read_ct(tmp_path, policy).hu, hu)


def test_two_acquisitions(tmp_path, hu):
    write_series(hu, tmp_path / "1", extra={"AcquisitionNumber": 1})
    write_series(hu + 3, tmp_path / "2", extra={"AcquisitionNumber": 2},
                 instance_numbers=range(13, 25))  # fmt: skip
    expect("several_acquisitions", tmp_path)
    np.testing.assert_array_equal(read_ct(tmp_path, "warn").hu, hu)


def test_a_stray_of_another_matrix(tmp_path, hu):
    write_series(hu, tmp_path)
    write_series(body(1, 30, 30), tmp_path, file_names=["stray.dcm"], positions=heights(100.0))
    assert "stray.dcm" in str(expect("mixed_matrix", tmp_path))
    np.testing.assert_array_equal(read_ct(tmp_path, "warn").hu, hu)


def test_positions_are_needed(tmp_path, hu):
    write_series(hu, tmp_path, missing=["ImagePositionPatient"])
    for policy in ("strict", "warn", "repair"):
        assert "nor file names" in str(expect("no_position", tmp_path, policy))


# --- bad input --------------------------------------------------------------------------------


def test_too_little(tmp_path, hu):
    (tmp_path / "empty").mkdir()
    expect("empty_folder", tmp_path / "empty")
    expect("path_not_found", tmp_path / "nowhere")
    files = write_series(hu[:1], tmp_path / "one")
    for policy in ("strict", "warn", "repair"):
        expect("single_slice", tmp_path / "one", policy)
        expect("single_slice", files[0], policy)
    write_series(hu[:2], tmp_path / "two")
    assert codes(read_ct(tmp_path / "two")) == {"too_few_slices": "warning"}


def test_arrays_and_unknown_words_are_refused(tmp_path, hu):
    expect("bad_path", hu)
    expect("bad_policy", tmp_path, "lenient")
    expect("bad_in_plane", tmp_path, in_plane=0)
    expect("bad_in_plane", tmp_path, in_plane=2.5)
    expect("bad_path", "")
    expect("bad_path", b"scan")


def test_a_home_folder_is_found(tmp_path, hu, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write_series(hu, tmp_path / "scan")
    np.testing.assert_array_equal(read_ct("~/scan").hu, hu)
    assert "nowhere" in str(expect("path_not_found", "~/nowhere"))


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_to_nowhere_is_a_damaged_file(tmp_path, hu):
    write_series(hu, tmp_path)
    (tmp_path / "broken.dcm").symlink_to(tmp_path / "gone" / "broken.dcm")
    expect("unreadable_file", tmp_path)
    volume = read_ct(tmp_path, "warn")
    np.testing.assert_array_equal(volume.hu, hu)
    assert codes(volume) == {"unreadable_file": "warning"}


PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8


@pytest.mark.parametrize("content", [PNG, b"some text\n" * 100, b""], ids=["png", "text", "empty"])
def test_a_file_that_only_calls_itself_dicom(tmp_path, hu, content):
    write_series(hu, tmp_path / "scan")
    fake = tmp_path / "scan" / "fake.dcm"
    fake.write_bytes(content)
    assert "fake.dcm" in str(expect("unreadable_file", tmp_path / "scan"))
    volume = read_ct(tmp_path / "scan", "warn")
    np.testing.assert_array_equal(volume.hu, hu)
    assert codes(volume) == {"unreadable_file": "warning"}
    alone = tmp_path / "alone.dcm"
    alone.write_bytes(content)
    with pytest.raises(CTReadError, match=r"alone\.dcm"):
        read_ct(alone)


@pytest.mark.parametrize(
    "syntax", [uids.EXPLICIT_LITTLE, uids.JPEG_LOSSLESS_SV1, uids.RLE, uids.DEFLATED]
)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file_among_good_ones(tmp_path, hu, syntax, share):
    files = write_series(hu, tmp_path, transfer_syntax=syntax)
    data = files[5].read_bytes()
    files[5].write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CTReadError, match=files[5].name):
        read_ct(tmp_path)
    warned = read_ct(tmp_path, "warn")
    np.testing.assert_array_equal(warned.hu, np.delete(hu, 5, axis=0))
    assert {"unreadable_file", "missing_slice"} <= set(codes(warned))
    repaired = read_ct(tmp_path, "repair")
    assert repaired.hu.shape == hu.shape
    assert repaired.slice_ids[5] is None


def test_every_file_truncated(tmp_path, hu):
    for file in write_series(hu, tmp_path):
        file.write_bytes(file.read_bytes()[:-500])
    for policy in ("strict", "warn", "repair"):
        with pytest.raises(CTReadError):
            read_ct(tmp_path, policy)


def test_an_error_carries_the_findings(tmp_path, hu):
    kept = np.delete(np.arange(12), 5)
    write_series(hu[kept], tmp_path, positions=heights(*(2.5 * kept)), study_key="s")
    scout(tmp_path, key="scout", study_key="s")
    error = expect("missing_slice", tmp_path)
    assert {"missing_slice", "localizer_dropped"} <= {finding["code"] for finding in error.findings}
