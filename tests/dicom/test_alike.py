"""Headers read by the pattern of an earlier slice equal those that are read in full, always."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

from ct_video_hf.dicom import alike
from ct_video_hf.dicom import syntax as uids
from ct_video_hf.dicom.alike import AlikeSlices
from ct_video_hf.dicom.errors import CTReadError
from ct_video_hf.dicom.headers import read_frames
from ct_video_hf.dicom.limits import Limits
from ct_video_hf.dicom.sources import open_sources
from ct_video_hf.dicom.write import write_series
from ct_video_hf.dicom.write_enhanced import write_enhanced
from tests.dicom.test_headers import Bytes

REAL = os.environ.get("CT_VIDEO_HF_REAL_DATA")
LIMITS = Limits()
ROUNDS = 400


@pytest.fixture
def in_full(monkeypatch):
    """Names of the files whose headers were read in full."""
    names = []
    real = alike.load_header

    def noting(source, *rest):
        names.append(source.name)
        return real(source, *rest)

    monkeypatch.setattr(alike, "load_header", noting)
    return names


def outcome(read, source):
    try:
        return read(source)
    except CTReadError as error:
        return error.code, str(error), error.findings


def compared(sources, slices=None):
    """Reads all files both ways; how often the results agreed, as they must."""
    slices = slices or AlikeSlices(LIMITS)
    for source in sources:
        assert outcome(slices.frames, source) == outcome(lambda s: read_frames(s, LIMITS), source)
    return len(sources)


def files(folder):
    with open_sources(folder) as sources:
        return list(sources)


def series(folder, count=24, **changes):
    return write_series(np.zeros((count, 4, 4), np.int16), folder, spacing=(1.25, 1, 1), **changes)


@pytest.mark.parametrize("syntax", [uids.EXPLICIT_LITTLE, uids.IMPLICIT_LITTLE, uids.BIG_ENDIAN])
def test_few_headers_of_a_series_are_read_in_full(tmp_path, in_full, syntax):
    # numbers, positions and UIDs have different lengths
    series(tmp_path, 120, transfer_syntax=syntax, shuffle=True)
    assert compared(files(tmp_path)) == 120
    assert len(in_full) <= 8


def test_the_real_scan(in_full):
    assert compared(files(Path(__file__).parents[1] / "data" / "lidc_idri_0001")) == 30
    assert len(in_full) == 2


@pytest.mark.parametrize("syntax", [uids.DEFLATED, uids.RLE, uids.JPEG_LOSSLESS])
def test_other_syntaxes(tmp_path, syntax):
    series(tmp_path, 6, transfer_syntax=syntax)
    assert compared(files(tmp_path)) == 6


def test_two_series_and_strangers_in_turns(tmp_path):
    series(tmp_path / "one", 8, key="a")
    series(tmp_path / "two", 8, key="b", intercept=-1000.0, signed=False, patient_id=None)
    write_enhanced(np.zeros((3, 4, 4), np.int16), tmp_path / "enhanced.dcm")
    (tmp_path / "notes").write_text("no DICOM")
    found = files(tmp_path)
    random.Random(1).shuffle(found)
    assert compared(found) == 18


def test_what_the_reader_uses_is_seen_where_it_changes(tmp_path):
    """One slice that differs in a single value that decides about pixels or geometry."""
    changed = [
        {"RescaleIntercept": "-1000 "}, {"PixelSpacing": "1\\2 "}, {"Rows": 5}, {"BitsStored": 12},
        {"ImageOrientationPatient": "1\\0\\0\\0\\0\\1"}, {"PixelPaddingValue": -2000},
        {"SeriesInstanceUID": "1.2.3"}, {"PatientID": "ANOTHER"}, {"Modality": "MR"},
        {"ImagePositionPatient": "0\\0\\x "}, {"ImagePositionPatient": ""}, {"InstanceNumber": ""},
    ]  # fmt: skip
    slices = [{}] * 6 + [part for change in changed for part in (change, {})]
    series(tmp_path, len(slices), slice_extra=slices)
    assert compared(files(tmp_path)) == len(slices)


def mutated(data, dice, header):
    """Bytes changed, put in or taken out, most of them in the header."""
    data = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(max(1, min(header, len(data))))
        if at >= len(data):
            break
        kind = dice.random()
        if kind < 0.7:
            data[at] = dice.choice((0, 1, 2, 0xFF, data[at] ^ 1, dice.randrange(256)))
        elif kind < 0.8:
            del data[at : at + dice.choice((1, 2, 8))]
        elif kind < 0.9:
            data[at:at] = bytes(dice.choice((1, 2, 8)))
        else:
            del data[dice.randrange(len(data)) :]
    return bytes(data)


@pytest.mark.parametrize("syntax", [uids.EXPLICIT_LITTLE, uids.IMPLICIT_LITTLE, uids.BIG_ENDIAN])
def test_damaged_headers(tmp_path, syntax):
    """Whatever befalls a header: the same frame, or the same complaint in the same words."""
    series(tmp_path, 12, transfer_syntax=syntax)
    found = files(tmp_path)
    slices = AlikeSlices(LIMITS)
    compared(found, slices)
    dice = random.Random(syntax)
    whole = [(source.read(), read_frames(source)[0].pixel_offset) for source in found]
    for _ in range(ROUNDS):
        data, header = dice.choice(whole)
        compared([Bytes(mutated(data, dice, header + 8))], slices)
        if dice.random() < 0.3:
            compared([dice.choice(found)], slices)


def test_damaged_headers_of_a_real_scan():
    found = files(Path(__file__).parents[1] / "data" / "lidc_idri_0001")[:6]
    slices = AlikeSlices(LIMITS)
    compared(found, slices)
    dice = random.Random(7)
    heads = [(source.read(0, 6000), read_frames(source)[0].pixel_offset) for source in found]
    for _ in range(ROUNDS):
        data, header = dice.choice(heads)
        compared([Bytes(mutated(data, dice, header + 8)), dice.choice(found)], slices)


def test_limits_hold(tmp_path):
    series(tmp_path, 6)
    found = files(tmp_path)
    tight = Limits(max_header_bytes=read_frames(found[0])[0].pixel_offset)
    slices = AlikeSlices(tight)
    for source in found:
        assert outcome(slices.frames, source) == outcome(lambda s: read_frames(s, tight), source)


@pytest.mark.real
@pytest.mark.skipif(REAL is None, reason="CT_VIDEO_HF_REAL_DATA names no folder of real scans")
def test_all_real_scans():
    kinds = (".dcm", ".ima", "")
    folders = {path.parent for path in Path(REAL).rglob("*") if path.suffix.lower() in kinds}
    read = [compared(files(folder)) for folder in sorted(folders) if any(folder.glob("*.dcm"))]
    assert sum(read) > 20
