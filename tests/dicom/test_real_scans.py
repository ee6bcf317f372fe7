"""Real scans, each with its own trap, against pydicom and SimpleITK, voxel by voxel.

CT_VIDEO_HF_REAL_DATA names the folder; what lies there and where it comes from is in its README.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from ct_video_hf.dicom import CTReadError, read_ct
from tests.support.reference import assert_same_as_pydicom, lps_affine, simpleitk_volume

ROOT = os.environ.get("CT_VIDEO_HF_REAL_DATA")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(ROOT is None, reason="CT_VIDEO_HF_REAL_DATA names no folder"),
]

SLAB = "lidc/LIDC-IDRI-0132_scanA_HFS_z370_400"

#: folder -> policy -> what is expected: the error's code, or (shape, spacing, codes).
ALL = ("strict", "warn", "repair")
EXPECTED = {
    SLAB: dict.fromkeys(ALL, ((10, 512, 512), (3.0, 0.537109375, 0.537109375), set())),
    "rsna_demo": dict.fromkeys(
        ALL, ((12, 512, 512), (2.0, 0.5234375, 0.5234375), {"not_dicom_ignored"})
    ),
    "rsna_demo/train": dict.fromkeys(ALL, ((12, 512, 512), (2.0, 0.5234375, 0.5234375), set())),
    "geometry": dict.fromkeys(ALL, "several_studies"),
    "geometry/Philips_localizer": dict.fromkeys(ALL, "not_axial"),
    "geometry/Philips_tilt_neg18.5": {
        "strict": "gantry_tilt",
        "warn": (
            (6, 512, 512),
            (2.370809, 0.482422, 0.482422),
            {"gantry_tilt", "oblique", "overlap", "too_few_slices"},
        ),
        "repair": (
            (6, 521, 512),
            (2.370809, 0.482422, 0.482422),
            {"gantry_tilt", "oblique", "overlap", "too_few_slices"},
        ),
    },
    "geometry/missing_slice": {
        "strict": "missing_slice",
        "warn": (
            (4, 512, 512),
            (5.0, 0.429688, 0.429688),
            {"missing_slice", "approximate_affine", "implausible_hu", "too_few_slices"},
        ),
        "repair": (
            (5, 512, 512),
            (5.0, 0.429688, 0.429688),
            {"missing_slice", "implausible_hu", "too_few_slices"},
        ),
    },
    "geometry/dcmqi_ct-3slice": dict.fromkeys(
        ALL,
        ((3, 512, 512), (1.0, 0.810547, 0.810547), {"overlap", "pixel_padding", "too_few_slices"}),
    ),
    "geometry/torchio_ct": dict.fromkeys(
        ALL, ((17, 128, 88), (2.0, 2.0, 2.0), {"implausible_hu", "not_hu"})
    ),
    "geometry/lungmask": dict.fromkeys(
        ALL,
        (
            (2, 512, 512),
            (1.0, 0.625, 0.625),
            {"missing_modality", "too_few_slices", "undeclared_padding"},
        ),
    ),
    "nifti/example_ct_sm.nii.gz": dict.fromkeys(ALL, ((30, 101, 122), (3.0, 3.0, 3.0), set())),
    "nifti/ts_pulmonary_ct_cropped_LPS.nii.gz": dict.fromkeys(
        ALL, ((112, 102, 122), (1.5, 1.5, 1.5), set())
    ),
}


def files_in(folder: Path) -> list[Path]:
    import pydicom.misc

    return [
        file for file in sorted(folder.rglob("*")) if file.is_file() and pydicom.misc.is_dicom(file)
    ]


@pytest.mark.parametrize("policy", ALL)
@pytest.mark.parametrize("name", EXPECTED)
def test_what_each_policy_makes_of_it(name, policy):
    path = Path(ROOT, name)
    expected = EXPECTED[name][policy]
    if isinstance(expected, str):
        with pytest.raises(CTReadError) as caught:
            read_ct(path, policy)
        assert caught.value.code == expected
        return
    shape, spacing, codes = expected
    volume = read_ct(path, policy)
    assert volume.hu.shape == shape
    assert volume.spacing == pytest.approx(spacing, abs=1e-5)
    assert volume.report.codes() == codes
    assert all(volume.affine[axis, 2 - axis] > 0 for axis in range(3))


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        (SLAB, "strict"),
        ("rsna_demo", "strict"),
        ("geometry/dcmqi_ct-3slice", "strict"),
        ("geometry/torchio_ct", "strict"),
        ("geometry/lungmask", "strict"),
        ("geometry/Philips_tilt_neg18.5", "warn"),
    ],
)
def test_voxel_by_voxel_against_pydicom(name, policy):
    folder = Path(ROOT, name)
    assert_same_as_pydicom(read_ct(folder, policy), files_in(folder))


@pytest.mark.parametrize(
    "name", [SLAB, "rsna_demo", "geometry/dcmqi_ct-3slice", "geometry/lungmask"]
)
def test_voxel_by_voxel_against_simpleitk(name):
    pytest.importorskip("SimpleITK", reason="SimpleITK comes with the benchmark extra")
    import SimpleITK

    volume = read_ct(Path(ROOT, name))
    files = files_in(Path(ROOT, name))
    heights = SimpleITK.ImageFileReader()

    def height(file):
        heights.SetFileName(str(file))
        heights.ReadImageInformation()
        return heights.GetOrigin()[2]

    image = simpleitk_volume(sorted(files, key=height))
    array = SimpleITK.GetArrayFromImage(image)
    padding = {finding.code for finding in volume.report.findings} & {"pixel_padding"}
    if padding:
        array = np.where(array == -3024, -1024, array)
    np.testing.assert_array_equal(volume.hu, array)
    if name == "rsna_demo":  # GDCM finds no pixel spacing under a SOP class that it does not know
        assert image.GetSpacing()[:2] == (1.0, 1.0)
        image.SetSpacing((0.5234375, 0.5234375, image.GetSpacing()[2]))
    np.testing.assert_allclose(volume.affine, lps_affine(image), atol=1e-4)


def test_a_turned_scan_against_simpleitk():
    """Orientation (-1, 0, 0, 0, -1, 0): both in-plane axes are flipped."""
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK comes with the benchmark extra")
    volume = read_ct(Path(ROOT, "geometry/torchio_ct"))
    image = simpleitk_volume(files_in(Path(ROOT, "geometry/torchio_ct")))
    oriented = sitk.DICOMOrient(image, "LPS")
    np.testing.assert_array_equal(volume.hu, sitk.GetArrayFromImage(oriented))
    np.testing.assert_allclose(volume.affine, lps_affine(oriented), atol=1e-4)


@pytest.mark.parametrize(
    "name", ["nifti/example_ct_sm.nii.gz", "nifti/ts_pulmonary_ct_cropped_LPS.nii.gz"]
)
def test_nifti_against_simpleitk(name):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK comes with the benchmark extra")
    volume = read_ct(Path(ROOT, name))
    oriented = sitk.DICOMOrient(sitk.ReadImage(str(Path(ROOT, name))), "LPS")
    np.testing.assert_array_equal(volume.hu, sitk.GetArrayFromImage(oriented))
    np.testing.assert_allclose(volume.affine, lps_affine(oriented), atol=1e-3)


@pytest.mark.parametrize("name", [SLAB, "geometry/dcmqi_ct-3slice", "geometry/torchio_ct"])
def test_the_same_scan_as_nifti(name, tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK comes with the benchmark extra")
    image = simpleitk_volume(files_in(Path(ROOT, name)))
    sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
    ours, theirs = read_ct(Path(ROOT, name)), read_ct(tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(theirs.hu, ours.hu)
    np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-3)


def test_one_slice_in_every_syntax():
    """A single slice is no volume; what cannot be decoded is told before that, by its syntax."""
    files = sorted(Path(ROOT, "syntaxes").glob("CTImage*.dcm"))
    assert len(files) == 16
    for file in files:
        uid = file.name.rpartition("_")[2].removesuffix(".dcm")
        undecodable = uid.endswith((".4.53", ".4.55"))
        with pytest.raises(CTReadError) as caught:
            read_ct(file)
        assert caught.value.code == ("no_decoder" if undecodable else "single_slice"), file.name
        if undecodable:
            assert uid in str(caught.value)


def test_enhanced_frames_of_a_perfusion_map():
    """Two fragmented 12-bit JPEG frames, stored head to feet and mirrored, which are no HU."""
    file = Path(ROOT, "syntaxes/CT0012.fragmented_no_bot_jpeg_baseline.51.dcm")
    volume = read_ct(file)
    assert volume.hu.shape == (2, 512, 512)
    assert volume.spacing == pytest.approx((10.0, 0.388672, 0.388672))
    assert volume.source_index == [0, 1]
    assert volume.report.codes() == {
        "implausible_hu", "lossy_compression", "not_hu", "too_few_slices",
    }  # fmt: skip
    # stored x falls from 99.5 mm: the last stored column is the first of ours
    np.testing.assert_allclose(
        volume.affine[:3, 3], [99.5 - 511 * 0.388672, -301.5, -159.0], atol=1e-6
    )


def test_the_gap_is_named():
    with pytest.raises(CTReadError, match=r"IM-0001-0009.*28\.107.*38\.107.*5\.000.*10\.000"):
        read_ct(Path(ROOT, "geometry/missing_slice"))


def test_repair_leaves_measured_slices_alone():
    folder = Path(ROOT, "geometry/missing_slice")
    warned, repaired = read_ct(folder, "warn"), read_ct(folder, "repair")
    np.testing.assert_array_equal(repaired.hu[[0, 1, 2, 4]], warned.hu)
    assert repaired.slice_ids[3] is None


def test_the_unsheared_scan_lies_where_it_was():
    """Bright voxels before and after, compared in the patient's coordinates."""
    folder = Path(ROOT, "geometry/Philips_tilt_neg18.5")
    before, after = read_ct(folder, "warn"), read_ct(folder, "repair")

    def centre(volume, index):
        weights = np.clip(volume.hu[index].astype(float) + 900, 0, None)
        rows, columns = np.indices(weights.shape)
        where = [(weights * axis).sum() / weights.sum() for axis in (rows, columns)]
        return volume.position(index, *where)

    for index in range(len(before)):
        np.testing.assert_allclose(centre(before, index), centre(after, index), atol=0.05)


