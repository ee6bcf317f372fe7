"""NIfTI gives the volume of the DICOM it came from, however its axes are stored."""

from __future__ import annotations

import gzip
import itertools

import nibabel
import numpy as np
import pytest

from ct_video_hf.dicom import CTReadError, CTVolume, Limits, read_ct, write_series
from ct_video_hf.dicom.resample import fit_in_plane
from tests.support.scans import body

SPACING = (2.5, 0.8, 0.6)


@pytest.fixture(scope="module")
def from_dicom(tmp_path_factory) -> CTVolume:
    folder = tmp_path_factory.mktemp("dicom")
    write_series(body(), folder, spacing=SPACING, origin=(-12.0, -20.5, 130.25))
    return read_ct(folder)


def ras(volume: CTVolume, dtype=np.int16) -> nibabel.Nifti1Image:
    """The volume with axes (column, row, slice), as converters write it."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [2, 1, 0, 3]]
    return nibabel.Nifti1Image(volume.hu.transpose(2, 1, 0).astype(dtype), affine)


def save(image, path):
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def expect(code: str, path, policy="strict", **options) -> CTReadError:
    with pytest.raises(CTReadError) as caught:
        read_ct(path, policy, **options)
    assert caught.value.code == code, str(caught.value)
    return caught.value


def assert_same(volume: CTVolume, expected: CTVolume, atol: float = 1e-4) -> None:
    np.testing.assert_array_equal(volume.hu, expected.hu)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=atol)
    assert volume.hu.dtype == np.int16
    assert volume.hu.flags.c_contiguous


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_parity(tmp_path, from_dicom, suffix):
    volume = read_ct(save(ras(from_dicom), tmp_path / f"ct{suffix}"))
    assert_same(volume, from_dicom)
    assert volume.report.source == "nifti"
    assert volume.report.codes() == from_dicom.report.codes()
    assert volume.slice_ids == [str(place) for place in range(12)]


@pytest.mark.parametrize(
    "codes", ["".join(order) for order in itertools.permutations("RAS")] + ["LPS", "LAI", "IPR"]
)
def test_parity_in_every_stored_orientation(tmp_path, from_dicom, codes):
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    image = ras(from_dicom)
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(codes)))
    turned = image.as_reoriented(turn)
    assert nibabel.aff2axcodes(turned.affine) == tuple(codes)
    volume = read_ct(save(turned, tmp_path / "ct.nii.gz"))
    assert_same(volume, from_dicom)
    along = turned.shape[[code in "SI" for code in codes].index(True)]
    assert along == 12
    expected = range(12) if "S" in codes else range(11, -1, -1)
    assert volume.source_index == list(expected)


def test_parity_with_what_simpleitk_converts(tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK comes with the benchmark extra")
    hu = body(9, 30, 42)
    for place, axes in enumerate(
        [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), (0, 1, 0, -1, 0, 0), (0.6, 0.8, 0, -0.8, 0.6, 0)]
    ):
        folder = tmp_path / str(place)
        files = write_series(hu, folder, orientation=tuple(map(float, axes)), spacing=SPACING)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames([str(file) for file in files])
        sitk.WriteImage(reader.Execute(), str(folder / "ct.nii.gz"))
        assert_same(read_ct(folder / "ct.nii.gz"), read_ct(folder))


def test_padding_is_air_on_both_roads(tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK comes with the benchmark extra")
    outside = np.zeros((12, 48, 40), bool)
    outside[:, :6, :7] = True
    files = write_series(body(), tmp_path, padding_mask=outside, padding_value=-2000)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    image = reader.Execute()
    assert sitk.GetArrayViewFromImage(image).min() == -3024
    sitk.WriteImage(image, str(tmp_path / "ct.nii"))
    volume = read_ct(tmp_path / "ct.nii")
    assert_same(volume, read_ct(tmp_path))
    assert volume.report.codes() == {"pixel_padding"}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint16])
def test_other_types(tmp_path, from_dicom, dtype):
    if dtype is np.uint16:
        image = ras(from_dicom)
        stored = (np.asarray(image.dataobj) + 1024).astype(np.uint16)
        image = nibabel.Nifti1Image(stored, image.affine)
        image.header.set_slope_inter(1, -1024)
    else:
        image = ras(from_dicom, dtype)
    assert_same(read_ct(save(image, tmp_path / "ct.nii.gz")), from_dicom)


def test_fractions_are_rounded(tmp_path, from_dicom):
    image = ras(from_dicom, np.float32)
    values = np.asarray(image.dataobj) + np.float32(0.3)
    path = save(nibabel.Nifti1Image(values, image.affine), tmp_path / "ct.nii")
    assert_same(read_ct(path), from_dicom)


def test_slope_and_intercept(tmp_path, from_dicom):
    image = ras(from_dicom)
    stored = (np.asarray(image.dataobj).astype(np.int32) // 2).astype(np.int16)
    scaled = nibabel.Nifti1Image(stored, image.affine)
    scaled.header.set_slope_inter(2.0, -3.0)
    volume = read_ct(save(scaled, tmp_path / "ct.nii.gz"))
    np.testing.assert_array_equal(volume.hu, from_dicom.hu // 2 * 2 - 3)


def test_a_fourth_axis_of_one(tmp_path, from_dicom):
    image = ras(from_dicom)
    four = nibabel.Nifti1Image(np.asarray(image.dataobj)[..., None], image.affine)
    assert_same(read_ct(save(four, tmp_path / "ct.nii")), from_dicom)
    several = nibabel.Nifti1Image(np.stack([np.asarray(image.dataobj)] * 2, -1), image.affine)
    expect("several_volumes", save(several, tmp_path / "several.nii"))


def test_lengths_in_metres(tmp_path, from_dicom):
    image = ras(from_dicom)
    affine = image.affine.copy()
    affine[:3] /= 1000
    metres = nibabel.Nifti1Image(np.asarray(image.dataobj), affine)
    metres.header.set_xyzt_units("meter")
    nibabel.save(metres, tmp_path / "ct.nii")
    assert_same(read_ct(tmp_path / "ct.nii"), from_dicom)


def test_an_oblique_grid_keeps_its_affine(tmp_path, from_dicom):
    angle = np.deg2rad(10)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    image = ras(from_dicom)
    path = save(
        nibabel.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine), tmp_path / "o.nii"
    )
    volume = read_ct(path)
    assert volume.report.oblique_degrees == pytest.approx(10, abs=1e-3)
    assert "oblique" in volume.report.codes()
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    np.testing.assert_allclose(volume.affine, lps @ turn @ lps @ from_dicom.affine, atol=1e-4)


@pytest.mark.parametrize("policy", ["strict", "warn", "repair"])
def test_a_sheared_grid(tmp_path, from_dicom, policy):
    image = ras(from_dicom)
    affine = image.affine.copy()
    affine[1, 2] = 0.5  # each slice half a millimetre further forward
    path = save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), tmp_path / "t.nii")
    if policy == "strict":
        assert "11.31 degrees" in str(expect("gantry_tilt", path))
        return
    volume = read_ct(path, policy)
    assert volume.report.codes() == {"gantry_tilt"}
    step = volume.affine[:3, 0]
    upright = abs(step[2]) / np.linalg.norm(step)
    assert upright == pytest.approx(1.0 if policy == "repair" else np.cos(np.deg2rad(11.31)))


def test_fitting_while_reading(tmp_path, from_dicom):
    path = save(ras(from_dicom), tmp_path / "ct.nii")
    fitted = read_ct(path, in_plane=20)
    np.testing.assert_array_equal(fitted.hu, fit_in_plane(from_dicom.hu, 20))
    assert fitted.report.to_dict() == read_ct(path).report.to_dict()
    assert (fitted.report.rows, fitted.report.columns) == from_dicom.hu.shape[1:]
    assert fitted.report.spacing_mm == from_dicom.report.spacing_mm


# --- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_numbers(tmp_path, from_dicom, value):
    image = ras(from_dicom, np.float32)
    values = np.array(image.dataobj)
    values[3, 4, 5] = value
    expect("not_a_number", save(nibabel.Nifti1Image(values, image.affine), tmp_path / "n.nii"))


def test_colour_and_complex(tmp_path, from_dicom):
    image = ras(from_dicom)
    colour = np.zeros(image.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    expect("not_ct", save(nibabel.Nifti1Image(colour, image.affine), tmp_path / "rgb.nii"))
    expect("not_ct", save(ras(from_dicom, np.complex64), tmp_path / "complex.nii"))


def test_a_single_plane(tmp_path, from_dicom):
    image = ras(from_dicom)
    values = np.asarray(image.dataobj)
    expect(
        "single_slice", save(nibabel.Nifti1Image(values[..., 0], image.affine), tmp_path / "a.nii")
    )
    expect(
        "single_slice", save(nibabel.Nifti1Image(values[..., :1], image.affine), tmp_path / "b.nii")
    )


def test_neither_form(tmp_path, from_dicom):
    image = ras(from_dicom)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    path = save(image, tmp_path / "ct.nii")
    expect("no_nifti_orientation", path)
    assert "no_nifti_orientation" in read_ct(path, "warn").report.codes()


def test_forms_that_disagree(tmp_path, from_dicom):
    image = ras(from_dicom)
    other = image.affine.copy()
    other[0, 3] += 5
    image.set_sform(image.affine, 1)
    image.set_qform(other, 1)
    path = save(image, tmp_path / "ct.nii")
    assert expect("nifti_forms_disagree", path).findings[0]["found_mm"] == pytest.approx(5)
    assert_same(read_ct(path, "warn"), from_dicom)


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_damaged_files(tmp_path, from_dicom, name):
    path = save(ras(from_dicom), tmp_path / name)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    expect("truncated_file", path)
    path.write_bytes(data[:100])
    with pytest.raises(CTReadError):
        read_ct(path)
    path.write_bytes(b"some text\n" * 50)
    expect("unreadable_file", path)
    path.write_bytes(gzip.compress(b"some text\n" * 50))
    expect("unreadable_file", path)
    expect("path_not_found", tmp_path / "none.nii")


@pytest.mark.parametrize("place", [-6, 0.5])
def test_a_damaged_gzip_is_refused_though_it_expands(tmp_path, from_dicom, place):
    """Only the checksum at the end tells that voxels changed."""
    path = save(ras(from_dicom), tmp_path / "ct.nii.gz")
    stored = bytearray(
        gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0)  # stored as it is
    )
    stored[place if place < 0 else int(len(stored) * place)] ^= 0xFF
    path.write_bytes(stored)
    expect("truncated_file", path)


def test_a_negative_dimension_is_refused(tmp_path, from_dicom):
    path = save(ras(from_dicom), tmp_path / "ct.nii")
    data = bytearray(path.read_bytes())
    data[42:44] = (-5).to_bytes(2, "little", signed=True)
    path.write_bytes(data)
    expect("no_pixel_data", path)


def test_a_folder_named_as_nifti_is_a_folder(tmp_path, from_dicom):
    write_series(from_dicom.hu, tmp_path / "study.nii")
    np.testing.assert_array_equal(read_ct(tmp_path / "study.nii").hu, from_dicom.hu)


def test_limits_hold_before_anything_is_read(tmp_path, from_dicom):
    path = save(ras(from_dicom), tmp_path / "ct.nii.gz")
    assert "max_voxels" in str(expect("too_large", path, limits=Limits(max_voxels=1000)))


def test_series_means_nothing_here(tmp_path, from_dicom):
    expect("no_such_series", save(ras(from_dicom), tmp_path / "ct.nii"), series=2)
