import cv2
import numpy as np
import pytest
import torch

from ct_video_hf.data.clips import CTClipDataset, build_clip_index
from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.loading import load_prepared
from ct_video_hf.data.prepared import PrepareOptions
from ct_video_hf.data.sources import prepare
from ct_video_hf.data.transforms import ClipTransform
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
