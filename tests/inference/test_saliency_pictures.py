"""Pictures of a map: colours by value, marks, and nothing where nothing speaks for the label."""

import numpy as np
import pytest
from PIL import Image

from ct_video_hf.errors import CTVideoError
from ct_video_hf.inference import overlay_rgba, saliency_figure
from ct_video_hf.inference.saliency import SaliencyMap
from tests.support.prediction import chest_hu, volume_of


def _map(volume, spots):
    """A map of 12 x 12 cells with values at (slice, h, w)."""
    slices, rows, columns = volume.hu.shape
    grid = np.zeros((slices, 12, 12), np.float32)
    for place, value in spots.items():
        grid[place] = value
    weights = [np.repeat(np.eye(12), size // 12, 0).astype(np.float32) for size in (rows, columns)]
    return SaliencyMap(
        grid, *weights, volume.affine, list(volume.source_index), "nodule", "marked",
        clips=[{"score": 0.9}], model={"name": "tiny"},
    )  # fmt: skip


def _drawn(volume, spots, path, **options):
    with Image.open(saliency_figure(volume, _map(volume, spots), path, **options)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int), str(picture.info)


def _coloured(pixels):
    """Pixels that are not grey, left of the colour bar and below the words."""
    spread = pixels.max(2) - pixels.min(2)
    return int((spread[150:-120, : int(0.4 * pixels.shape[1])] > 60).sum())


def test_colours_grow_with_the_value_and_leave_the_rest_clear():
    colours = overlay_rgba(np.array([[0.0, 0.04, 0.3, 1.0]]), opacity=0.5)
    assert colours.dtype == np.uint8
    assert colours[0, :2, 3].tolist() == [0, 0]
    assert 0 < colours[0, 2, 3] < colours[0, 3, 3] == 128
    assert colours[0, 3, :3].sum() > colours[0, 2, :3].sum()
    with pytest.raises(CTVideoError, match="opacity"):
        overlay_rgba(np.zeros((2, 2)), opacity=1.5)


def test_the_map_is_drawn_where_it_is_and_as_opaque_as_asked(tmp_path):
    volume = volume_of(chest_hu(40))
    spots = {(20, 5, 4): 0.9, (30, 6, 7): 0.6}
    clear, info = _drawn(volume, spots, tmp_path / "a.png", opacity=0.0)
    full, _ = _drawn(volume, spots, tmp_path / "a.png", opacity=0.9)
    assert 1500 <= full.shape[1] <= 2400
    assert 600 <= full.shape[0] <= 2400
    assert _coloured(full) > 1000 > 100 > _coloured(clear)
    assert not any(identifier in info for identifier in volume.slice_ids)
    changed = np.abs(full - clear).max(2)[:, : int(0.6 * full.shape[1])] > 40
    rows = np.flatnonzero(changed.any(1))
    assert rows.min() > 0.45 * len(full)  # the upper line is the scan alone
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_without_evidence_the_scan_is_shown_alone(tmp_path):
    pixels, _ = _drawn(volume_of(chest_hu(40)), {}, tmp_path / "a.png")
    assert _coloured(pixels) == 0
    assert pixels[200:-150].std() > 30


def test_a_map_of_another_volume_is_refused(tmp_path):
    found = _map(volume_of(chest_hu(40)), {})
    with pytest.raises(CTVideoError, match="made of"):
        saliency_figure(volume_of(chest_hu(30)), found, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
