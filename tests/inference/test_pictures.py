"""The picture of a study: written whole, of a sane size, and without identifiers."""

import numpy as np
import pytest
from PIL import Image

import ct_video_hf
from ct_video_hf.errors import CTVideoError
from ct_video_hf.inference import study_figure
from ct_video_hf.inference.body_panels import _lanes, _spread
from tests.support.prediction import chest_hu, volume_of


@pytest.fixture(scope="module")
def predict(model_folder):
    return ct_video_hf.pipeline(model_folder, device="cpu", batch_size=8)


@pytest.mark.parametrize(("slices", "spacing"), [(9, 5.0), (24, 2.5), (200, 0.6)])
def test_pictures_of_short_and_long_studies(predict, tmp_path, slices, spacing):
    volume = volume_of(chest_hu(slices), (spacing, 1.4, 1.4))
    path = study_figure(volume, predict(volume), tmp_path / "deep" / "study.png")
    assert [file.name for file in path.parent.iterdir()] == ["study.png"]
    with Image.open(path) as picture:
        assert 1500 <= picture.width <= 2400
        assert 900 <= picture.height <= 2400
        pixels = np.asarray(picture.convert("RGB"))
        assert not any(identifier in str(picture.info) for identifier in volume.slice_ids)
    assert pixels.std() > 30
    orange = (abs(pixels.astype(int) - (0xE6, 0x9F, 0x00)).max(axis=2) < 12).sum()
    assert orange > 500  # the marks of the key slices


def test_the_key_slice_is_what_is_shown(predict, tmp_path):
    """Another key slice makes another picture in the place of the first one, and only there."""
    volume = volume_of(chest_hu(40))
    result = predict(volume)
    first = result["key_slices"][0] | {"z_mm": 0.0, "index": 4}
    pictures = []
    for key in (first, first | {"index": 28}):
        path = study_figure(volume, result | {"key_slices": [key]}, tmp_path / "p.png")
        pictures.append(np.asarray(Image.open(path).convert("L")).astype(int))
    different = np.abs(pictures[0] - pictures[1]) > 20
    height, width = different.shape
    assert different[: int(0.6 * height), : int(0.3 * width)].sum() > 1000
    assert different[int(0.65 * height) :].sum() == 0


def test_a_result_of_another_scan_is_refused(predict, tmp_path):
    result = predict(volume_of(chest_hu(40)))
    with pytest.raises(CTVideoError, match="40 slices"):
        study_figure(volume_of(chest_hu(30)), result, tmp_path / "p.png")
    assert not list(tmp_path.iterdir())


def test_lanes_of_overlapping_clips():
    clips = [{"start": start, "stop": start + 16} for start in range(0, 40, 8)]
    assert _lanes(clips) == [0, 1, 0, 1, 0]


def test_numbers_are_spread_within_the_range():
    places = _spread([10.0, 10.5, 11.0, 50.0, 99.0], 5.0, 0.0, 100.0)
    assert places[3] == 50.0  # nothing crowds it
    assert min(np.diff(places)) >= 5.0 - 1e-9
    assert places[0] >= 2.5
    assert places[-1] <= 97.5 + 1e-9
