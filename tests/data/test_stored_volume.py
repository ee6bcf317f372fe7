"""Voxels on their way from HU to a file, and the file that holds them."""

import json

import numpy as np
import pyarrow as pa
import pytest

from ct_video_hf.data.row_file import _HashingSink, file_digest, write_row
from ct_video_hf.data.stored_volume import StoredVolume, to_window, volume_view

#: Planes of 2 kB, of which many go together, and of half a MB, which go one by one.
SHAPES = [(300, 32, 32), (3, 512, 512)]
WINDOW = (-600.0, 1500.0)


def volume_of(shape, least=-1024):
    """HU from ``least`` to the highest that there are, all in use."""
    hu = np.random.default_rng(0).integers(least, 32768, shape).astype(np.int16)
    hu.flat[:3] = least, 32767, 31744
    return hu


def expected(hu, window=None):
    """The definition, in wide numbers."""
    if window is None:
        return np.maximum(hu.astype(int), -1024) + 1024
    low = window[0] - window[1] / 2
    return np.rint(np.clip((hu.astype(float) - low) / window[1], 0, 1) * 255)


def row_of(hu, lowest=-1024, window=None):
    return {
        "study_id": "a", "patient_hash": "b", "split": "train",
        "volume": StoredVolume(hu, lowest, window), "window": list(window or ()),
        "shape": list(hu.shape), "spacing": [1.0] * 3, "z_mm": [0.0] * len(hu),
        "slice_labels": np.empty(0, np.int8), "study_label": 0, "labels": [0.0], "weight": 1.0,
        "slice_ids": [], "report": json.dumps({}),
    }  # fmt: skip


@pytest.mark.parametrize("window", [None, WINDOW], ids=["HU", "8 bits"])
@pytest.mark.parametrize("least", [-1024, -32768])
@pytest.mark.parametrize("shape", SHAPES, ids=["small planes", "large planes"])
def test_what_is_written_is_what_is_read(tmp_path, shape, least, window):
    hu = volume_of(shape, least)
    before = hu.copy()
    size, digest = write_row(row_of(hu, least, window), tmp_path / "a.arrow")
    assert np.array_equal(hu, before)
    assert [file.name for file in tmp_path.iterdir()] == ["a.arrow"]
    assert (tmp_path / "a.arrow").stat().st_size == size
    assert file_digest(tmp_path / "a.arrow") == digest
    with pa.memory_map(str(tmp_path / "a.arrow")) as source:
        table = pa.ipc.open_stream(source).read_all()
    column = table["volume"].chunk(0)
    stored = volume_view(column, 0, shape, eight_bit=window is not None)
    assert np.array_equal(stored, expected(hu, window))
    assert table.drop_columns(["volume"]).to_pylist()[0]["shape"] == list(shape)


def test_a_window_keeps_every_step():
    hu = np.arange(-32768, 32768, dtype=np.int16).reshape(16, 64, 64)
    assert np.array_equal(to_window(hu, WINDOW), expected(hu, WINDOW))
    assert np.array_equal(to_window(hu[:, ::2], WINDOW), expected(hu[:, ::2], WINDOW))


def test_a_copy_of_the_stand_in_is_never_taken_for_the_volume(tmp_path):
    volume = StoredVolume(volume_of((2, 8, 8)), -1024)
    stand_in = pa.py_buffer(volume.stand_in())
    sink = _HashingSink(tmp_path / "a", volume, stand_in)
    sink.write(bytes(stand_in))
    sink.close()
    with pytest.raises(RuntimeError, match=f"pyarrow {pa.__version__} wrote a copy"):
        sink.hexdigest()
