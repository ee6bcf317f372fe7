import cv2
import numpy as np
import pytest
import torch

from ct_video_hf.data.clips import CTClipDataset, build_clip_index
from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.loading import load_prepared
from ct_video_hf.data.prepare_options import PrepareOptions
from ct_video_hf.data.sources import prepare
from ct_video_hf.data.stored_volume import to_window
from ct_video_hf.data.transforms import AUGMENTATIONS, Augmentation, ClipTransform
from ct_video_hf.dicom import read_ct
from ct_video_hf.models.processing_ct import CTVideoProcessor
from tests.support.dicom_folders import random_hu, write_folder_set


@pytest.fixture
def clip():
    return (random_hu(0, 16, 48).astype(np.int32) + 1024).astype(np.uint16)


@pytest.fixture
def processor():
    return CTVideoProcessor(size=48, crop_size=40, num_frames=16)


@pytest.mark.parametrize("tail", ["pad", "shift"])
@pytest.mark.parametrize("preset", ["paper-rsna", "paper-lidc", "three-windows", "kinetics"])
def test_evaluation_is_the_processor_bit_for_bit(tmp_path, preset, tail):
    """Through DICOM, the prepared set and the clips, or straight through the processor."""
    write_folder_set(tmp_path / "scans", studies=3, side=45)
    size = 32 if preset == "paper-lidc" else 48  # shrunk, and enlarged
    prepare(
        "folder",
        tmp_path / "scans",
        tmp_path / "set",
        options=PrepareOptions(size=size),
        progress=False,
    )
    processor = CTVideoProcessor.from_preset(
        preset, size=size, crop_size=size - 4, num_frames=16, stride=12, tail=tail
    )
    data = load_prepared(tmp_path / "set", "all")
    index = build_clip_index(data, 16, 12, tail=tail)
    clips = CTClipDataset(data, index, ClipTransform(processor, train=False))
    for row in range(3):
        batch = processor(read_ct(tmp_path / "scans" / f"s{row}"))
        numbers = np.flatnonzero(index.study == row)
        assert index.start[numbers].tolist() == batch["clip_starts"].tolist()
        assert index.length[numbers].tolist() == batch["clip_lengths"].tolist()
        found = torch.stack([clips[number]["pixel_values"] for number in numbers])
        assert torch.equal(found, batch["pixel_values"])


def test_padding_is_air(processor, clip):
    for train in (False, True):
        pixels = ClipTransform(processor, train)(clip[:9])
        air = processor.to_pixel_values(np.full((1, 7, 40, 40), -1024, np.int16))[0]
        assert torch.equal(pixels[9:], air)


def test_seed_epoch_and_index_decide(processor, clip):
    transform = ClipTransform(processor, True, seed=1)
    one = transform(clip, index=3, epoch=2)
    assert torch.equal(one, ClipTransform(processor, True, seed=1)(clip, index=3, epoch=2))
    for other in (
        transform(clip, index=4, epoch=2),
        transform(clip, index=3, epoch=3),
        ClipTransform(processor, True, seed=2)(clip, index=3, epoch=2),
    ):
        assert not torch.equal(one, other)


