"""Pixels to HU: every syntax, sign, bit depth and padding, and what happens to damaged data."""

import os
import struct
import tracemalloc
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import generate_frames

from ct_video_hf.dicom import syntax as uids
from ct_video_hf.dicom.codecs import decode_frame
from ct_video_hf.dicom.codestream import has_end_marker
from ct_video_hf.dicom.errors import CTReadError
from ct_video_hf.dicom.headers import read_frames
from ct_video_hf.dicom.pixels import read_plane, read_planes
from ct_video_hf.dicom.resample import fit_in_plane
from ct_video_hf.dicom.sources import FileSource, open_sources
from ct_video_hf.dicom.write import write_series
from ct_video_hf.dicom.write_enhanced import write_enhanced
from tests.support.frames import make_frame

REAL = os.environ.get("CT_VIDEO_HF_REAL_DATA")
needs_real = pytest.mark.skipif(
    not REAL, reason="CT_VIDEO_HF_REAL_DATA does not name the real scans"
)
RAW = [uids.EXPLICIT_LITTLE, uids.IMPLICIT_LITTLE, uids.BIG_ENDIAN, uids.DEFLATED]
COMPRESSED = [
    uids.RLE, uids.JPEG_LOSSLESS, uids.JPEG_LOSSLESS_SV1, uids.JPEG_LS, uids.JPEG_2000_LOSSLESS,
    uids.HTJ2K_LOSSLESS,
]  # fmt: skip
AIR = -1024


