"""Headers against pydicom, dirty values, refusals, and how little is read."""

import io
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ct_video_hf.dicom import elements
from ct_video_hf.dicom import syntax as uids
from ct_video_hf.dicom.errors import CTReadError
from ct_video_hf.dicom.headers import read_frames
from ct_video_hf.dicom.limits import Limits
from ct_video_hf.dicom.pixels import read_plane
from ct_video_hf.dicom.sources import FileSource, open_sources
from ct_video_hf.dicom.write import write_series
from ct_video_hf.dicom.write_enhanced import write_enhanced

REAL = os.environ.get("CT_VIDEO_HF_REAL_DATA")
SYNTAXES = [
    uids.EXPLICIT_LITTLE, uids.IMPLICIT_LITTLE, uids.BIG_ENDIAN, uids.DEFLATED, uids.RLE,
]  # fmt: skip


@dataclass
class Bytes:
    """A source that counts what is read of it."""

    data: bytes
    name: str = "slice.dcm"
    taken: int = 0

    @property
    def size(self):
        return len(self.data)

    def read(self, start=0, length=None):
        part = self.data[start : None if length is None else start + length]
        self.taken += len(part)
        return part


def source_of(path):
    return FileSource(os.fspath(path), Path(path).stat().st_size)


def one_file(folder, **changes):
    hu = np.zeros((1, 8, 9), np.int16)
    return write_series(hu, folder, **changes)[0]


def refused(path_or_bytes, code, limits=None):
    is_bytes = isinstance(path_or_bytes, bytes)
    source = Bytes(path_or_bytes) if is_bytes else source_of(path_or_bytes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CTReadError) as caught:
            read_frames(source, limits)
    assert caught.value.code == code
    return str(caught.value)


# --- agreement with pydicom ---------------------------------------------------------------------