def test_without_rotation_it_is_an_exact_crop(processor, clip):
    transform = ClipTransform(processor, True, rotation_degrees=0)
    seen = set()
    for index in range(60):
        pixels = transform(clip, index=index)
        matches = [
            (top, left)
            for top in range(9)
            for left in range(9)
            if torch.equal(
                pixels,
                processor.to_pixel_values(clip[None, :, top : top + 40, left : left + 40])[0],
            )
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert {top for top, _ in seen} == set(range(9))  # every offset, both ends included
    assert {left for _, left in seen} == set(range(9))


def test_rotation_is_the_stated_affine():
    """Against float64 bilinear interpolation by hand, before windowing, filled with air."""
    size, side, angle, top, left = 64, 56, 17, 5, 2
    plane = np.zeros((1, size, size), np.uint16)
    rows, columns = np.mgrid[:size, :size]
    plane[0] = 1000 + 400 * np.sin(rows / 6) * np.cos(columns / 5) + 3 * rows
    out = np.empty((1, side, side), np.uint16)
    from ct_video_hf.data.transforms import _rotate_and_crop

    _rotate_and_crop(plane, out, angle, top, left)
    centre = (size - 1) / 2
    y, x = np.mgrid[:side, :side].astype(float)
    y, x = y + top - centre, x + left - centre
    turn = np.deg2rad(angle)  # counter-clockwise on the screen, rows growing downwards
    source_x = np.cos(turn) * x - np.sin(turn) * y + centre
    source_y = np.sin(turn) * x + np.cos(turn) * y + centre
    padded = np.pad(plane[0].astype(float), 20)
    x0, y0 = np.floor(source_x).astype(int), np.floor(source_y).astype(int)
    fx, fy = source_x - x0, source_y - y0
    x0, y0 = x0 + 20, y0 + 20
    expected = (padded[y0, x0] * (1 - fx) + padded[y0, x0 + 1] * fx) * (1 - fy)
    expected += (padded[y0 + 1, x0] * (1 - fx) + padded[y0 + 1, x0 + 1] * fx) * fy
    inside = (source_x > 1) & (source_x < size - 2) & (source_y > 1) & (source_y < size - 2)
    difference = np.abs(out[0] - expected)
    assert difference[inside].max() < 8  # OpenCV keeps 1/32 of a pixel; the slope is up to 80
    assert difference[inside].mean() < 1
    outside = (source_x < -1) | (source_x > size) | (source_y < -1) | (source_y > size)
    assert outside.any()
    assert (out[0][outside] == 0).all()  # air, stored as 0


def test_rotations_are_whole_degrees_in_range(processor, clip, monkeypatch):
    seen = []
    original = cv2.getRotationMatrix2D
    monkeypatch.setattr(
        cv2, "getRotationMatrix2D", lambda c, angle, s: seen.append(angle) or original(c, angle, s)
    )
    transform = ClipTransform(processor, True, rotation_degrees=3)
    for index in range(80):
        transform(clip[:1], index=index)
    assert set(seen) == {-3, -2, -1, 1, 2, 3}  # 0 is a plain crop


def test_flips_are_off_and_leave_the_rest_alone(processor, clip):
    plain = [ClipTransform(processor, True)(clip, index=index) for index in range(12)]
    flipped = [
        ClipTransform(processor, True, flip_columns=True)(clip, index=index) for index in range(12)
    ]
    same = [torch.equal(a, b) for a, b in zip(plain, flipped, strict=True)]
    assert 0 < sum(same) < 12
    for a, b, unchanged in zip(plain, flipped, same, strict=True):
        assert unchanged or torch.equal(a.flip(-1), b)


def test_the_stored_clip_is_not_changed(processor, clip):
    before = clip.copy()
    clip.flags.writeable = False
    ClipTransform(processor, True, flip_slices=True, flip_rows=True)(clip)
    assert np.array_equal(clip, before)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda clip: clip[:, :40], "planes of 40x48 pixels, but the processor's size is 48"),
        (lambda clip: clip.astype(np.int16), "a clip of int16"),
        (lambda clip: clip.astype(np.uint8), "a clip of uint8"),
        (lambda clip: np.concatenate([clip, clip]), "32 slices; num_frames is 16"),
        (lambda clip: clip[:0], "0 slices"),
    ],
)
def test_wrong_clips_are_refused(processor, clip, change, expected):
    with pytest.raises(CTDataError, match=expected):
        ClipTransform(processor, False)(change(clip))


def test_wrong_rotation_is_refused(processor):
    with pytest.raises(CTDataError, match=r"rotation_degrees is 12\.5"):
        ClipTransform(processor, True, rotation_degrees=12.5)


# ---- jitter -------------------------------------------------------------------------------------


def test_presets():
    paper = AUGMENTATIONS["paper"]
    assert (paper.rotation_degrees, paper.jitters) == (20, False)
    assert [paper.flip_columns, paper.flip_rows, paper.flip_slices] == [False] * 3
    assert ClipTransform(CTVideoProcessor(), True).augmentation == paper
    wide = ClipTransform(CTVideoProcessor(), True, "wide", rotation_degrees=3).augmentation
    assert (wide.rotation_degrees, wide.window_jitter) == (3, 0.1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"intensity_scale": 0.95}, "intensity_scale is 0.95"),
        ({"intensity_shift": -1}, "intensity_shift is -1"),
        ({"window_jitter": float("nan")}, "window_jitter is nan"),
        ({"rotation": 3}, "no augmentation rotation; known are rotation_degrees"),
        ({"augmentation": "heavy"}, "augmentation 'heavy'; known are none, paper, wide"),
    ],
)
def test_impossible_augmentations_are_refused(processor, options, expected):
    with pytest.raises(CTDataError, match=expected):
        ClipTransform(processor, True, **options)


def test_intensity_jitter_is_a_scale_and_a_shift_of_hu(clip):
    """Windowing the changed HU by hand gives what the moved window gives."""
    processor = CTVideoProcessor(size=48, crop_size=48, num_frames=16, windows=[[-200, 3000]])
    transform = ClipTransform(
        processor, True, "none", intensity_scale=0.1, intensity_shift=50, seed=4
    )
    seen = set()
    for index in range(12):
        random = np.random.default_rng([4, 0, index])
        random.integers(0, 1)  # the angle
        random.integers(0, 1, 2)  # the crop
        random.random(3)  # the flips
        scale, shift = 1 + random.uniform(-1, 1) * 0.1, random.uniform(-1, 1) * 50
        seen.add(round(scale, 3))
        hu = (clip.astype(np.float64) - 1024) * scale + shift
        expected = np.clip((hu + 1700) / 3000, 0, 1)
        found = transform(clip, index=index)[:, 0].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(seen) > 6