def chest(shape=(3, 24, 26), seed=0):
    """Lung, tissue and bone in patches, some noise: between -1024 and 1500 HU."""
    rng = np.random.default_rng(seed)
    patches = rng.choice([-1000, -850, -100, 40, 700], (shape[0], 4, 4))
    hu = np.kron(patches, np.ones((1, -(-shape[1] // 4), -(-shape[2] // 4))))
    hu = hu[:, : shape[1], : shape[2]] + rng.normal(0, 20, shape)
    return np.clip(np.rint(hu), -1024, 1500).astype(np.int16)


def frames_of(paths):
    found = []
    for path in [paths] if isinstance(paths, Path) else paths:
        found += read_frames(FileSource(os.fspath(path), path.stat().st_size))
    return found


def read_all(paths, **options):
    frames = frames_of(paths)
    size = options.get("size")
    plane = (size, size) if size else (frames[0].rows, frames[0].columns)
    out = np.empty((len(frames), *plane), np.int16)
    options = {"flip_rows": False, "flip_columns": False} | options
    return out, read_planes(frames, out, **options)


def patched(folder, data):
    path = folder / "patched.dcm"
    path.write_bytes(data)
    return path


def refused(path, code):
    with pytest.raises(CTReadError) as caught:
        read_all(path)
    assert caught.value.code == code
    assert path.name in str(caught.value)
    return str(caught.value)


# --- what lossless syntaxes give back -----------------------------------------------------------


@pytest.mark.parametrize(
    ("signed", "bits", "intercept"),
    [(True, 16, -1024), (True, 16, 0), (True, 13, 0), (False, 12, -1024), (False, 16, -8192)],
)
@pytest.mark.parametrize("transfer_syntax", RAW + COMPRESSED)
def test_lossless_syntaxes_are_exact(tmp_path, transfer_syntax, signed, bits, intercept):
    hu = chest()
    paths = write_series(
        hu,
        tmp_path,
        transfer_syntax=transfer_syntax,
        signed=signed,
        bits_stored=bits,
        intercept=intercept,
    )
    found, summary = read_all(paths)
    np.testing.assert_array_equal(found, hu)
    assert (summary.hu_min, summary.hu_max) == (hu.min(), hu.max())
    assert (summary.padded_voxels, summary.clipped_voxels, summary.notes) == (0, 0, ())


@pytest.mark.parametrize("transfer_syntax", [*RAW, uids.RLE, uids.JPEG_LS, uids.JPEG_LOSSLESS])
@pytest.mark.parametrize(("signed", "shape"), [(False, (2, 24, 26)), (True, (2, 5, 5))])
def test_eight_bits(tmp_path, transfer_syntax, signed, shape):
    stored = np.random.default_rng(0).integers(0, 128, shape).astype(np.int16)
    if signed:
        stored -= 64
    paths = write_series(
        stored * 10 - 500,
        tmp_path,
        transfer_syntax=transfer_syntax,
        signed=signed,
        bits_allocated=8,
        bits_stored=8,
        slope=10,
        intercept=-500,
    )
    np.testing.assert_array_equal(read_all(paths)[0], stored * 10 - 500)


def test_eight_bits_big_endian_in_words(tmp_path):
    """OW swaps bytes in pairs, even where a voxel is one byte (PS3.5 8.1.1)."""
    hu = np.arange(64, dtype=np.int16).reshape(1, 8, 8)
    (path,) = write_series(
        hu,
        tmp_path,
        transfer_syntax=uids.BIG_ENDIAN,
        signed=False,
        bits_allocated=8,
        bits_stored=8,
        intercept=0,
    )
    data = path.read_bytes()
    pixels = np.frombuffer(data[-64:], "u2").byteswap().tobytes()
    changed = data[:-64].replace(b"\x7f\xe0\x00\x10OB", b"\x7f\xe0\x00\x10OW") + pixels
    np.testing.assert_array_equal(read_all(patched(tmp_path, changed))[0], hu)


@pytest.mark.parametrize("transfer_syntax", [uids.EXPLICIT_LITTLE, uids.BIG_ENDIAN])
@pytest.mark.parametrize("signed", [True, False])
def test_thirty_two_bits(tmp_path, transfer_syntax, signed):
    hu = chest()
    paths = write_series(
        hu,
        tmp_path,
        transfer_syntax=transfer_syntax,
        signed=signed,
        bits_allocated=32,
        bits_stored=20,
        intercept=-300_000,
    )
    np.testing.assert_array_equal(read_all(paths)[0], hu)


@pytest.mark.parametrize("transfer_syntax", [uids.EXPLICIT_LITTLE, uids.BIG_ENDIAN, uids.RLE])
@pytest.mark.parametrize("signed", [True, False])
def test_garbage_in_unused_bits_is_masked(tmp_path, transfer_syntax, signed):
    hu = chest()
    options = {"signed": signed, "bits_stored": 12, "intercept": 0 if signed else -1024}
    paths = write_series(
        hu, tmp_path, transfer_syntax=transfer_syntax, spare_bits=0xA000, **options
    )
    assert pydicom.dcmread(paths[0]).BitsStored == 12
    np.testing.assert_array_equal(read_all(paths)[0], hu)


@pytest.mark.parametrize("signed", [True, False])
def test_high_bit_above_the_stored_bits(tmp_path, signed):
    hu = chest()
    paths = write_series(
        hu,
        tmp_path,
        signed=signed,
        bits_stored=12,
        high_bit=15,
        spare_bits=0x5,
        intercept=0 if signed else -1024,
    )
    np.testing.assert_array_equal(read_all(paths)[0], hu)


# --- rescale ------------------------------------------------------------------------------------


def test_whole_slopes_are_exact_and_fractions_rounded(tmp_path):
    hu = chest() // 2 * 2
    paths = write_series(hu, tmp_path / "a", slope=2, intercept=-1000)
    np.testing.assert_array_equal(read_all(paths)[0], hu)
    paths = write_series(hu, tmp_path / "b", slope=0.37, intercept=-1024.5)
    expected = [
        np.rint(pydicom.dcmread(path).pixel_array * np.float64(0.37) - 1024.5) for path in paths
    ]
    np.testing.assert_array_equal(read_all(paths)[0], expected)


def test_negative_slope(tmp_path):
    hu = chest()
    found, summary = read_all(write_series(hu, tmp_path, slope=-1, intercept=100))
    np.testing.assert_array_equal(found, hu)
    assert (summary.hu_min, summary.hu_max) == (hu.min(), hu.max())


def test_missing_rescale_means_stored_values(tmp_path):
    paths = write_series(chest(), tmp_path, missing=["RescaleSlope", "RescaleIntercept"])
    np.testing.assert_array_equal(read_all(paths)[0], chest() + 1024)


@pytest.mark.parametrize("slope", [1, 1.5])
@pytest.mark.parametrize("size", [None, 12])
def test_values_beyond_int16_are_clipped_not_wrapped(tmp_path, slope, size):
    (path,) = write_series(np.zeros((1, 24, 24), np.int16), tmp_path, intercept=0, slope=1)
    data = bytearray(path.read_bytes())
    values = np.frombuffer(bytes(data[-1152:]), "<i2").reshape(24, 24).copy()
    values[:12], values[12:] = -32768, 32767
    data[-1152:] = values.tobytes()
    (frame,) = frames_of(patched(tmp_path, bytes(data)))
    frame = replace(frame, slope=slope, intercept=-500.0 if slope == 1 else 500.0)
    out = np.empty((1, size or 24, size or 24), np.int16)
    summary = read_planes([frame], out, flip_rows=False, flip_columns=False, size=size)
    half = len(out[0]) // 2
    low = -32768 if size is None else AIR
    assert (out[0, :half] == low).all()
    assert (out[0, half:] == (32267 if slope == 1 else 32767)).all()
    assert summary.clipped_voxels == (288 if slope == 1 else 576)


# --- padding ------------------------------------------------------------------------------------


def ring(shape):
    """What lies outside the reconstructed circle."""
    rows, columns = np.indices(shape[1:])
    radius = np.hypot(rows - (shape[1] - 1) / 2, columns - (shape[2] - 1) / 2)
    return np.broadcast_to(radius > shape[1] / 2, shape)


@pytest.mark.parametrize("transfer_syntax", [uids.EXPLICIT_LITTLE, uids.BIG_ENDIAN, uids.JPEG_LS])
@pytest.mark.parametrize(
    ("signed", "bits", "value", "vr"),
    [
        (True, 16, -2000, "SS"),
        (True, 16, -2000, "US"),
        (True, 16, -32768, "US"),
        (False, 16, 63536, "US"),
        (False, 16, 63536, "SS"),
        (False, 12, 4095, "US"),
        (False, 16, 0, "US"),
    ],
)
@pytest.mark.parametrize("size", [None, 13])
def test_padding_becomes_air(tmp_path, transfer_syntax, signed, bits, value, vr, size):
    hu = np.maximum(chest((2, 26, 26)), -1000)
    mask = ring(hu.shape)
    paths = write_series(
        hu,
        tmp_path,
        transfer_syntax=transfer_syntax,
        signed=signed,
        bits_stored=bits,
        padding_mask=mask,
        padding_value=value,
        padding_vr=vr,
    )
    expected = np.where(mask, AIR, hu).astype(np.int16)
    found, summary = read_all(paths, size=size)
    np.testing.assert_array_equal(found, fit_in_plane(expected, size) if size else expected)
    assert summary.padded_voxels == mask.sum()
    assert (summary.hu_min, summary.hu_max) == (expected.min(), expected.max())


def test_padding_outside_the_stored_bits(tmp_path):
    """-2000 beside 12 stored bits, as GE writes it: whole cells are compared."""
    hu = chest((1, 26, 26))
    (path,) = write_series(
        hu, tmp_path, signed=False, bits_stored=12, extra={(0x0028, 0x0120, "SS"): -2000}
    )
    data = path.read_bytes()
    pixels = np.frombuffer(data[-1352:], "<u2").copy()
    pixels[:30] = 63536
    found, summary = read_all(patched(tmp_path, data[:-1352] + pixels.tobytes()))
    assert summary.padded_voxels == 30
    assert (found.ravel()[:30] == AIR).all()
    np.testing.assert_array_equal(found.ravel()[30:], hu.ravel()[30:])


def test_padding_range(tmp_path):
    hu = chest((1, 26, 26))
    hu[0, 0, :4] = [-1024, -1020, -1016, -1015]
    paths = write_series(
        np.where(hu > -1015, np.maximum(hu, -900), hu),
        tmp_path,
        extra={"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 8},
    )
    found, summary = read_all(paths)
    np.testing.assert_array_equal(found[0, 0, :4], [AIR, AIR, AIR, -1015])
    assert summary.padded_voxels == (hu <= -1016).sum()


def test_padding_value_of_tissue_counts_only_at_the_edge(tmp_path):
    """Padding 0 with HU stored as they are: water would become holes of air."""
    hu = np.full((1, 26, 26), 40, np.int16)
    hu[0, 10:14, 10:14] = 0
    mask = ring(hu.shape)
    paths = write_series(hu, tmp_path, intercept=0, padding_mask=mask, padding_value=0)
    found, summary = read_all(paths)
    np.testing.assert_array_equal(found, np.where(mask, AIR, hu))
    assert [note.code for note in summary.notes] == ["padding_in_tissue"]
    assert summary.notes[0].files == ("IM0000.dcm",)


def test_announced_padding_that_is_not_there(tmp_path):
    found, summary = read_all(
        write_series(chest(), tmp_path, extra={(0x0028, 0x0120, "SS"): -2000})
    )
    np.testing.assert_array_equal(found, chest())
    assert summary.padded_voxels == 0


# --- MONOCHROME1 --------------------------------------------------------------------------------


@pytest.mark.parametrize(("signed", "bits"), [(False, 12), (True, 16)])
def test_monochrome1_stored_turned_round_is_turned_back(tmp_path, signed, bits):
    hu = chest((3, 26, 26))
    paths = write_series(hu, tmp_path, signed=signed, bits_stored=bits, photometric="MONOCHROME1")
    found, summary = read_all(paths)
    np.testing.assert_array_equal(found, hu)
    assert [note.code for note in summary.notes] == ["monochrome1_inverted"]
    assert (summary.hu_min, summary.hu_max) == (hu.min(), hu.max())
    np.testing.assert_array_equal(read_all(paths, size=13)[0], fit_in_plane(hu, 13))


def test_monochrome1_with_values_as_the_standard_has_them(tmp_path):
    paths = write_series(
        chest(), tmp_path, slice_extra=[{"PhotometricInterpretation": "MONOCHROME1"}] * 3
    )
    found, summary = read_all(paths)
    np.testing.assert_array_equal(found, chest())
    assert [note.code for note in summary.notes] == ["monochrome1"]


# --- several frames in a file -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fragments", "table"),
    [(1, "basic"), (1, None), (1, "extended"), (3, "basic"), (3, None)],
)
@pytest.mark.parametrize("transfer_syntax", COMPRESSED)
def test_fragments_and_offset_tables(tmp_path, transfer_syntax, fragments, table):
    if transfer_syntax == uids.RLE and fragments > 1:
        pytest.skip("an RLE frame is one fragment (PS3.5 A.4.2)")
    hu = chest((5, 24, 26))
    order = [4, 1, 3, 0, 2]
    path = write_enhanced(
        hu,
        tmp_path / "e.dcm",
        transfer_syntax=transfer_syntax,
        fragments=fragments,
        offset_table=table,
        order=order,
    )
    found, _ = read_all(path)
    np.testing.assert_array_equal(found, hu[order])
    single = write_series(
        hu[:1], tmp_path, transfer_syntax=transfer_syntax, fragments=fragments, offset_table=table
    )
    np.testing.assert_array_equal(read_all(single)[0], hu[:1])


@pytest.mark.parametrize("transfer_syntax", RAW)
def test_uncompressed_frames(tmp_path, transfer_syntax):
    path = write_enhanced(chest(), tmp_path / "e.dcm", transfer_syntax=transfer_syntax)
    np.testing.assert_array_equal(read_all(path)[0], chest())


@pytest.mark.parametrize("transfer_syntax", [*RAW, uids.JPEG_LS])
def test_zip_members(tmp_path, transfer_syntax):
    paths = write_series(chest(), tmp_path / "s", transfer_syntax=transfer_syntax)
    enhanced = write_enhanced(chest(), tmp_path / "e.dcm", transfer_syntax=transfer_syntax)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in [*paths, enhanced]:
            archive.write(path, path.name)
    with open_sources(tmp_path / "a.zip") as sources:
        frames = [frame for source in sources for frame in read_frames(source)]
        out = np.empty((6, 24, 26), np.int16)
        read_planes(frames, out, flip_rows=False, flip_columns=False, workers=3)
    np.testing.assert_array_equal(out, np.concatenate([chest(), chest()]))


# --- turning, fitting, threads ------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 13, 40])
@pytest.mark.parametrize(
    ("signed", "intercept"), [(True, -1024), (True, 0), (False, -1024), (False, -1100)]
)
@pytest.mark.parametrize(("rows", "columns"), [(False, False), (True, False), (True, True)])
def test_flips_and_fits_equal_doing_them_afterwards(
    tmp_path, rows, columns, signed, intercept, size
):
    hu = chest((2, 24, 27)) if size != 13 else chest((2, 26, 26))
    paths = write_series(hu, tmp_path, signed=signed, intercept=intercept)
    expected = hu[:, :: -1 if rows else 1, :: -1 if columns else 1]
    expected = expected if size is None else fit_in_plane(np.ascontiguousarray(expected), size)
    found, summary = read_all(paths, flip_rows=rows, flip_columns=columns, size=size)
    np.testing.assert_array_equal(found, expected)
    assert (summary.hu_min, summary.hu_max) == (hu.min(), hu.max())


def test_values_below_air_are_clipped_only_when_fitted(tmp_path):
    hu = np.full((1, 8, 8), -1500, np.int16)
    paths = write_series(hu, tmp_path, intercept=0)
    assert (read_all(paths)[0] == -1500).all()
    assert (read_all(paths, size=4)[0] == AIR).all()


@pytest.mark.parametrize("transfer_syntax", [uids.EXPLICIT_LITTLE, uids.JPEG_LOSSLESS_SV1])
def test_threads_change_nothing(tmp_path, transfer_syntax):
    hu = chest((40, 24, 26))
    paths = write_series(hu, tmp_path, transfer_syntax=transfer_syntax)
    for workers in (1, 2, 5, None):
        found, _ = read_all(paths, workers=workers)
        np.testing.assert_array_equal(found, hu)
    assert os.fspath(tmp_path / "gone") not in map(str, paths)
    paths[20].write_bytes(paths[20].read_bytes()[:-300])
    for workers in (1, 3):
        with pytest.raises(CTReadError, match=paths[20].name):
            read_all(paths, workers=workers)


def test_progress_goes_to_stderr(tmp_path, capsys):
    read_all(write_series(chest(), tmp_path), progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3/3" in captured.err


def test_memory_stays_small_while_fitting(tmp_path):
    paths = write_series(np.zeros((30, 512, 512), np.int16), tmp_path)
    frames = frames_of(paths)
    out = np.empty((30, 64, 64), np.int16)
    read_planes(frames[:1], out[:1], flip_rows=False, flip_columns=False, size=64)
    tracemalloc.start()
    read_planes(frames, out, flip_rows=False, flip_columns=False, size=64, workers=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 512 * 512 * 2  # a few planes, not thirty


def test_read_plane(tmp_path):
    (frame, *_) = frames_of(write_series(chest(), tmp_path))
    out = np.empty((24, 26), np.int16)
    assert read_plane(frame, out) is out
    np.testing.assert_array_equal(out, chest()[0])
    np.testing.assert_array_equal(read_plane(frame), chest()[0])


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 24, 26), np.int16), ((3, 26, 24), np.int16), ((3, 24, 26), np.int32)]
)
def test_wrong_output_is_refused(tmp_path, shape, dtype):
    frames = frames_of(write_series(chest(), tmp_path))
    with pytest.raises(ValueError, match="output"):
        read_planes(frames, np.empty(shape, dtype), flip_rows=False, flip_columns=False)
    with pytest.raises(ValueError, match="no frames"):
        read_planes([], np.empty(shape, dtype), flip_rows=False, flip_columns=False)


# --- damaged pixels -----------------------------------------------------------------------------


@pytest.mark.parametrize("transfer_syntax", [*RAW[:3], *COMPRESSED])
def test_truncated_pixels_are_an_error_wherever_the_cut(tmp_path, transfer_syntax):
    (path,) = write_series(chest((1, 24, 26)), tmp_path, transfer_syntax=transfer_syntax)
    data = path.read_bytes()
    (frame,) = frames_of(path)
    for end in np.linspace(frame.pixel_offset, len(data) - 1, 25, dtype=int):
        cut = patched(tmp_path, data[:end])
        if end >= len(data) - 8 and transfer_syntax in COMPRESSED:
            np.testing.assert_array_equal(read_all(cut)[0], chest((1, 24, 26)))
            continue  # only the end of the sequence of fragments is gone
        assert "cut off" in refused(cut, "truncated_pixels")


def test_pixel_data_shorter_or_longer_than_the_matrix(tmp_path):
    (path,) = write_series(chest((1, 24, 26)), tmp_path / "a", slice_extra=[{"Rows": 25}])
    assert "1248 bytes" in refused(path, "truncated_pixels")
    (path,) = write_series(chest((1, 24, 26)), tmp_path / "b", slice_extra=[{"Rows": 23}])
    np.testing.assert_array_equal(read_all(path)[0], chest((1, 24, 26))[:, :23])


@pytest.mark.parametrize("transfer_syntax", COMPRESSED)
def test_matrix_that_differs_from_the_codestream(tmp_path, transfer_syntax):
    (path,) = write_series(
        chest((1, 24, 26)),
        tmp_path,
        transfer_syntax=transfer_syntax,
        slice_extra=[{"Rows": 30, "Columns": 30}],
    )
    code = "truncated_pixels" if transfer_syntax == uids.RLE else "corrupt_pixels"
    refused(path, code)


@pytest.mark.parametrize("transfer_syntax", COMPRESSED)
def test_bits_that_differ_from_the_codestream(tmp_path, transfer_syntax):
    (path,) = write_series(
        chest((1, 24, 26)),
        tmp_path,
        transfer_syntax=transfer_syntax,
        slice_extra=[{"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}],
    )
    refused(path, "corrupt_pixels")


def test_compressed_stream_without_its_end(tmp_path):
    (path,) = write_series(chest((1, 24, 26)), tmp_path, transfer_syntax=uids.JPEG_LOSSLESS_SV1)
    data = path.read_bytes()
    at = data.rindex(b"\xff\xd9")
    assert "end marker" in refused(
        patched(tmp_path, data[:at] + b"\0\0" + data[at + 2 :]), "truncated_pixels"
    )


@pytest.mark.parametrize("padding", [0, 1, 62, 63, 64, 65, 126, 127, 128, 1000])
def test_zeros_behind_a_stream_are_no_damage(padding):
    assert has_end_marker(b"\xff\xd8 some stream \xff\xd9" + bytes(padding))
    assert not has_end_marker(b"\xff\xd8 some stream \xff" + bytes(padding))
    assert not has_end_marker(bytes(padding))


def test_left_justified_values_under_a_codec():
    """HighBit 15 with 12 bits stored: RLE and lossless codecs hold what is allocated."""
    values = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
    cells = values << 4 | 5
    rle = struct.pack("<16I", 2, 64, 64 + 2 * 129, *[0] * 13)
    for shift in (8, 0):
        flat = (cells.ravel() >> shift & 0xFF).astype(np.uint8)
        rle += b"".join(b"\x7f" + flat[half : half + 128].tobytes() for half in (0, 128))
    frame = make_frame(
        rows=16, columns=16, bits_stored=12, high_bit=15, signed=False, transfer_syntax=uids.RLE
    )
    np.testing.assert_array_equal(decode_frame(rle, frame), values)
    frame = replace(frame, transfer_syntax=uids.JPEG_LS)
    np.testing.assert_array_equal(decode_frame(imagecodecs.jpegls_encode(cells), frame), values)


def test_compressed_data_under_an_uncompressed_name(tmp_path):
    (path,) = write_series(chest((1, 24, 26)), tmp_path, transfer_syntax=uids.RLE)
    data = path.read_bytes().replace(
        b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.5\0",
        b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0",
    )
    refused(patched(tmp_path, data), "corrupt_pixels")


@pytest.mark.parametrize("last", ["53", "55", "92", "100", "4711"])
def test_what_cannot_be_decoded_is_named(tmp_path, last):
    (path,) = write_series(chest((1, 24, 26)), tmp_path, transfer_syntax=uids.JPEG_LS)
    (frame,) = frames_of(path)
    uid = f"1.2.840.10008.1.2.4.{last}"
    with pytest.raises(CTReadError) as caught:
        read_plane(replace(frame, transfer_syntax=uid))
    assert caught.value.code == "no_decoder"
    assert uid in str(caught.value)
    assert uids.syntax_of(uid).name in str(caught.value)
    assert uids.syntax_of(uid).remedy in str(caught.value)


@pytest.mark.parametrize("transfer_syntax", RAW + COMPRESSED)
def test_flipped_bytes_give_a_plane_or_a_clear_error(tmp_path, transfer_syntax):
    (path,) = write_series(chest((1, 24, 26)), tmp_path, transfer_syntax=transfer_syntax)
    data = path.read_bytes()
    (frame,) = frames_of(path)
    start = 350 if transfer_syntax == uids.DEFLATED else frame.pixel_offset
    rng = np.random.default_rng(2)
    outcomes = set()
    for _ in range(150):
        broken = bytearray(data)
        for at in rng.integers(start, len(data), rng.integers(1, 8)):
            broken[at] = rng.integers(0, 256)
        try:
            found, _ = read_all(patched(tmp_path, bytes(broken)))
            assert found.shape == (1, 24, 26)
            outcomes.add("read")
        except CTReadError as error:
            outcomes.add(error.code)
    known = {"read", "corrupt_pixels", "truncated_pixels", "no_decoder"}
    if transfer_syntax == uids.DEFLATED:
        assert outcomes - known  # the header is inside what was damaged
    else:
        assert outcomes <= known
        assert "read" in outcomes or "corrupt_pixels" in outcomes


@pytest.mark.parametrize("transfer_syntax", COMPRESSED)
def test_garbage_instead_of_a_stream(tmp_path, transfer_syntax):
    (path,) = write_series(chest((1, 24, 26)), tmp_path, transfer_syntax=transfer_syntax)
    data = path.read_bytes()
    (frame,) = frames_of(path)
    table = struct.unpack("<I", data[frame.pixel_offset + 4 : frame.pixel_offset + 8])[0]
    start = frame.pixel_offset + 8 + table + 8
    noise = np.random.default_rng(3).bytes(len(data) - start - 8)
    refused(patched(tmp_path, data[:start] + noise + data[-8:]), "corrupt_pixels")


# --- real files ---------------------------------------------------------------------------------


@pytest.mark.real
@needs_real
def test_sixteen_encodings_of_one_slice():
    folder = Path(REAL) / "syntaxes"
    truth = pydicom.dcmread(folder / "CTImage.dcm")
    expected = truth.pixel_array.astype(int) - 1024
    expected[truth.pixel_array == truth["PixelPaddingValue"].value] = AIR
    most = {"4.91": 6, "4.81": 1, "4.51": 40, "4.50": 600}
    seen = 0
    for path in sorted(folder.glob("CTImage*")):
        if path.stem.endswith(("4.53", "4.55")):
            refused(path, "no_decoder")
            continue
        found, _ = read_all(path)
        allowed = next((most[end] for end in most if path.stem.endswith(end)), 0)
        assert np.abs(found[0] - expected).max() <= allowed, path.name
        seen += 1
    assert seen == 14


@pytest.mark.real
@needs_real
def test_fragmented_enhanced_object():
    """No other decoder at hand reads 12-bit JPEG, so pydicom only puts the fragments together."""
    (path,) = (Path(REAL) / "syntaxes").glob("CT0012*")
    dataset = pydicom.dcmread(path)
    found, _ = read_all(path)
    streams = generate_frames(dataset.PixelData, number_of_frames=2)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for plane, stream, own in zip(
        found, streams, dataset.PerFrameFunctionalGroupsSequence, strict=True
    ):
        group = own if "PixelValueTransformationSequence" in own else shared
        rescale = group.PixelValueTransformationSequence[0]
        stored = imagecodecs.jpeg8_decode(stream)
        expected = stored * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept)
        np.testing.assert_array_equal(plane, expected)
    assert not np.array_equal(found[0], found[1])


@pytest.mark.real
@needs_real
def test_real_scans_equal_pydicom_but_for_padding():
    compared = 0
    with open_sources(REAL) as sources:
        for source in sources:
            if "syntaxes" in source.path or source.name.startswith("LICENSE"):
                continue
            (frame,) = read_frames(source)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset = pydicom.dcmread(source.path)
                stored = dataset.pixel_array.astype(np.float64)
            expected = stored * float(dataset.get("RescaleSlope", 1))
            expected += float(dataset.get("RescaleIntercept", 0))
            expected[stored == (np.inf if frame.padding_value is None else frame.padding_value)] = (
                AIR
            )
            np.testing.assert_array_equal(read_plane(frame), expected)
            compared += 1
    assert compared > 40


@pytest.mark.parametrize("size", [8, 16, 11, 5])  # of 16: a half, the same, others
@pytest.mark.parametrize("intercept", [-1024.0, -1023.0, -1000.0, 0.0, 7.0, -1030.0, -3000.0])
@pytest.mark.parametrize(("low", "high"), [(0, 3000), (-2000, 1500), (5000, 5001)])
def test_fitting_on_the_way_equals_fitting_afterwards(tmp_path, size, intercept, low, high):
    """Sums may come before the mean or after it, in scratch memory or not."""
    stored = np.random.default_rng(1).integers(low, high, (4, 16, 16))
    hu = (stored + intercept).astype(np.int16)
    write_series(hu, tmp_path, intercept=intercept, signed=low < 0)
    paths = sorted(tmp_path.iterdir())
    found, summary = read_all(paths, size=size)
    assert np.array_equal(read_all(paths)[0], hu)
    assert np.array_equal(found, fit_in_plane(hu, size))
    assert (summary.hu_min, summary.hu_max) == (hu.min(), hu.max())