def pydicom_fields(path):
    """The same facts as a Frame of a single-frame file, by pydicom's own conversions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)

        def get(keyword, kind=str):
            value = dataset.get(keyword)
            return None if value is None or value == "" else kind(value)

        def vector(value):
            return tuple(map(float, value))

        return {
            "study_instance_uid": get("StudyInstanceUID"),
            "series_instance_uid": get("SeriesInstanceUID"),
            "sop_instance_uid": get("SOPInstanceUID"),
            "sop_class_uid": get("SOPClassUID"),
            "patient_id": get("PatientID"),
            "modality": get("Modality"),
            "image_type": tuple(value.strip() for value in dataset.get("ImageType") or ()),
            "instance_number": get("InstanceNumber", int),
            "acquisition_number": get("AcquisitionNumber", int),
            "series_number": get("SeriesNumber", int),
            "position": get("ImagePositionPatient", vector),
            "orientation": get("ImageOrientationPatient", vector),
            "pixel_spacing": get("PixelSpacing", vector),
            "slice_thickness": get("SliceThickness", float),
            "gantry_tilt": get("GantryDetectorTilt", float),
            "rows": int(dataset.Rows),
            "columns": int(dataset.Columns),
            "samples_per_pixel": int(dataset.SamplesPerPixel),
            "photometric": dataset.PhotometricInterpretation,
            "bits_allocated": int(dataset.BitsAllocated),
            "bits_stored": int(dataset.BitsStored),
            "signed": dataset.PixelRepresentation == 1,
            "slope": get("RescaleSlope", float),
            "intercept": get("RescaleIntercept", float),
            "rescale_type": get("RescaleType"),
            "transfer_syntax": str(dataset.file_meta.TransferSyntaxUID),
            "manufacturer": get("Manufacturer"),
            "kvp": get("KVP", float),
        }


def assert_agrees(path):
    (frame,) = read_frames(source_of(path))
    found = {key: getattr(frame, key) for key in pydicom_fields(path)}
    assert found == pydicom_fields(path)
    return frame


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
def test_every_field_agrees_with_pydicom(tmp_path, transfer_syntax):
    extra = {
        "GantryDetectorTilt": "-12.5 ",
        "WindowCenter": ["40", "-600"],
        "ReferencedImageSequence": [
            {"ReferencedSOPClassUID": "1.2.3", "ReferencedSOPInstanceUID": "4.5.6"}
        ],
        (0x0009, 0x0010, "LO"): "VENDOR",
        (0x0009, 0x1001, "UN"): b"\1\2\3\4",
    }
    path = one_file(
        tmp_path, transfer_syntax=transfer_syntax, signed=False, bits_stored=12, extra=extra
    )
    frame = assert_agrees(path)
    assert frame.high_bit == 11


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
def test_pixel_data_are_where_the_frame_says(tmp_path, transfer_syntax):
    path = one_file(tmp_path, transfer_syntax=transfer_syntax)
    (frame,) = read_frames(source_of(path))
    data = path.read_bytes()
    if transfer_syntax == uids.DEFLATED:
        return  # the offset counts in the expanded data set; reading pixels tests it
    behind = data[frame.pixel_offset :]
    if transfer_syntax == uids.RLE:
        assert frame.pixel_length is None
        assert behind[:4] == b"\xfe\xff\x00\xe0"
    else:
        assert frame.pixel_length == 8 * 9 * 2 == len(behind)


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="CT_VIDEO_HF_REAL_DATA does not name the real scans")
def test_every_real_file_agrees_with_pydicom_without_a_warning(recwarn):
    checked = 0
    with open_sources(REAL) as sources:
        for source in sources:
            if source.name.startswith("LICENSE") or source.name.startswith("CT0012"):
                continue
            assert_agrees(source.path)
            checked += 1
    assert checked > 50
    assert not recwarn.list


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
def test_pydicom_as_second_opinion_says_the_same(tmp_path, transfer_syntax, monkeypatch):
    path = one_file(tmp_path, transfer_syntax=transfer_syntax)
    (first,) = read_frames(source_of(path))
    calls = []

    def refuse(*_args, **_options):
        calls.append(1)
        raise elements.OddStructure("for the test")

    monkeypatch.setattr("ct_video_hf.dicom.headers.walk", refuse)
    (second,) = read_frames(source_of(path))
    assert calls
    assert first == second


def test_only_the_header_is_read(tmp_path):
    hu = np.zeros((1, 512, 512), np.int16)
    source = Bytes(write_series(hu, tmp_path)[0].read_bytes())
    read_frames(source)
    assert source.taken <= 8 * 1024


def test_a_long_header_is_followed(tmp_path):
    path = one_file(tmp_path, extra={(0x0009, 0x1010, "OB"): b"\0" * 300_000})
    assert_agrees(path)
    refused(path, "too_large", Limits(max_header_bytes=100_000))


# --- structure ----------------------------------------------------------------------------------


@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("preamble", [True, False])
@pytest.mark.parametrize(
    "transfer_syntax", [uids.EXPLICIT_LITTLE, uids.IMPLICIT_LITTLE, uids.BIG_ENDIAN]
)
def test_missing_preamble_or_meta_information(tmp_path, transfer_syntax, preamble, meta):
    path = one_file(tmp_path, transfer_syntax=transfer_syntax, preamble=preamble, meta=meta)
    (frame,) = read_frames(source_of(path))
    assert frame.transfer_syntax == transfer_syntax
    assert (frame.rows, frame.columns, frame.intercept) == (8, 9, -1024.0)


def rewritten(path, change):
    """A file changed by pydicom and written again with sequences of undefined length."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    target = io.BytesIO()
    pydicom.dcmwrite(target, dataset)
    return target.getvalue()


@pytest.mark.parametrize("transfer_syntax", [uids.EXPLICIT_LITTLE, uids.IMPLICIT_LITTLE])
def test_sequences_of_undefined_length_are_skipped(tmp_path, transfer_syntax):
    def nest(dataset):
        inner = pydicom.Dataset()
        inner.Rows = 4711
        inner.is_undefined_length_sequence_item = True
        outer = pydicom.Dataset()
        outer.OtherPatientIDsSequence = [inner]
        outer["OtherPatientIDsSequence"].is_undefined_length = True
        outer.is_undefined_length_sequence_item = True
        dataset.ReferencedStudySequence = [outer, outer]
        dataset["ReferencedStudySequence"].is_undefined_length = True

    data = rewritten(one_file(tmp_path, transfer_syntax=transfer_syntax), nest)
    assert data.count(b"\xfe\xff\xdd\xe0\0\0\0\0") == 3
    (frame,) = read_frames(Bytes(data))
    assert frame.rows == 8