def test_window_jitter_moves_each_window_within_its_bounds(clip):
    windows = [[-600, 1500], [40, 400], [400, 1000]]
    processor = CTVideoProcessor(size=48, crop_size=48, num_frames=16, windows=windows)
    transform = ClipTransform(processor, True, "none", window_jitter=0.2)
    from ct_video_hf.data.transforms import _jittered

    moved = []
    for index in range(200):
        random = np.random.default_rng(index)
        for (centre, width), (was, wide) in zip(
            _jittered(windows, transform.augmentation, random), windows, strict=True
        ):
            assert abs(centre - was) <= 0.2 * wide
            assert 0.8 * wide <= width <= 1.2 * wide
            moved.append((centre - was) / wide)
    assert min(moved) < -0.15
    assert max(moved) > 0.15
    plain = ClipTransform(processor, True, "none")(clip)
    changed = transform(clip)
    assert (plain != changed).any()
    evaluation = ClipTransform(processor, False, window_jitter=0.2)(clip)
    assert torch.equal(evaluation, ClipTransform(processor, False)(clip))


def test_jitter_leaves_places_alone(processor, clip):
    """The same index is rotated and cropped alike with and without jitter."""
    plain = ClipTransform(processor, True)(clip, index=5)[:, 0]
    jittered = ClipTransform(processor, True, window_jitter=0.05)(clip, index=5)[:, 0]
    inside = (plain > 0.2) & (plain < 0.8)
    assert float((plain - jittered)[inside].abs().max()) < 0.15


# ---- one window in 8 bits ----------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["paper-rsna", "paper-lidc", "kinetics"])
def test_eight_bits_are_the_window_within_half_a_step(clip, preset):
    processor = CTVideoProcessor.from_preset(
        preset, size=48, crop_size=40, num_frames=16, stride=16
    )
    window = tuple(processor.windows[0])
    stored = to_window(clip.astype(np.int32).astype(np.int16) - 1024, window)
    kept = ClipTransform(processor, False, stored_window=window)
    exact = ClipTransform(processor, False)(clip[:9])
    step = 1 / 255 / (processor.std or [1.0])[0]
    difference = (kept(stored[:9]) - exact).abs()
    assert float(difference.max()) <= step / 2 + 1e-6
    assert float(difference.max()) > step / 4  # they are two ways


def test_eight_bits_are_augmented_as_hu_are(clip):
    processor = CTVideoProcessor(size=48, crop_size=40, num_frames=16, windows=[[0, 3300]])
    stored = to_window(clip.astype(np.int16) - 1024, (0, 3300))
    for index in range(6):
        options = {"flip_columns": True, "seed": 3}
        found = ClipTransform(processor, True, stored_window=(0, 3300), **options)
        exact = ClipTransform(processor, True, **options)(clip, index=index)
        difference = (found(stored, index=index) - exact).abs()
        assert float(difference.max()) <= 1.6 / 255  # rounded when stored and when turned


def test_air_of_a_window_that_reaches_below_it(clip):
    window = (0.0, 3000.0)  # from -1500 HU: air is not its lower end
    processor = CTVideoProcessor(size=48, crop_size=40, num_frames=16, windows=[window])
    stored = to_window(clip.astype(np.int16) - 1024, window)
    pixels = ClipTransform(processor, False, stored_window=window)(stored[:9])
    assert float(pixels[9:].min()) == float(pixels[9:].max()) == pytest.approx(476 / 3000, abs=2e-3)


def test_what_eight_bits_have_lost_is_refused(processor, clip):
    with pytest.raises(CTDataError, match=r"keeps 8 bits of the window 400,1000 HU.*-600,1500"):
        ClipTransform(processor, False, stored_window=(400, 1000))
    with pytest.raises(CTDataError, match="jitter of intensity or window needs what lies outside"):
        ClipTransform(processor, True, window_jitter=0.1, stored_window=(-600, 1500))
    with pytest.raises(CTDataError, match="a clip of uint16"):
        ClipTransform(processor, False, stored_window=(-600, 1500))(clip)
    assert Augmentation().jitters is False


@pytest.mark.parametrize("context", ["forkserver", "spawn"])
def test_workers_augment_as_one_process_does(tmp_path, context):
    """The seed of an augmentation is (seed, epoch, clip): workers cannot repeat each other."""
    write_folder_set(tmp_path / "scans", studies=3)
    options = PrepareOptions(size=48)
    prepare("folder", tmp_path / "scans", tmp_path / "set", options=options, progress=False)
    data = load_prepared(tmp_path / "set", "all")
    processor = CTVideoProcessor(size=48, crop_size=40, num_frames=8)
    clips = CTClipDataset(data, build_clip_index(data, 8), ClipTransform(processor, True, seed=9))
    clips.set_epoch(2)
    alone = [clips[number]["pixel_values"] for number in range(len(clips))]
    loader = torch.utils.data.DataLoader(
        clips, batch_size=None, num_workers=2, multiprocessing_context=context
    )
    for mine, theirs in zip(alone, loader, strict=True):
        assert torch.equal(mine, theirs["pixel_values"])
    assert not torch.equal(alone[0], alone[1])