@pytest.mark.slow
def test_a_whole_study(tmp_path):
    """LIDC-IDRI-0001: padding announced with the wrong sign, files in an order of their own."""
    with tarfile.open(Path(ROOT, "lidc/LIDC-IDRI-0001.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    files = files_in(tmp_path)
    volume = read_ct(tmp_path)
    assert volume.hu.shape == (133, 512, 512)
    assert volume.spacing == pytest.approx((2.5, 0.703125, 0.703125))
    assert_same_as_pydicom(volume, files)
    assert volume.source_index == list(range(132, -1, -1))
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK comes with the benchmark extra")
    reader = sitk.ImageSeriesReader()
    image = simpleitk_volume(reader.GetGDCMSeriesFileNames(str(files[0].parent)))
    np.testing.assert_array_equal(volume.hu, sitk.GetArrayViewFromImage(image))
    np.testing.assert_allclose(volume.affine, lps_affine(image), atol=1e-4)
    sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
    np.testing.assert_array_equal(read_ct(tmp_path / "ct.nii.gz").hu, volume.hu)
    fitted = read_ct(tmp_path, in_plane=256)
    assert fitted.spacing == pytest.approx((2.5, 1.40625, 1.40625))
    np.testing.assert_allclose(
        fitted.position(0, -0.5, -0.5), volume.position(0, -0.5, -0.5), atol=1e-9
    )
