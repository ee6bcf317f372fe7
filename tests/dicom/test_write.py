"""The writer, judged by pydicom: what it writes is what another reader reads."""

import warnings

import numpy as np
import pydicom
import pytest

from ct_video_hf.dicom import syntax as uids
from ct_video_hf.dicom.write import uid_from, write_series
from ct_video_hf.dicom.write_enhanced import write_enhanced
from ct_video_hf.errors import CTVideoError

LOSSLESS = [
    uids.EXPLICIT_LITTLE, uids.IMPLICIT_LITTLE, uids.BIG_ENDIAN, uids.DEFLATED, uids.RLE,
    uids.JPEG_LOSSLESS, uids.JPEG_LOSSLESS_SV1, uids.JPEG_LS, uids.JPEG_2000_LOSSLESS,
    uids.HTJ2K_LOSSLESS,
]  # fmt: skip


def some_hu(shape=(3, 20, 22), low=-1024, high=1500):
    return np.random.default_rng(0).integers(low, high, shape).astype(np.int16)


def read_with_pydicom(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the files are clean: pydicom has nothing to say
        dataset = pydicom.dcmread(path)
        return dataset, dataset.pixel_array.astype(np.float64)


@pytest.mark.parametrize(("signed", "bits"), [(True, 16), (True, 13), (False, 12), (False, 16)])
@pytest.mark.parametrize("transfer_syntax", LOSSLESS)
def test_pydicom_reads_the_same_hu(tmp_path, transfer_syntax, signed, bits):
    hu = some_hu()
    paths = write_series(
        hu, tmp_path, transfer_syntax=transfer_syntax, signed=signed, bits_stored=bits
    )
    for plane, path in zip(hu, paths, strict=True):
        dataset, pixels = read_with_pydicom(path)
        assert dataset.file_meta.TransferSyntaxUID == transfer_syntax
        np.testing.assert_array_equal(pixels + float(dataset.RescaleIntercept), plane)


def test_geometry_goes_where_it_is_asked(tmp_path):
    paths = write_series(
        some_hu(), tmp_path, spacing=(3.0, 0.5, 0.6), origin=(-10.5, 20.25, -700.125)
    )
    dataset = pydicom.dcmread(paths[2])
    assert list(dataset.ImagePositionPatient) == [-10.5, 20.25, -694.125]
    assert list(dataset.PixelSpacing) == [0.5, 0.6]
    assert list(dataset.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    first = write_series(some_hu(), tmp_path / "a", key="k", shuffle=True)
    second = write_series(some_hu(), tmp_path / "b", key="k", shuffle=True)
    other = write_series(some_hu(), tmp_path / "c", key="other", shuffle=True)
    assert [p.name for p in first] == [p.name for p in second]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert first[0].read_bytes() != other[0].read_bytes()
    assert uid_from("a") != uid_from("b")
    assert len(uid_from("a")) <= 64


def test_defects_are_written_as_asked(tmp_path):
    mask = np.zeros((3, 20, 22), bool)
    mask[:, 0] = True
    paths = write_series(
        some_hu(),
        tmp_path,
        padding_mask=mask,
        padding_value=-2000,
        padding_vr="US",
        extra={"PatientName": "A^B", (0x0009, 0x1001, "LO"): "private"},
        slice_extra=[{"AcquisitionNumber": 7}, {}, {}],
        missing=["RescaleSlope", "Modality"],
        file_names=["a/x", "b/y", "c/z"],
    )
    dataset = pydicom.dcmread(paths[0])
    assert dataset["PixelPaddingValue"].VR in ("US", "SS")
    assert paths[0].read_bytes().count(b"\x28\x00\x20\x01US\x02\x00\x30\xf8") == 1
    assert (dataset.pixel_array[0] == -2000).all()
    assert dataset.AcquisitionNumber == 7
    assert dataset[0x0009, 0x1001].value == "private"
    assert "RescaleSlope" not in dataset
    assert "Modality" not in dataset
    assert not list(tmp_path.rglob("*.part"))


def test_enhanced_object(tmp_path):
    hu = some_hu((4, 20, 22))
    path = write_enhanced(hu, tmp_path / "e.dcm", order=[2, 0, 3, 1], fragments=2)
    dataset, pixels = read_with_pydicom(path)
    np.testing.assert_array_equal(pixels - 1024, hu[[2, 0, 3, 1]])
    group = dataset.PerFrameFunctionalGroupsSequence[0]
    assert group.PlanePositionSequence[0].ImagePositionPatient[2] == 5.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits_stored": 8, "signed": False}, "do not fit 8 bits"),
        ({"transfer_syntax": uids.JPEG_BASELINE}, "not implemented"),
        ({"extra": {"NoSuchKeyword": 1}}, "NoSuchKeyword"),
        ({"file_names": ["only one"]}, "1 entries for 3 slices"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, change, message):
    with pytest.raises(CTVideoError, match=message):
        write_series(some_hu(), tmp_path, **change)
