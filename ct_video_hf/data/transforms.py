"""From a stored clip to ``pixel_values``: augmentation in training, the centre otherwise.

Rotation and crop are one affine map for each plane, applied to uint16 HU + 1024 before windowing
and filled with air (stored 0). Windows come afterwards, from the processor, so that one prepared
set serves every window and the evaluation path is the processor's own, bit for bit. Jitter of
intensity and window is a change of the window's two ends, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import get_worker_info

from ..models.hu_clips import AIR_HU, window_clips
from ..models.processing_ct import CTVideoProcessor
from .errors import CTDataError
from .stored_volume import to_window

__all__ = ["AUGMENTATIONS", "Augmentation", "ClipTransform"]


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a clip in training, besides the random crop.

    Attributes
    ----------
    rotation_degrees : int
        Largest rotation either way; a whole number of degrees is drawn.
    flip_columns, flip_rows, flip_slices : bool
        Mirror left and right, front and back, head and feet, each with probability 1/2. Off: a
        mirrored chest has its heart on the wrong side.
    intensity_scale : float
        HU are multiplied by a factor drawn from 1 - x to 1 + x (about water, 0 HU).
    intensity_shift : float
        HU; a shift drawn from -x to x is added.
    window_jitter : float
        Every window's centre is moved by a share of its width drawn from -x to x, and its width
        multiplied by a factor drawn from 1 - x to 1 + x.

    Raises
    ------
    CTDataError
        For a value out of range.
    """

    rotation_degrees: int = 20
    flip_columns: bool = False
    flip_rows: bool = False
    flip_slices: bool = False
    intensity_scale: float = 0.0
    intensity_shift: float = 0.0
    window_jitter: float = 0.0

    def __post_init__(self) -> None:
        degrees = self.rotation_degrees
        if not 0 <= degrees <= 180 or int(degrees) != degrees:
            raise CTDataError(f"rotation_degrees is {degrees!r}; a whole number from 0 to 180")
        for name, limit in (
            ("intensity_scale", 0.9), ("intensity_shift", 1000.0), ("window_jitter", 0.9)
        ):  # fmt: skip
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise CTDataError(f"{name} is {value!r}; a number from 0 to {limit:g}")

    @property
    def jitters(self) -> bool:
        """Whether values change, and not only their places."""
        return bool(self.intensity_scale or self.intensity_shift or self.window_jitter)


#: By name: what arXiv 2304.00546 trains with (any preset of it), nothing, and a wider choice.
AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(rotation_degrees=0),
    "paper": Augmentation(rotation_degrees=20),
    "wide": Augmentation(
        rotation_degrees=20, intensity_scale=0.05, intensity_shift=20.0, window_jitter=0.1
    ),
}