def test_tags_out_of_order_get_a_second_opinion(tmp_path):
    path = one_file(tmp_path, extra={(0x0008, 0x0005, "CS"): "ISO_IR 100"})
    data = path.read_bytes()
    kvp = b"\x18\x00\x60\x00DS\x04\x00120 "
    at = data.index(kvp)
    moved = data[:at] + data[at + len(kvp) :]
    modality = moved.index(b"\x08\x00\x60\x00CS")
    moved = moved[:modality] + kvp + moved[modality:]
    (frame,) = read_frames(Bytes(moved))
    assert (frame.kvp, frame.modality, frame.rows) == (120.0, "CT", 8)


def test_explicit_file_that_is_implicit_inside(tmp_path):
    data = one_file(tmp_path, transfer_syntax=uids.IMPLICIT_LITTLE).read_bytes()
    lie = data.replace(b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.1\0", 1)
    lie = lie.replace(b"\x02\x00\x10\x00UI\x12\x00", b"\x02\x00\x10\x00UI\x14\x00", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (frame,) = read_frames(Bytes(lie))
    assert (frame.rows, frame.columns) == (8, 9)


# --- dirty values -------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [uids.EXPLICIT_LITTLE, uids.IMPLICIT_LITTLE])
def test_a_meta_header_that_names_the_other_layout(tmp_path, written):
    truth = one_file(tmp_path / "a", transfer_syntax=written)
    other = {uids.EXPLICIT_LITTLE: uids.IMPLICIT_LITTLE}.get(written, uids.EXPLICIT_LITTLE)
    named = one_file(tmp_path / "b", transfer_syntax=other)

    def cut(path):
        data = path.read_bytes()
        return 144 + int.from_bytes(data[140:144], "little")

    mixed = tmp_path / "mixed.dcm"
    mixed.write_bytes(named.read_bytes()[: cut(named)] + truth.read_bytes()[cut(truth) :])
    (found,), (expected,) = read_frames(source_of(mixed)), read_frames(source_of(truth))
    assert found.position == expected.position
    np.testing.assert_array_equal(read_plane(found), read_plane(expected))


@pytest.mark.parametrize(
    ("extra", "field", "expected"),
    [
        ({"SliceThickness": " 2.5 "}, "slice_thickness", 2.5),
        ({"SliceThickness": "2,5"}, "slice_thickness", 2.5),
        ({"SliceThickness": "thin"}, "slice_thickness", None),
        ({"SliceThickness": "nan"}, "slice_thickness", None),
        ({"InstanceNumber": "12.0"}, "instance_number", 12),
        ({"InstanceNumber": "1_0"}, "instance_number", None),
        ({"InstanceNumber": ""}, "instance_number", None),
        ({"KVP": "120\0"}, "kvp", 120.0),
        ({"PixelSpacing": None}, "pixel_spacing", None),
        ({"RescaleSlope": None}, "slope", None),
        ({"ImagePositionPatient": None}, "position", None),
        ({(0x0028, 0x0010, "UL"): 8}, "rows", 8),
        ({(0x0028, 0x0010, "IS"): "8"}, "rows", 8),
        ({(0x0028, 0x0010, "UN"): b"\x08\0"}, "rows", 8),
        ({(0x0028, 0x0103, "UN"): b"\x01\0"}, "signed", True),
        ({(0x0028, 0x0120, "US"): 63536}, "padding_value", -2000),
        ({(0x0028, 0x0120, "SS"): -2000}, "padding_value", -2000),
        ({(0x0028, 0x0120, "IS"): "-2000"}, "padding_value", -2000),
        ({(0x0028, 0x0120, "US"): None}, "padding_value", None),
        ({"SOPClassUID": "80e30f500244"}, "sop_class_uid", "80e30f500244"),
        ({"LossyImageCompression": "01"}, "lossy", True),
    ],
)
def test_dirty_values(tmp_path, extra, field, expected):
    path = one_file(tmp_path, slice_extra=[extra])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (frame,) = read_frames(source_of(path))
    assert getattr(frame, field) == expected


def test_padding_sign_follows_unsigned_pixels(tmp_path):
    path = one_file(tmp_path, signed=False, extra={(0x0028, 0x0120, "SS"): -2000})
    assert read_frames(source_of(path))[0].padding_value == 63536


def test_trimmed_header(tmp_path):
    """RSNA's sets: short hashed UIDs, no PatientID, and hardly anything else."""
    missing = [
        "PatientID", "HighBit", "SeriesNumber", "AcquisitionNumber", "Manufacturer", "KVP",
        "SpecificCharacterSet", "FrameOfReferenceUID", "ImageType", "Modality",
    ]  # fmt: skip
    hashed = {
        keyword: "0123456789ab"
        for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    }
    path = one_file(tmp_path, slice_extra=[hashed], missing=missing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (frame,) = read_frames(source_of(path))
    assert frame.series_instance_uid == "0123456789ab"
    assert frame.patient_id is None
    assert frame.modality is None
    assert frame.high_bit == 15


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated"])
def test_missing_layout_is_named(tmp_path, keyword):
    message = refused(one_file(tmp_path, missing=[keyword]), "bad_header")
    assert message.startswith(f"IM0000.dcm: {keyword} is missing")


@pytest.mark.parametrize(
    ("extra", "code", "word"),
    [
        ({"PixelSpacing": [0, 0.7]}, "bad_geometry", "PixelSpacing"),
        ({"PixelSpacing": ["x", "y"]}, "bad_geometry", "PixelSpacing"),
        ({"ImagePositionPatient": ["nan", 0, 0]}, "bad_geometry", "ImagePositionPatient"),
        ({"ImagePositionPatient": [1, 2]}, "bad_geometry", "ImagePositionPatient"),
        ({"ImageOrientationPatient": [0] * 6}, "bad_geometry", "ImageOrientationPatient"),
        ({"RescaleSlope": 0}, "bad_rescale", "RescaleSlope"),
        ({"RescaleSlope": "inf"}, "bad_rescale", "RescaleSlope"),
        ({"RescaleIntercept": "abc"}, "bad_rescale", "RescaleIntercept"),
        ({"Rows": 0}, "bad_header", "0 x 9"),
        ({"Rows": 60000}, "too_large", "Limits(max_rows=60000)"),
        ({"Columns": 60000}, "too_large", "max_columns"),
        ({"NumberOfFrames": 99999}, "too_large", "max_frames"),
        ({"NumberOfFrames": 3}, "bad_header", "no functional groups"),
        ({"NumberOfFrames": 0}, "bad_header", "NumberOfFrames"),
        ({"BitsAllocated": 12}, "bad_header", "12 allocated"),
        ({"BitsStored": 17}, "bad_header", "17 bits"),
        ({"HighBit": 3}, "bad_header", "high bit 3"),
        ({"Modality": "MR"}, "not_ct", "an MR image"),
        ({"Modality": "SEG"}, "not_ct", "a segmentation"),
        ({"Modality": "DX"}, "not_ct", "a digital radiograph"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "not_ct", "a secondary capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "not_ct", "a segmentation"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "not_ct", "a PDF document"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}, "not_ct", "Basic Text SR"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "not_ct", "colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "not_ct", "colour"),
    ],
)
def test_refusals_name_the_trouble(tmp_path, extra, code, word):
    message = refused(one_file(tmp_path, slice_extra=[extra]), code)
    assert word in message
    assert "IM0000.dcm" in message


def test_no_pixel_data(tmp_path):
    assert "no pixel data" in refused(one_file(tmp_path, missing=["PixelData"]), "no_pixel_data")
    path = one_file(tmp_path, missing=["PixelData"], extra={(0x7FE0, 0x0008, "OF"): b"\0" * 4})
    data = path.read_bytes()
    assert b"\xe0\x7f\x08\x00" in data
    assert "floating" in refused(path, "no_pixel_data")


def test_messages_hold_no_identifier(tmp_path):
    path = one_file(
        tmp_path,
        patient_id="SECRET-7",
        extra={"PatientName": "Doe^Jane", "AccessionNumber": "ACC99", "Modality": "MR"},
    )
    message = refused(path, "not_ct")
    assert not any(secret in message for secret in ("SECRET-7", "Doe", "ACC99", str(tmp_path)))


@pytest.mark.parametrize(
    ("data", "code", "word"),
    [
        (b"", "truncated_file", "empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "not_dicom", "PNG"),
        (b"just some words\n" * 20, "not_dicom", "text"),
        (b"%PDF-1.7 ....", "not_dicom", "PDF"),
        (bytes(500), "not_dicom", "zeros"),
        (bytes(range(256)), "not_dicom", "no known kind"),
        (bytes(128) + b"DICM", "bad_header", "transfer syntax"),
    ],
)
def test_what_is_not_dicom_is_named(data, code, word):
    assert word in refused(data, code)


def test_every_truncation_of_the_header_is_an_error(tmp_path):
    data = one_file(tmp_path).read_bytes()
    (frame,) = read_frames(Bytes(data))
    for end in range(132, frame.pixel_offset, 7):
        with pytest.raises(CTReadError) as caught:
            read_frames(Bytes(data[:end]))
        assert caught.value.code in {
            "truncated_file", "no_pixel_data", "bad_header",
        }  # fmt: skip
    assert refused(data[: frame.pixel_offset - 5], "truncated_file")


# --- enhanced multi-frame -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "transfer_syntax", [uids.EXPLICIT_LITTLE, uids.IMPLICIT_LITTLE, uids.BIG_ENDIAN]
)
def test_functional_groups(tmp_path, transfer_syntax):
    hu = np.zeros((4, 8, 9), np.int16)
    path = write_enhanced(
        hu,
        tmp_path / "e.dcm",
        transfer_syntax=transfer_syntax,
        spacing=(2.0, 0.5, 0.6),
        origin=(1, 2, 3),
        order=[3, 1, 0, 2],
        rescale_per_frame=[(1, -1024), (1, -1000), (2, 0), (1, -10)],
        orientation=[(1, 0, 0, 0, 1, 0)] * 3 + [(0, 1, 0, 0, 0, -1)],
    )
    frames = read_frames(source_of(path))
    assert [frame.position[2] for frame in frames] == [9, 5, 3, 7]
    assert [(frame.slope, frame.intercept) for frame in frames] == [
        (1, -10), (1, -1000), (1, -1024), (2, 0),
    ]  # fmt: skip
    assert [frame.orientation[0] for frame in frames] == [0, 1, 1, 1]
    assert {frame.pixel_spacing for frame in frames} == {(0.5, 0.6)}
    assert [frame.label for frame in frames][1] == "e.dcm frame 2"
    assert {frame.slice_thickness for frame in frames} == {2.0}


def test_enhanced_headers_agree_between_the_walker_and_pydicom(tmp_path, monkeypatch):
    path = write_enhanced(np.zeros((3, 8, 9), np.int16), tmp_path / "e.dcm")
    first = read_frames(source_of(path))

    def refuse(*_args, **_options):
        raise elements.OddStructure("for the test")

    monkeypatch.setattr("ct_video_hf.dicom.headers.walk", refuse)
    assert read_frames(source_of(path)) == first


def test_groups_that_do_not_match_the_frames(tmp_path):
    hu = np.zeros((3, 8, 9), np.int16)
    path = write_enhanced(hu, tmp_path / "e.dcm", extra={"NumberOfFrames": 4})
    assert "4 frames but has functional groups for 3" in refused(path, "bad_header")


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="CT_VIDEO_HF_REAL_DATA does not name the real scans")
def test_real_enhanced_object():
    (path,) = Path(REAL).glob("syntaxes/CT0012*")
    frames = read_frames(source_of(path))
    dataset = pydicom.dcmread(path)
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        expected = group.PlanePositionSequence[0].ImagePositionPatient
        assert frame.position == tuple(map(float, expected))
        assert frame.slope is not None


# --- anything at all ----------------------------------------------------------------------------


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
def test_flipped_bytes_give_frames_or_a_clear_error(tmp_path, transfer_syntax):
    data = one_file(tmp_path, transfer_syntax=transfer_syntax).read_bytes()
    rng = np.random.default_rng(1)
    outcomes = set()
    for _ in range(400):
        broken = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 6)):
            broken[at] = rng.integers(0, 256)
        try:
            frames = read_frames(Bytes(bytes(broken)))
            assert all(replace(frame).rows > 0 for frame in frames)
            outcomes.add("read")
        except CTReadError as error:
            outcomes.add(error.code)
    assert "read" in outcomes or transfer_syntax == uids.DEFLATED
    assert len(outcomes) > 1
