"""The processor: golden tensors, one result by every path, refusals, JSON."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch

from ct_video_hf.dicom.resample import fit_in_plane
from ct_video_hf.models.hu_clips import as_hu, fit_planes
from ct_video_hf.models.processing_ct import PROCESSOR_PRESETS, CTVideoProcessor

SMALL = {"size": 32, "crop_size": 24, "num_frames": 8}


def volume(slices=20, rows=32, columns=32, seed=0):
    """HU from plain integer arithmetic, so that it is the same on every machine."""
    grid = np.indices((slices, rows, columns), dtype=np.int64)
    mixed = grid[0] * 7919 + grid[1] * 104729 + grid[2] * 1299709 + seed
    return ((mixed * mixed + 12345) % 2600 - 1100).astype(np.int16)


def digest(tensor):
    return hashlib.sha256(np.ascontiguousarray(tensor.numpy()).tobytes()).hexdigest()


@dataclass
class HasHU:
    hu: np.ndarray


# Each hash is of float32 little-endian bytes; every operation on the way rounds once, so they hold
# on any machine. They were written down when the rules were settled: a change of any rule shows.
GOLDEN = {
    "paper-rsna": "327d9bc3ccc4fd5cad0fcaa8f8c4dfb614ea2ce071fb659607638017f8596c7d",
    "paper-lidc": "16323ed0eb17e5ea83590be226f641afb5c11ab6440425457bbe8e78b0da8142",
    "three-windows": "1a0a16bc34a10890c129184458421e0612d8365f95f1204692d5f870d145e5bc",
    "kinetics": "b2a0043f782c69ccabafe36cbc96ae24bb6d9a09a3d637f960e4506cc91fb5d9",
}


@pytest.mark.parametrize("preset", sorted(PROCESSOR_PRESETS))
def test_golden_tensor_of_every_preset(preset):
    processor = CTVideoProcessor.from_preset(preset, **SMALL, stride=6)
    pixels = processor(volume())["pixel_values"]
    assert pixels.shape == (3, 8, 3, 24, 24)
    assert digest(pixels) == GOLDEN[preset]


def test_golden_values_by_hand():
    hu = np.full((8, 32, 32), -1000, np.int16)
    hu[3, 10, 11] = 150
    processor = CTVideoProcessor(
        **SMALL, windows=[[-600, 1500], [400, 1000], [40, 400]], mean=[0.1, 0.2, 0.3], std=[0.5] * 3
    )
    pixels = processor(hu)["pixel_values"]
    at = pixels[0, 3, :, 10 - 4, 11 - 4]
    expected = [(1.0 - 0.1) / 0.5, (0.25 - 0.2) / 0.5, ((150 + 160) / 400 - 0.3) / 0.5]
    np.testing.assert_allclose(at, expected, rtol=1e-6)
    air = pixels[0, 0, :, 0, 0]
    np.testing.assert_allclose(air, [(350 / 1500 - 0.1) / 0.5, -0.4, -0.6], rtol=1e-6)


def test_single_window_is_repeated_on_all_channels():
    pixels = CTVideoProcessor(**SMALL)(volume())["pixel_values"]
    assert torch.equal(pixels[:, :, 0], pixels[:, :, 1])
    assert torch.equal(pixels[:, :, 0], pixels[:, :, 2])
    one = CTVideoProcessor(**SMALL, num_channels=1)(volume())["pixel_values"]
    assert torch.equal(one, pixels[:, :, :1])
    assert pixels.min() == np.float32((-1024 + 1350) / 1500)
    assert pixels.max() == 1


def test_every_path_gives_the_same_bits():
    hu = volume(20, 40, 36)
    processor = CTVideoProcessor.from_preset("paper-rsna", **SMALL, stride=6)
    whole = processor(HasHU(hu))
    array = processor(hu)
    assert torch.equal(whole["pixel_values"], array["pixel_values"])
    np.testing.assert_array_equal(whole["clip_starts"], [0, 6, 12])
    np.testing.assert_array_equal(whole["clip_lengths"], [8, 8, 8])
    by_hand = processor([hu[start : start + 8] for start in (0, 6, 12)])
    assert torch.equal(by_hand["pixel_values"], whole["pixel_values"])
    stacked = processor(np.stack([hu[start : start + 8] for start in (0, 6, 12)]))
    assert torch.equal(stacked["pixel_values"], whole["pixel_values"])
    planes = processor.center_crop(processor.fit(hu))
    clips, _ = processor.cut(planes, processor.clip_starts(len(hu)))
    assert torch.equal(processor.to_pixel_values(clips), whole["pixel_values"])
    stored = (clips.astype(np.int32) + 1024).astype(np.uint16)
    assert torch.equal(processor.to_pixel_values(stored), whole["pixel_values"])
    numpy_form = processor(hu, return_tensors="np")["pixel_values"]
    assert isinstance(numpy_form, np.ndarray)
    np.testing.assert_array_equal(numpy_form, whole["pixel_values"].numpy())
    assert torch.equal(processor(torch.from_numpy(hu))["pixel_values"], whole["pixel_values"])
    assert torch.equal(processor(hu.astype(np.float64))["pixel_values"], whole["pixel_values"])


def test_tail_is_padded_with_air_and_counted():
    hu = volume(19) // 2
    processor = CTVideoProcessor(**SMALL)
    batch = processor(hu)
    np.testing.assert_array_equal(batch["clip_starts"], [0, 8, 16])
    np.testing.assert_array_equal(batch["clip_lengths"], [8, 8, 3])
    tail = batch["pixel_values"][2]
    assert torch.all(tail[3:] == np.float32((-1024 + 1350) / 1500))
    assert torch.equal(tail[:3], processor(hu[-8:])["pixel_values"][0, 5:])


@pytest.mark.parametrize(
    ("slices", "stride", "tail", "starts"),
    [
        (32, None, "pad", [0]),
        (33, None, "pad", [0, 32]),
        (64, None, "pad", [0, 32]),
        (20, None, "pad", [0]),
        (80, 24, "pad", [0, 24, 48]),
        (81, 24, "pad", [0, 24, 48, 72]),
        (81, 24, "shift", [0, 24, 48, 49]),
        (20, 24, "shift", [0]),
        (81, 24, "drop", [0, 24]),
        (80, 24, "drop", [0, 24]),
        (55, 24, "drop", []),
    ],
)
def test_clip_starts(slices, stride, tail, starts):
    processor = CTVideoProcessor(stride=stride, tail=tail)
    found = processor.clip_starts(slices)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, starts)


@pytest.mark.parametrize("tail", ["pad", "shift"])
@pytest.mark.parametrize("stride", [1, 5, 8])
def test_every_slice_lies_in_a_clip(tail, stride):
    processor = CTVideoProcessor(num_frames=8, tail=tail, stride=stride)
    for slices in range(4, 40):
        starts = processor.clip_starts(slices)
        covered = {index for start in starts for index in range(start, start + 8)}
        assert covered >= set(range(slices))
        assert len(set(starts.tolist())) == len(starts)
        assert starts.max() < slices


def test_stride_of_the_call_wins_and_is_checked():
    processor = CTVideoProcessor(**SMALL)
    assert len(processor(volume(), stride=4)["clip_starts"]) == 4
    with pytest.raises(ValueError, match="stride 9 exceeds num_frames 8"):
        processor(volume(), stride=9)
    with pytest.raises(ValueError, match="clips already"):
        processor([volume(8)], stride=4)


def test_drop_without_a_clip_is_an_error_not_an_empty_batch():
    processor = CTVideoProcessor(**SMALL, tail="drop")
    with pytest.raises(ValueError, match="leaves no clip of a study of 12 slices"):
        processor(volume(12))


def test_fit_pads_to_a_square_with_air_and_averages_areas():
    hu = np.zeros((2, 64, 48), np.int16)
    hu[1] = 100
    fitted = fit_planes(hu, 32)
    assert fitted.dtype == np.int16
    assert fitted.flags.c_contiguous
    assert np.all(fitted[:, :, :4] == -1024)
    assert np.all(fitted[:, :, 28:] == -1024)
    assert np.all(fitted[0, :, 4:28] == 0)
    assert np.all(fitted[1, :, 4:28] == 100)
    block = volume(1, 64, 64)
    means = np.maximum(block, -1024).reshape(1, 32, 2, 32, 2).mean((2, 4))
    assert np.abs(fit_planes(block, 32) - means).max() <= 0.5


def test_fit_enlarges_linearly_and_keeps_equal_sizes():
    hu = volume(2, 20, 20)
    big = fit_planes(hu, 50)
    expected = cv2.resize(
        (np.maximum(hu[1], -1024) + 1024).astype(np.float32),
        (50, 50),
        interpolation=cv2.INTER_LINEAR,
    )
    assert np.abs(big[1].astype(np.float32) + 1024 - expected).max() <= 1
    np.testing.assert_array_equal(fit_planes(hu, 20), np.maximum(hu, -1024))


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 50, 61), (2, 20, 33), (1, 32, 32)])
def test_fit_is_the_scan_readers(shape):
    """Two copies, for these files must work alone; they may not drift apart."""
    hu = volume(*shape)
    np.testing.assert_array_equal(fit_planes(hu, 32), fit_in_plane(hu, 32))


def test_int16_extremes_survive():
    hu = np.full((1, 4, 4), 32767, np.int16)
    hu[0, 0, 0] = -32768
    assert fit_planes(hu, 4)[0, 1, 1] == 32767
    assert fit_planes(hu, 4)[0, 0, 0] == -1024


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((20, 32, 32), np.float32), "windowed to 0..1 already"),
        (np.full((20, 32, 32), 0.5) + volume() * 1e-6, "windowed to 0..1 already"),
        (volume().astype(np.float32) / 500, "normalised already"),
        (volume().astype(np.uint8), "8-bit"),
        ((volume() % 256).astype(np.int16), "8-bit picture"),
        ((volume() + 1200).astype(np.uint16), "before the rescale"),
        (np.where(volume() > 1490, np.nan, volume().astype(np.float32)), "NaN or infinite values"),
        (volume().astype(np.int64) * 1000, "beyond int16"),
        (volume() > 0, "dtype bool"),
        (np.zeros((0, 32, 32), np.int16), "too short"),
        (volume()[0], "one slice, not a study"),
        (volume()[:1], "A study of 1 slice"),
        (volume()[:3], "A study of 3 slice"),
        (volume(32, 32, 20), "looks like \\(row, column, slice\\)"),
        (np.repeat(volume(8)[:, None], 3, 1), "clip 0 has 3 frames"),
        (volume()[None, None], "neither a volume"),
        ([volume(9)], "clip 0 has 9 frames"),
        ([volume(8), volume(8)[0]], "Stack slices"),
        ([], "list of clips is empty"),
        ([HasHU(volume())], "One volume at a time"),
    ],
)
def test_what_is_not_hu_or_not_a_study_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        CTVideoProcessor(**SMALL)(given)


def test_a_short_study_is_accepted_from_min_slices_on():
    processor = CTVideoProcessor(**SMALL, min_slices=2)
    batch = processor(volume(2))
    np.testing.assert_array_equal(batch["clip_lengths"], [2])
    assert CTVideoProcessor(**SMALL).min_slices == 4


def test_int16_is_not_copied_by_the_check():
    hu = volume()
    assert as_hu(hu) is hu


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": 256.0}, "size is 256.0"),
        ({"crop_size": 300}, "crop_size 300 exceeds size 256"),
        ({"num_frames": True}, "num_frames is True"),
        ({"stride": 33}, "stride 33 exceeds num_frames 32"),
        ({"tail": "keep"}, "allowed: pad, shift, drop"),
        ({"windows": []}, "windows is"),
        ({"windows": [[1, 2, 3]]}, "windows holds"),
        ({"windows": [[40, 0]]}, "every width must be above 0"),
        ({"windows": [[40, 400], [1, 2]]}, "2 windows for num_channels 3"),
        ({"windows": [[float("nan"), 400]]}, "finite"),
        ({"mean": [0.1, 0.2]}, "mean has 2 values"),
        ({"mean": "0.1"}, "mean is '0.1'"),
        ({"std": [0.1, 0.0, 0.1]}, "above 0"),
    ],
)
def test_fields_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        CTVideoProcessor(**fields)


def test_unknown_fields_and_presets_are_refused():
    with pytest.raises(TypeError, match="window_center"):
        CTVideoProcessor(window_center=40)
    with pytest.raises(ValueError, match="no processor preset 'paper'; known: kinetics"):
        CTVideoProcessor.from_preset("paper")
    with pytest.raises(TypeError, match="no field crop"):
        CTVideoProcessor.from_dict(CTVideoProcessor().to_dict(), crop=3)


def test_presets_hold_the_papers_settings():
    rsna = CTVideoProcessor.from_preset("paper-rsna")
    assert (rsna.size, rsna.crop_size, rsna.num_frames, rsna.stride) == (256, 224, 32, 24)
    assert rsna.windows == [[400.0, 1000.0]]
    assert rsna.mean == [0.15897] * 3
    assert rsna.std is None
    lidc = CTVideoProcessor.from_preset("paper-lidc")
    assert (lidc.windows, lidc.stride, lidc.mean) == ([[-600.0, 1500.0]], None, None)
    three = CTVideoProcessor.from_preset("three-windows")
    assert three.windows == [[-600.0, 1500.0], [400.0, 1000.0], [40.0, 400.0]]
    lidc.windows[0][0] = 1.0  # a preset is not shared state
    assert CTVideoProcessor.from_preset("paper-lidc").windows == [[-600.0, 1500.0]]


@pytest.mark.parametrize("preset", sorted(PROCESSOR_PRESETS))
def test_json_round_trip(preset, tmp_path):
    processor = CTVideoProcessor.from_preset(preset, num_frames=24)
    processor.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"video_preprocessor_config.json", "processing_ct.py", "hu_clips.py"}
    again = CTVideoProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    overridden = CTVideoProcessor.from_pretrained(tmp_path, stride=4)
    assert overridden.stride == 4
    saved = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert saved["auto_map"] == {"AutoVideoProcessor": "processing_ct.CTVideoProcessor"}
    saved["stridee"] = 3
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(saved))
    with pytest.raises(TypeError, match="stridee"):
        CTVideoProcessor.from_pretrained(tmp_path)


def test_nonsense_set_later_is_not_saved(tmp_path):
    processor = CTVideoProcessor()
    processor.stride = 100
    with pytest.raises(ValueError, match="stride 100"):
        processor.save_pretrained(tmp_path)


def test_pickles_for_spawned_workers():
    processor = CTVideoProcessor.from_preset("kinetics", **SMALL)
    again = pickle.loads(pickle.dumps(processor))  # noqa: S301 - our own bytes
    assert torch.equal(again(volume())["pixel_values"], processor(volume())["pixel_values"])
