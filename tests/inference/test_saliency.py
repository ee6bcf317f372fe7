"""Saliency: at the right place in the patient, for the label, in order of the scores."""

import json

import numpy as np
import pytest
import torch

import ct_video_hf
from ct_video_hf.dicom.write import write_series
from ct_video_hf.errors import CTVideoError
from ct_video_hf.inference import CTVideoPipeline, LoadedModel
from ct_video_hf.inference.saliency import plane_places
from tests.support.brightness import brightness_model, brightness_pipeline, brightness_processor
from tests.support.prediction import chest_hu, tiny_model, tiny_processor, volume_of

BALL_HU = 1500


def _body(slices=30, rows=72, columns=72):
    """int16 HU: tissue in air."""
    hu = np.full((slices, rows, columns), -1000, np.int16)
    hu[:, rows // 8 : -rows // 8, columns // 8 : -columns // 8] = 40
    return hu


def _with_ball(hu, centre, widths=(1.0, 4.0, 4.0)):
    """Add a ball that is brightest in its middle and fades away."""
    places = zip(np.indices(hu.shape), centre, widths, strict=True)
    distance = sum(((index - middle) / width) ** 2 for index, middle, width in places)
    return (hu + (BALL_HU - 40) * np.exp(-distance / 2)).astype(np.int16)


@pytest.mark.parametrize(("rows", "columns"), [(72, 72), (96, 96), (128, 100), (60, 90)])
@pytest.mark.parametrize("centre", [(7, 0.5, 0.4), (22, 0.4, 0.6)])
def test_the_brightest_place_is_where_the_ball_is(rows, columns, centre):
    """Whatever padding, resizing and cropping did: within half a cell of the plane."""
    slices, row, column = centre[0], centre[1] * rows, centre[2] * columns
    volume = volume_of(_with_ball(_body(30, rows, columns), (slices, row, column)))
    found = brightness_pipeline().saliency(volume)
    place = found.most_suspicious(1)[0]
    half = 2 * max(rows, columns) / 72 + 1
    assert place["index"] in range(slices - 1, slices + 2)
    assert abs(place["row"] - row) <= half
    assert abs(place["column"] - column) <= half
    assert found.values.shape == volume.hu.shape
    assert found.values.dtype == np.float32
    np.testing.assert_array_equal(found.affine, volume.affine)
    position = volume.position(place["index"], place["row"], place["column"])
    np.testing.assert_allclose(place["position_mm"], position)
    assert place["source_index"] == volume.source_index[place["index"]]


def test_a_cell_shines_at_its_own_pixel():
    """A cell of stride 4 looks at pixel 4 i: a lit pixel there is the peak, to the pixel."""
    hu = _body(16)
    hu[8, 4 + 4 * 5, 4 + 4 * 9] = BALL_HU  # 4 pixels are cropped on each side
    found = brightness_pipeline().saliency(volume_of(hu))
    place = found.most_suspicious(1)[0]
    assert (place["index"], place["row"], place["column"]) == (8, 24, 40)


def test_outside_of_the_crop_nothing_was_seen():
    hu = np.full((16, 72, 72), BALL_HU, np.int16)
    hu[0] = -1000  # not all bright
    values = brightness_pipeline().saliency(volume_of(hu)).values
    assert (values[8, 4:68, 4:68] > 0.9 * values.max()).all()
    values[:, 4:68, 4:68] = 0
    assert not values.any()


def test_places_undo_padding_resizing_and_the_crop():
    processor = brightness_processor(size=64, crop_size=32)
    rows, columns = plane_places(128, 100, processor)
    np.testing.assert_allclose(rows[32:96], np.arange(64) / 2 - 0.25)
    assert np.isnan(rows[:32]).all()
    assert np.isnan(rows[96:]).all()
    np.testing.assert_allclose(columns[18], -0.25)
    assert np.isfinite(columns).sum() == 64


def test_evidence_is_for_the_label():
    """Where brightness speaks against the label, the ball is the last to speak for it."""
    volume = volume_of(_with_ball(_body(), (20, 36, 36)))
    away = brightness_pipeline(brightness_model((-1.0,))).saliency(volume)
    assert not away.values.any()
    assert not away.most_suspicious()
    assert all(clip["explained"] < 0 and clip["strongest"] == 0 for clip in away.clips)


def test_with_a_softmax_what_speaks_against_the_other_class_counts():
    volume = volume_of(_with_ball(_body(), (20, 36, 36)))
    kind = {"problem_type": "single_label_classification"}
    first, second = (
        brightness_pipeline(brightness_model(weights, **kind)).saliency(volume)
        for weights in ((-1.0, 0.0), (1.0, 0.0))  # the label is class 1
    )
    assert first.most_suspicious(1)[0]["index"] in (19, 20, 21)
    assert not second.values.any()


@pytest.mark.parametrize("head_pool", ["mean", "max"])
@pytest.mark.parametrize("name", ["slow_tiny", "slow_r50"])
def test_contributions_add_up_to_the_score(name, head_pool):
    """Completeness of linear heads: all contributions are the logit without the bias."""
    from tests.models.backbone_cases import tiny_model as tiny_backbone

    model = tiny_backbone(name, num_channels=1, head_pool=head_pool)
    torch.nn.init.constant_(model.classifier.bias, 0.7)
    frames = model.config.num_frames
    processor = tiny_processor(num_frames=frames, stride=frames)
    predict = CTVideoPipeline(LoadedModel(model, processor, "tiny"), device="cpu")
    found = predict.saliency(volume_of(chest_hu(20)))
    for clip in found.clips:
        assert clip["explained"] == pytest.approx(clip["logit"] - 0.7, abs=1e-4)
        assert clip["logit"] != pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize("part", ["classifier", "backbone"])
def test_another_network_makes_another_map(part):
    """The sanity check of arXiv 1810.03292: the map is about the weights, not about edges."""
    volume = volume_of(chest_hu(30))
    maps = []
    for seed in (0, 1):
        model = tiny_model()
        torch.manual_seed(seed)
        for parameter in getattr(model, part).parameters():
            torch.nn.init.normal_(parameter, 0, 0.3)
        predict = CTVideoPipeline(LoadedModel(model, tiny_processor(), "tiny"), device="cpu")
        maps.append(predict.saliency(volume).values.ravel())
    assert min(values.std() for values in maps) > 0
    assert np.corrcoef(maps)[0, 1] < 0.8


def test_padding_is_no_place_of_the_scan():
    """The clip's darkest frames are the air after the last slice; the map is about the others."""
    dark = brightness_model((1.0,), darkness=True)
    hu = np.full((11, 72, 72), 40, np.int16)
    hu[0, 0, 0] = -1000
    hu[7, 30:38, 30:38] = -400
    found = brightness_pipeline(dark).saliency(volume_of(hu))
    assert found.shape == (11, 72, 72)
    (clip,) = found.clips
    assert (clip["start"], clip["stop"]) == (0, 11)
    assert found.most_suspicious(1)[0]["index"] == 7
    assert found.values.max() == pytest.approx(clip["score"], rel=1e-5)


def test_overlapping_clips_give_the_larger_value():
    volume = volume_of(_with_ball(_body(40), (20, 36, 36)))
    predict = brightness_pipeline()
    found = predict.saliency(volume)
    assert [clip["start"] for clip in found.clips] == [0, 8, 16, 24]
    alone = []
    for clip in found.clips:
        part = volume_of(volume.hu[clip["start"] : clip["stop"]])
        one = predict.saliency(part)
        whole = np.zeros_like(found.grid)
        whole[clip["start"] : clip["stop"]] = one.grid * one.scale
        alone.append(whole)
        assert one.clips[0]["score"] == pytest.approx(clip["score"], abs=1e-6)
        assert one.grid.max() == pytest.approx(clip["score"], abs=1e-6)
    np.testing.assert_allclose(found.grid * found.scale, np.max(alone, axis=0), rtol=1e-4)
    brightest = max(found.clips, key=lambda clip: clip["score"] * clip["strongest"])
    assert found.grid.max() == pytest.approx(brightest["score"])


def test_the_first_key_slice_is_the_brightest_of_its_clip(model_folder):
    predict = ct_video_hf.pipeline(model_folder, device="cpu")
    volume = volume_of(chest_hu(60))
    result, found = predict(volume), predict.saliency(volume)
    best = max(result["clips"], key=lambda clip: clip["score"])
    alone = predict.saliency(volume_of(volume.hu[best["start"] : best["stop"]]))
    assert result["key_slices"][0]["index"] == best["start"] + alone.grid.max((1, 2)).argmax()
    assert [clip["score"] for clip in found.clips] == pytest.approx(
        [clip["score"] for clip in result["clips"]], abs=1e-6
    )


@pytest.mark.parametrize(
    "options", [{"batch_size": 1}, {"backend": "fast"}, {"dtype": "bfloat16"}], ids=str
)
def test_every_backend_and_batch_makes_the_same_map(model_folder, options):
    volume = volume_of(chest_hu(30))
    usual = ct_video_hf.pipeline(model_folder, device="cpu", backend="eager").saliency(volume)
    predict = ct_video_hf.pipeline(model_folder, device="cpu", **options)
    other = predict.saliency(volume)
    assert other.precision == predict.backend.precision
    assert other.backend == predict.backend.name
    if "dtype" in options:
        assert "bfloat16" in other.precision
        assert np.corrcoef(usual.values.ravel(), other.values.ravel())[0, 1] > 0.98
    else:
        np.testing.assert_allclose(other.values, usual.values, atol=1e-3)


@pytest.mark.parametrize("column", [10, 35, 61])
def test_flips_give_the_mean_of_both_sides_mapped_back(column):
    """In cells' shares of the log-odds: of one clip, of which nothing speaks against the label."""
    hu = _with_ball(_body(16), (8, 36, column))

    def added(hu, tta=None):
        found = brightness_pipeline(tta=tta).saliency(volume_of(np.ascontiguousarray(hu)))
        (clip,) = found.clips
        return found.values * found.scale / clip["score"] * 16**3, clip

    (one, left), (other, right) = added(hu), added(hu[..., ::-1])
    both, clip = added(hu, "flips")
    np.testing.assert_allclose(both, (one + other[..., ::-1]) / 2, atol=1e-4)
    assert np.abs(one - other[..., ::-1]).max() > 0.02  # a cell's mirror image is no cell
    for part in ("logit", "explained"):
        assert clip[part] == pytest.approx((left[part] + right[part]) / 2, abs=1e-6)


@pytest.mark.parametrize("name", ["slow_tiny", "mvit_b_32x3"])
def test_with_flips_the_map_of_a_mirrored_scan_is_the_mirrored_map(name):
    from tests.models.backbone_cases import tiny_model as tiny_backbone

    model = tiny_backbone(name, num_channels=1, num_labels=3)
    frames, size = model.config.num_frames, getattr(model.config, "image_size", 64)
    processor = tiny_processor(num_frames=frames, stride=frames, size=size + 8, crop_size=size)
    predict = CTVideoPipeline(LoadedModel(model, processor, "tiny"), device="cpu", tta="flips")
    hu = chest_hu(20)
    found = predict.saliency(volume_of(hu))
    mirrored = predict.saliency(volume_of(np.ascontiguousarray(hu[..., ::-1])))
    np.testing.assert_allclose(mirrored.values, found.values[..., ::-1], atol=1e-4)
    assert np.abs(found.values - found.values[..., ::-1]).max() > 0.01
    result = predict(volume_of(hu))
    scores = [clip["score"] for clip in result["clips"]]
    assert [clip["score"] for clip in found.clips] == pytest.approx(scores, abs=1e-6)
    assert found.to_dict()["test_time_augmentation"] == result["test_time_augmentation"]


def test_a_map_is_said_in_json_without_identifiers():
    volume = volume_of(_with_ball(_body(), (20, 36, 36)))
    text = json.dumps(brightness_pipeline().saliency(volume).to_dict(), allow_nan=False)
    assert "HiResCAM" in text
    assert not any(identifier in text for identifier in volume.slice_ids)


def test_source_order():
    volume = volume_of(_with_ball(_body(), (20, 36, 36)))  # source order runs from head to feet
    found = brightness_pipeline().saliency(volume)
    order = list(found.in_source_order())
    assert [source for source, _ in order] == list(range(30))
    np.testing.assert_array_equal(order[9][1], found.plane(20))


def test_slices_may_be_kept_apart():
    volume = volume_of(_with_ball(_body(), (20, 36, 36)))
    found = brightness_pipeline().saliency(volume)
    indices = [place["index"] for place in found.most_suspicious(4, apart=5)]
    assert len(indices) == 4
    assert min(np.diff(sorted(indices))) >= 5


_FEET_FIRST = {"orientation": (-1, 0, 0, 0, 1, 0)}
_PRONE = {"orientation": (-1, 0, 0, 0, -1, 0)}
_SIDE = {"orientation": (0, 1, 0, -1, 0, 0)}
_OBLIQUE = {"orientation": (1, 0, 0, 0, np.cos(0.2), np.sin(0.2))}


@pytest.mark.parametrize(
    "options",
    [{}, _FEET_FIRST, _PRONE, _SIDE, _OBLIQUE, {"spacing": (5.0, 0.9, 0.9)}],
    ids=["usual", "feet first", "prone", "on the side", "oblique", "thick slices"],
)
def test_the_place_in_the_patient_of_dicom_scans(tmp_path, options):
    """The ball's place in mm is known from what was written, not from what was read."""
    spacing = options.get("spacing", (2.5, 1.2, 1.2))
    stored = np.array([11, 30, 44])
    write_series(
        _with_ball(_body(24), stored), tmp_path / "scan",
        **({"spacing": spacing, "origin": (-30.0, 20.0, -400.0), "shuffle": True} | options),
    )  # fmt: skip
    across, down = np.reshape(options.get("orientation", (1, 0, 0, 0, 1, 0)), (2, 3))
    steps = np.stack([np.cross(across, down), down, across]) * np.array(spacing)[:, None]
    expected = np.array([-30.0, 20.0, -400.0]) + stored @ steps
    found = brightness_pipeline().saliency(tmp_path / "scan")
    place = found.most_suspicious(1)[0]
    # One slice, and half a cell of 4 pixels in the plane.
    tolerance = np.abs(steps.T) @ np.array([1.01, 2.6, 2.6])
    assert (np.abs(np.array(place["position_mm"]) - expected) <= tolerance + 1e-6).all()


@pytest.mark.parametrize("shape", [(96, 96), (60, 90), (90, 60)])
def test_a_path_and_its_volume_give_the_same_map(tmp_path, shape):
    """Read at the network's size, on the grid of the scan all the same."""
    hu = _with_ball(_body(24, *shape), (10, 0.4 * shape[0], 0.6 * shape[1]))
    write_series(
        hu, tmp_path / "scan", origin=(-30.0, 20.0, -400.0), orientation=(1, 0, 0, 0, 0.8, 0.6)
    )
    predict = brightness_pipeline()
    volume = ct_video_hf.read_ct(tmp_path / "scan")
    found, expected = predict.saliency(tmp_path / "scan"), predict.saliency(volume)
    np.testing.assert_allclose(found.affine, volume.affine, atol=1e-9)
    np.testing.assert_array_equal(found.values, expected.values)
    assert found.source_index == expected.source_index


def test_too_short_a_scan_is_refused():
    with pytest.raises(CTVideoError, match="5 slice"):
        brightness_pipeline().saliency(volume_of(_body(5)))
