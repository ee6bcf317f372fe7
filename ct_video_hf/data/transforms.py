"""From a stored clip to ``pixel_values``: augmentation in training, the centre otherwise.

Rotation and crop are one affine map for each plane, applied to uint16 HU + 1024 before windowing
and filled with air (stored 0). Windows come afterwards, from the processor, so that one prepared
set serves every window and the evaluation path is the processor's own, bit for bit.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch.utils.data import get_worker_info

from ..models.processing_ct import CTVideoProcessor
from .errors import CTDataError

__all__ = ["ClipTransform"]


class ClipTransform:
    """Turn a stored clip into network input.

    Parameters
    ----------
    processor : CTVideoProcessor
        Windows, crop, clip length and normalisation.
    train : bool
        Rotate and crop at random; otherwise take the central crop.
    rotation_degrees : int
        Largest rotation either way; a whole number of degrees is drawn (arXiv 2304.00546: 20).
    flip_columns, flip_rows, flip_slices : bool
        Mirror left and right, front and back, head and feet, each with probability 1/2. Off: a
        mirrored chest has its heart on the wrong side.
    seed : int
        (seed, epoch, index) decides an augmentation, whatever the number of workers or processes,
        so that a resumed run repeats it.
    """

    def __init__(
        self,
        processor: CTVideoProcessor,
        train: bool,
        rotation_degrees: int = 20,
        seed: int = 0,
        *,
        flip_columns: bool = False,
        flip_rows: bool = False,
        flip_slices: bool = False,
    ) -> None:
        if not 0 <= rotation_degrees <= 180 or int(rotation_degrees) != rotation_degrees:
            raise CTDataError(
                f"rotation_degrees is {rotation_degrees!r}; a whole number from 0 to 180"
            )
        self.processor = processor
        self.train = train
        self.rotation_degrees = int(rotation_degrees)
        self.seed = int(seed)
        self.flip_columns = flip_columns
        self.flip_rows = flip_rows
        self.flip_slices = flip_slices

    def __call__(self, clip: np.ndarray, *, index: int = 0, epoch: int = 0) -> torch.Tensor:
        """Transform one clip.

        Parameters
        ----------
        clip : numpy.ndarray
            uint16 (slices, row, column), HU + 1024; shorter than ``num_frames`` is filled up with
            air at its end. Not changed.
        index, epoch : int
            Decide the augmentation together with the seed.

        Returns
        -------
        torch.Tensor
            float32 (num_frames, num_channels, plane_size, plane_size).

        Raises
        ------
        CTDataError
            When the planes are not of the processor's ``size``, or the clip is too long.
        """
        processor = self.processor
        if clip.dtype != np.uint16 or clip.ndim != 3:
            raise CTDataError(f"a clip of {clip.dtype} {clip.shape}; uint16 (slice, row, column)")
        if clip.shape[1:] != (processor.size, processor.size):
            raise CTDataError(
                f"planes of {clip.shape[1]}x{clip.shape[2]} pixels, but the processor's size is "
                f"{processor.size}: prepare the set with size={processor.size}, or use a processor "
                f"with size {clip.shape[1]}"
            )
        if not 1 <= len(clip) <= processor.num_frames:
            raise CTDataError(f"a clip of {len(clip)} slices; num_frames is {processor.num_frames}")
        side = processor.plane_size
        planes = np.empty((processor.num_frames, side, side), np.uint16)
        planes[len(clip) :] = 0
        if self.train:
            self._augment(clip, planes[: len(clip)], index, epoch)
        else:
            planes[: len(clip)] = processor.center_crop(clip)
        return processor.to_pixel_values(planes[None])[0]

    def _augment(self, clip: np.ndarray, out: np.ndarray, index: int, epoch: int) -> None:
        """Fill ``out`` with a random rotation and crop of ``clip``, the same for every plane."""
        random = np.random.default_rng([self.seed, epoch, index])
        angle = int(random.integers(-self.rotation_degrees, self.rotation_degrees + 1))
        room = clip.shape[-1] - out.shape[-1]
        top, left = (int(value) for value in random.integers(0, room + 1, 2))
        flips = random.random(3) < 0.5  # drawn always: switching one on leaves the rest alone
        if angle == 0:
            out[...] = clip[:, top : top + out.shape[1], left : left + out.shape[2]]
        else:
            _rotate_and_crop(clip, out, angle, top, left)
        for axis, wanted in enumerate((self.flip_slices, self.flip_rows, self.flip_columns)):
            if wanted and flips[axis]:
                out[...] = np.flip(out, axis).copy()


def _rotate_and_crop(clip: np.ndarray, out: np.ndarray, angle: float, top: int, left: int) -> None:
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
            borderValue=0,  # air
        )