class ClipTransform:
    """Turn a stored clip into network input.

    Parameters
    ----------
    processor : CTVideoProcessor
        Windows, crop, clip length and normalisation.
    train : bool
        Augment and crop at random; otherwise take the central crop.
    augmentation : Augmentation, str or None
        A name in :data:`AUGMENTATIONS` or its own; None is the paper's.
    seed : int
        (seed, epoch, index) decides an augmentation, whatever the number of workers or processes,
        so that a resumed run repeats it.
    stored_window : (float, float), optional
        The window that the set keeps in 8 bits, see :func:`.rows.stored_window`.
    **options
        Fields of :class:`Augmentation` that replace those of ``augmentation``.

    Raises
    ------
    CTDataError
        For options out of range, or where an 8-bit set cannot give what is asked for: another
        window, or jitter, which needs what lies outside the window.
    """

    def __init__(
        self,
        processor: CTVideoProcessor,
        train: bool,
        augmentation: Augmentation | str | None = None,
        seed: int = 0,
        *,
        stored_window: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        self.processor = processor
        self.train = train
        self.augmentation = _chosen(augmentation, options)
        self.seed = int(seed)
        self.stored_window = None if stored_window is None else tuple(map(float, stored_window))
        self._tables: list[np.ndarray] = []
        self._air = 0
        if self.stored_window is not None:
            self._refuse_what_is_lost()
            self._tables = _tables(processor)
            air = to_window(np.full((1, 1, 1), AIR_HU, np.int16), self.stored_window)
            self._air = int(air[0, 0, 0])

    def _refuse_what_is_lost(self) -> None:
        held = ",".join(f"{value:g}" for value in self.stored_window)
        asked = [tuple(window) for window in self.processor.windows]
        if set(asked) != {self.stored_window}:
            raise CTDataError(
                f"the set keeps 8 bits of the window {held} HU, and the processor asks for "
                f"{' and '.join(f'{c:g},{w:g}' for c, w in asked)}: use that window (--windows "
                f"{held}), or prepare a set without --store-window, which serves every window"
            )
        if self.train and self.augmentation.jitters:
            raise CTDataError(
                f"the set keeps 8 bits of the window {held} HU; jitter of intensity or window "
                "needs what lies outside it: leave jitter off, or prepare a set without "
                "--store-window"
            )

    def __call__(self, clip: np.ndarray, *, index: int = 0, epoch: int = 0) -> torch.Tensor:
        """Transform one clip.

        Parameters
        ----------
        clip : numpy.ndarray
            (slices, row, column): uint16 HU + 1024, or uint8 of ``stored_window``; shorter than
            ``num_frames`` is filled up with air at its end. Not changed.
        index, epoch : int
            Decide the augmentation together with the seed.

        Returns
        -------
        torch.Tensor
            float32 (num_frames, num_channels, plane_size, plane_size).

        Raises
        ------
        CTDataError
            When the clip is of another kind, its planes are not of the processor's ``size``, or it
            is too long.
        """
        processor = self.processor
        self._check(clip)
        side = processor.plane_size
        planes = np.empty((processor.num_frames, side, side), clip.dtype)
        planes[len(clip) :] = self._air
        windows = processor.windows
        if self.train:
            random = np.random.default_rng([self.seed, epoch, index])
            self._move(clip, planes[: len(clip)], random)
            if self.augmentation.jitters:
                windows = _jittered(windows, self.augmentation, random)
        else:
            planes[: len(clip)] = processor.center_crop(clip)
        if self.stored_window is not None:
            return self._looked_up(planes)
        if windows is processor.windows:
            return processor.to_pixel_values(planes[None])[0]
        pixels = window_clips(
            planes[None], windows, processor.num_channels, processor.mean, processor.std
        )
        return torch.from_numpy(pixels)[0]

    def _check(self, clip: np.ndarray) -> None:
        size, frames = self.processor.size, self.processor.num_frames
        kind = np.dtype(np.uint16 if self.stored_window is None else np.uint8)
        if clip.dtype != kind or clip.ndim != 3:
            raise CTDataError(
                f"a clip of {clip.dtype} {clip.shape}; {kind} (slice, row, column) is expected "
                "(uint8 with stored_window, uint16 without)"
            )
        if clip.shape[1:] != (size, size):
            raise CTDataError(
                f"planes of {clip.shape[1]}x{clip.shape[2]} pixels, but the processor's size is "
                f"{size}: prepare the set with size={size}, or use a processor with size "
                f"{clip.shape[1]}"
            )
        if not 1 <= len(clip) <= frames:
            raise CTDataError(f"a clip of {len(clip)} slices; num_frames is {frames}")

    def _move(self, clip: np.ndarray, out: np.ndarray, random: np.random.Generator) -> None:
        """Fill ``out`` with a random rotation and crop of ``clip``, the same for every plane."""
        chosen = self.augmentation
        angle = int(random.integers(-chosen.rotation_degrees, chosen.rotation_degrees + 1))
        room = clip.shape[-1] - out.shape[-1]
        top, left = (int(value) for value in random.integers(0, room + 1, 2))
        flips = random.random(3) < 0.5  # drawn always: switching one on leaves the rest alone
        if angle == 0:
            out[...] = clip[:, top : top + out.shape[1], left : left + out.shape[2]]
        else:
            _rotate_and_crop(clip, out, angle, top, left, self._air)
        wanted = (chosen.flip_slices, chosen.flip_rows, chosen.flip_columns)
        for axis in range(3):
            if wanted[axis] and flips[axis]:
                out[...] = np.flip(out, axis).copy()

    def _looked_up(self, planes: np.ndarray) -> torch.Tensor:
        """8 bits to network input: one table a channel, made once."""
        frames, side = len(planes), planes.shape[-1]
        out = np.empty((frames, len(self._tables), side, side), np.float32)
        known: dict[int, int] = {}
        for channel, table in enumerate(self._tables):
            if id(table) in known:
                out[:, channel] = out[:, known[id(table)]]
                continue
            known[id(table)] = channel
            if len(self._tables) == 1:
                cv2.LUT(planes.reshape(-1, side), table, out.reshape(-1, side))
            else:
                looked_up = cv2.LUT(planes.reshape(-1, side), table)
                out[:, channel] = looked_up.reshape(planes.shape)
        return torch.from_numpy(out)


def _chosen(augmentation: Augmentation | str | None, options: dict[str, Any]) -> Augmentation:
    names = [field.name for field in fields(Augmentation)]
    unknown = sorted(set(options) - set(names))
    if unknown:
        raise CTDataError(
            f"there is no augmentation {', '.join(unknown)}; known are {', '.join(names)}"
        )
    if isinstance(augmentation, str):
        if augmentation not in AUGMENTATIONS:
            raise CTDataError(
                f"augmentation {augmentation!r}; known are {', '.join(AUGMENTATIONS)}"
            )
        augmentation = AUGMENTATIONS[augmentation]
    start = augmentation or AUGMENTATIONS["paper"]
    return Augmentation(**({name: getattr(start, name) for name in names} | options))


def _jittered(
    windows: Sequence[Sequence[float]], chosen: Augmentation, random: np.random.Generator
) -> list[list[float]]:
    """The windows that see the clip as ``windows`` would see it after the jitter."""
    scale = 1 + random.uniform(-1, 1) * chosen.intensity_scale
    shift = random.uniform(-1, 1) * chosen.intensity_shift
    found = []
    for centre, width in windows:
        moved = centre + width * random.uniform(-1, 1) * chosen.window_jitter
        widened = width * (1 + random.uniform(-1, 1) * chosen.window_jitter)
        found.append([(moved - shift) / scale, widened / scale])
    return found


def _tables(processor: CTVideoProcessor) -> list[np.ndarray]:
    """What each channel makes of 0 to 255, in the processor's own arithmetic; equal ones shared."""
    steps = np.arange(256, dtype=np.float32) / np.float32(255)
    channels = processor.num_channels
    means = processor.mean or [0.0] * channels
    stds = processor.std or [1.0] * channels
    made = {
        (mean, std): (steps - np.float32(mean)) / np.float32(std)
        for mean, std in zip(means, stds, strict=True)
    }
    return [made[pair] for pair in zip(means, stds, strict=True)]


def _rotate_and_crop(
    clip: np.ndarray, out: np.ndarray, angle: float, top: int, left: int, air: int = 0
) -> None:
    """Rotate about the plane's centre and cut at (top, left), interpolating once and linearly."""
    if get_worker_info() is not None and cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)  # loader workers share the cores already
    centre = ((clip.shape[2] - 1) / 2, (clip.shape[1] - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, angle, 1.0)
    matrix[:, 2] -= (left, top)
    size = (out.shape[2], out.shape[1])
    for source, target in zip(clip, out, strict=True):
        cv2.warpAffine(
            source,
            matrix,
            size,
            dst=target,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=air,
        )
