"""Arrays of Hounsfield units on their way to a network: checks, in-plane fit, clips, windows.

Everything here works on numpy arrays with axes (..., row, column) and keeps HU as int16 until the
very last step. The arithmetic of :func:`window_clips` is a chain of single float32 operations, each
rounded once, so that the same HU give the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

try:
    import cv2
except ImportError as error:  # inside try: transformers' import scanner must not stop a mere load
    raise ImportError(
        "CTVideoProcessor resizes CT slices with OpenCV, which is not installed. "
        "Install it with: pip install opencv-python-headless"
    ) from error

__all__ = [
    "AIR_HU",
    "as_hu",
    "clip_start_indices",
    "crop_centre",
    "cut_clips",
    "fit_planes",
    "window_clips",
]

#: HU given to voxels that hold no measurement: outside the scan and padding.
AIR_HU = -1024

_OFFSET = 1024  # uint16 storage is HU + 1024
_INT16 = np.iinfo(np.int16)


def as_hu(array: Any, what: str = "volume") -> np.ndarray:
    """Check that values are Hounsfield units and return them as int16.

    Parameters
    ----------
    array : array-like or torch.Tensor
        HU of any shape; whole numbers or floats (rounded to the nearest HU).
    what : str
        How error messages name the array.

    Returns
    -------
    numpy.ndarray
        int16 of the same shape; the input itself when it is int16 already.

    Raises
    ------
    ValueError
        For an empty array, 8-bit or non-numeric data, NaN or infinity, and values that cannot be
        HU of a patient: nothing below 0 HU (there is always air or fat), a range of 20 or less
        around zero (already windowed or normalised), or values beyond int16.
    """
    if hasattr(array, "detach"):  # a torch tensor, without importing torch here
        array = array.detach().cpu().numpy()
    array = np.asarray(array)
    if array.size == 0:
        raise ValueError(f"The {what} is empty: shape {array.shape}.")
    if array.dtype.kind not in "iuf":
        raise ValueError(
            f"The {what} has dtype {array.dtype}; Hounsfield units as int16 or float are expected."
        )
    if array.dtype.itemsize == 1:
        raise ValueError(
            f"The {what} is 8-bit ({array.dtype}): a picture, not Hounsfield units. Pass the HU of "
            "the scan (int16), as ct_video_hf.read_ct gives them; windows are applied here."
        )
    if array.dtype.kind == "f":
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise ValueError(
                f"The {what} holds {bad} NaN or infinite values of {array.size}. Replace voxels "
                f"without a measurement by air ({AIR_HU} HU)."
            )
    low, high = array.min(), array.max()
    _refuse_other_units(float(low), float(high), what)
    if array.dtype == np.int16:
        return array
    if array.dtype.kind == "f":
        array = np.rint(array)
    return array.astype(np.int16)


def _refuse_other_units(low: float, high: float, what: str) -> None:
    seen = f"The values of the {what} span {low:g} to {high:g}"
    expected = "Hounsfield units are expected (air -1000, water 0)"
    if low < _INT16.min or high > _INT16.max:
        raise ValueError(f"{seen}, beyond int16: {expected}.")
    if low >= 0 and high <= 1:
        raise ValueError(
            f"{seen}: they look windowed to 0..1 already. {expected}; windows are applied here."
        )
    if low >= -20 and high <= 20:
        raise ValueError(
            f"{seen}: they look normalised already. {expected}; mean and std are applied here."
        )
    if low >= 0 and high <= 255:
        raise ValueError(f"{seen}: they look like an 8-bit picture. {expected}.")
    if low >= 0:
        raise ValueError(
            f"{seen}, and nothing lies below 0: they look like stored values before the rescale "
            f"slope and intercept, or like HU + 1024. {expected}; read the scan with "
            "ct_video_hf.read_ct, or subtract the offset."
        )


def fit_planes(hu: np.ndarray, size: int) -> np.ndarray:
    """Bring every plane to ``size`` x ``size`` pixels.

    Planes that are not square are first padded to a square with air, the scan in the middle.
    Shrinking averages areas, enlarging interpolates linearly, both on HU + 1024 as uint16; values
    below -1024 HU become -1024.

    Parameters
    ----------
    hu : numpy.ndarray
        int16, shape (slice, row, column).
    size : int
        Side of the result in pixels.

    Returns
    -------
    numpy.ndarray
        int16, shape (slice, size, size), C-contiguous, a new array.
    """
    slices, rows, columns = hu.shape
    side = max(rows, columns)
    top, left = (side - rows) // 2, (side - columns) // 2
    method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    out = np.empty((slices, size, size), np.int16)
    square = np.zeros((side, side), np.uint16)
    inside = square[top : top + rows, left : left + columns]
    wide = np.empty((rows, columns), np.int32)
    for index in range(slices):
        np.add(hu[index], _OFFSET, out=wide, dtype=np.int32)
        np.clip(wide, 0, 65535, out=wide)
        inside[...] = wide
        plane = square if side == size else cv2.resize(square, (size, size), interpolation=method)
        np.subtract(plane, _OFFSET, out=out[index], dtype=np.int32, casting="unsafe")
    return out


def crop_centre(hu: np.ndarray, size: int) -> np.ndarray:
    """Cut the central ``size`` x ``size`` window out of the last two axes (a view).

    Raises
    ------
    ValueError
        When the planes are smaller than ``size``.
    """
    rows, columns = hu.shape[-2:]
    if rows < size or columns < size:
        raise ValueError(
            f"Planes of {rows}x{columns} pixels cannot be cropped to {size}x{size}: crop_size must "
            "not exceed size."
        )
    top, left = (rows - size) // 2, (columns - size) // 2
    return hu[..., top : top + size, left : left + size]


def clip_start_indices(
    n_slices: int, num_frames: int, stride: int, tail: str = "pad"
) -> np.ndarray:
    """First slice of every clip of a study.

    Parameters
    ----------
    n_slices, num_frames, stride : int
        Slices in the study, in a clip, and between the starts of neighbouring clips.
    tail : {"pad", "shift", "drop"}
        What happens to slices after the last whole clip. ``"pad"``: one more clip on the grid, its
        end filled with air (the study's LIDC way). ``"shift"``: one more clip that ends with the
        last slice. ``"drop"``: the published RSNA rule of ``(n_slices - num_frames) // stride``
        clips, which loses even the last whole one; it is here to reproduce numbers.

    Returns
    -------
    numpy.ndarray
        int64, ascending. With ``"pad"`` and ``"shift"`` every slice lies in a clip and a study
        shorter than a clip gives one start, 0; ``"drop"`` may give none.
    """
    beyond = n_slices - num_frames
    if tail == "drop":
        return np.arange(max(beyond // stride, 0), dtype=np.int64) * stride
    starts = np.arange(0, max(beyond, 0) + 1, stride, dtype=np.int64)
    if beyond > starts[-1]:
        extra = starts[-1] + stride if tail == "pad" else beyond
        starts = np.append(starts, np.int64(extra))
    return starts


def cut_clips(
    hu: np.ndarray, starts: Sequence[int] | np.ndarray, num_frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut clips out of a volume; what lies after its last slice is air.

    Parameters
    ----------
    hu : numpy.ndarray
        int16, shape (slice, row, column).
    starts : sequence of int
        First slice of each clip.
    num_frames : int
        Slices in a clip.

    Returns
    -------
    clips : numpy.ndarray
        int16, shape (clip, num_frames, row, column).
    lengths : numpy.ndarray
        int64, shape (clip,): slices of the scan in each clip, the rest of it being air.
    """
    starts = np.asarray(starts, np.int64)
    if len(starts) and (starts.min() < 0 or starts.max() >= len(hu)):
        raise ValueError(
            f"Clip starts {starts.min()} to {starts.max()} leave the study's {len(hu)} slices."
        )
    lengths = np.minimum(len(hu) - starts, num_frames)
    clips = np.empty((len(starts), num_frames, *hu.shape[1:]), np.int16)
    for clip, start, length in zip(clips, starts, lengths, strict=True):
        clip[:length] = hu[start : start + length]
        clip[length:] = AIR_HU
    return clips, lengths


def window_clips(
    clips: np.ndarray,
    windows: Sequence[Sequence[float]],
    num_channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> np.ndarray:
    """Map HU to network input: windows to 0..1 as channels, then mean and standard deviation.

    Parameters
    ----------
    clips : numpy.ndarray
        Shape (clip, frame, row, column): int16 HU, or uint16 holding HU + 1024.
    windows : sequence of (center, width)
        HU. One window fills all channels; otherwise one per channel.
    num_channels : int
        Channels of the result.
    mean, std : sequence of float or None
        One value a channel, on the 0..1 scale; None leaves that step out.

    Returns
    -------
    numpy.ndarray
        float32, shape (clip, frame, channel, row, column).
    """
    if clips.dtype == np.uint16:
        hu = np.subtract(clips, np.float32(_OFFSET), dtype=np.float32)
    else:
        hu = clips.astype(np.float32)
    out = np.empty((*hu.shape[:2], num_channels, *hu.shape[2:]), np.float32)
    done: dict[tuple[float, ...], int] = {}
    for channel in range(num_channels):
        center, width = windows[channel if len(windows) > 1 else 0]
        shift = 0.0 if mean is None else mean[channel]
        scale = 1.0 if std is None else std[channel]
        target = out[:, :, channel]
        recipe = (center, width, shift, scale)
        if recipe in done:
            target[...] = out[:, :, done[recipe]]
            continue
        done[recipe] = channel
        np.subtract(hu, np.float32(center - width / 2), out=target)
        np.divide(target, np.float32(width), out=target)
        np.clip(target, np.float32(0), np.float32(1), out=target)
        if mean is not None:
            np.subtract(target, np.float32(shift), out=target)
        if std is not None:
            np.divide(target, np.float32(scale), out=target)
    return out
