"""From a CT volume in Hounsfield units to the ``pixel_values`` of a video network.

One object, saved as JSON beside every model, holds everything between the scan and the network:
in-plane size, crop, HU windows, mean and standard deviation, clip length, stride and tail rule.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from transformers.video_processing_utils import BaseVideoProcessor

from .hu_clips import (
    as_hu,
    clip_start_indices,
    crop_centre,
    cut_clips,
    fit_planes,
    window_clips,
)

__all__ = ["PROCESSOR_PRESETS", "TAIL_RULES", "CTVideoProcessor"]

TAIL_RULES = ("pad", "shift", "drop")

_LUNG = [-600.0, 1500.0]
_ANGIOGRAPHY = [400.0, 1000.0]
_SOFT_TISSUE = [40.0, 400.0]

#: Settings by name, see :meth:`CTVideoProcessor.from_preset`. The paper is arXiv 2304.00546.
PROCESSOR_PRESETS: dict[str, dict[str, Any]] = {
    # The paper's RSNA pulmonary embolism setting; 0.15897 is its training mean after windowing.
    "paper-rsna": {"windows": [_ANGIOGRAPHY], "mean": [0.15897] * 3, "stride": 24},
    # The paper's LIDC-IDRI setting: clips side by side, the last one filled with air.
    "paper-lidc": {"windows": [_LUNG]},
    # The paper's alternative of three windows as three channels.
    "three-windows": {"windows": [_LUNG, _ANGIOGRAPHY, _SOFT_TISSUE]},
    # Normalised as pytorchvideo's Kinetics networks were trained.
    "kinetics": {"windows": [_LUNG], "mean": [0.45] * 3, "std": [0.225] * 3},
}


class CTVideoProcessor(BaseVideoProcessor):
    """Turn a CT volume, or clips of it, into network input.

    Parameters
    ----------
    size : int
        Side in pixels that planes are brought to (area averaging when shrinking).
    crop_size : int or None
        Side of the central crop that the network sees; None keeps ``size``.
    windows : list of [center, width]
        HU windows mapped to 0..1. One is repeated on every channel; otherwise one a channel.
    num_channels : int
        Channels of ``pixel_values``.
    mean, std : list of float, or None
        Subtracted and divided by after windowing, one value a channel (a single value is used for
        all). None leaves the step out.
    num_frames : int
        Slices in a clip.
    stride : int or None
        Slices between the starts of neighbouring clips; None is ``num_frames`` (side by side).
    tail : {"pad", "shift", "drop"}
        What happens to slices after the last whole clip, see :func:`.hu_clips.clip_start_indices`.
    min_slices : int or None
        Fewest slices accepted as a study or clip; None is half of ``num_frames``, rounded up.

    Raises
    ------
    ValueError
        For a field of the wrong type or value, with the field's name.
    TypeError
        For an unknown field.

    Examples
    --------
    >>> processor = CTVideoProcessor.from_preset("paper-lidc")
    >>> batch = processor(read_ct("scan/"))                    # doctest: +SKIP
    >>> batch["pixel_values"].shape                            # doctest: +SKIP
    torch.Size([5, 32, 3, 224, 224])
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - transformers reads a class attribute

    def __init__(
        self,
        *,
        size: int = 256,
        crop_size: int | None = 224,
        windows: Sequence[Sequence[float]] = (_LUNG,),
        num_channels: int = 3,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        num_frames: int = 32,
        stride: int | None = None,
        tail: str = "pad",
        min_slices: int | None = None,
    ) -> None:
        self.size = _whole("size", size)
        self.crop_size = None if crop_size is None else _whole("crop_size", crop_size)
        self.num_channels = _whole("num_channels", num_channels)
        self.num_frames = _whole("num_frames", num_frames)
        self.stride = None if stride is None else _whole("stride", stride)
        self.min_slices = (
            (self.num_frames + 1) // 2 if min_slices is None else _whole("min_slices", min_slices)
        )
        self.windows = _windows(windows, self.num_channels)
        self.mean = _per_channel("mean", mean, self.num_channels)
        self.std = _per_channel("std", std, self.num_channels)
        self.tail = tail
        self._check_together()

    def _check_together(self) -> None:
        if self.crop_size is not None and self.crop_size > self.size:
            raise ValueError(f"crop_size {self.crop_size} exceeds size {self.size}.")
        if self.tail not in TAIL_RULES:
            raise ValueError(f"tail is {self.tail!r}; allowed: {', '.join(TAIL_RULES)}.")
        if self.stride is not None and self.stride > self.num_frames:
            raise ValueError(
                f"stride {self.stride} exceeds num_frames {self.num_frames}: slices between the "
                "clips would never be read."
            )
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; every value must be above 0.")

    # ---- building blocks: every path through the project uses these ------------------------------

    @property
    def plane_size(self) -> int:
        """Side in pixels of the planes that the network sees."""
        return self.size if self.crop_size is None else self.crop_size

    def clip_starts(self, n_slices: int, stride: int | None = None) -> np.ndarray:
        """First slice of every clip of a study with ``n_slices`` slices, int64.

        Raises
        ------
        ValueError
            For fewer slices than ``min_slices``.
        """
        stride = self.num_frames if stride is None and self.stride is None else stride
        stride = self.stride if stride is None else _whole("stride", stride)
        if stride > self.num_frames:
            raise ValueError(f"stride {stride} exceeds num_frames {self.num_frames}.")
        if n_slices < self.min_slices:
            raise ValueError(
                f"A study of {n_slices} slice(s) is too short: min_slices is {self.min_slices} and "
                f"a clip takes {self.num_frames}. One slice is never padded into a study; pass the "
                "whole series, or lower min_slices knowingly."
            )
        return clip_start_indices(n_slices, self.num_frames, stride, self.tail)

    def fit(self, hu: np.ndarray) -> np.ndarray:
        """Bring the planes of int16 HU (slice, row, column) to ``size`` x ``size``."""
        return fit_planes(hu, self.size)

    def center_crop(self, hu: np.ndarray) -> np.ndarray:
        """Central ``crop_size`` window of the last two axes (a view)."""
        return crop_centre(hu, self.plane_size)

    def cut(self, hu: np.ndarray, starts: Sequence[int] | np.ndarray) -> tuple[np.ndarray, ...]:
        """Clips (clip, num_frames, row, column) at ``starts``, and their lengths before padding."""
        return cut_clips(hu, starts, self.num_frames)

    def to_pixel_values(self, hu_clips: np.ndarray) -> torch.Tensor:
        """Window, repeat and normalise clips that are fitted and cropped already.

        Parameters
        ----------
        hu_clips : numpy.ndarray
            Shape (clip, frame, row, column): int16 HU, or uint16 holding HU + 1024.

        Returns
        -------
        torch.Tensor
            float32, shape (clip, frame, channel, row, column).
        """
        if hu_clips.ndim != 4 or hu_clips.dtype not in (np.int16, np.uint16):
            raise ValueError(
                f"Clips of dtype {hu_clips.dtype} and shape {hu_clips.shape}; int16 HU or uint16 "
                "HU + 1024 with axes (clip, frame, row, column) are expected."
            )
        pixels = window_clips(hu_clips, self.windows, self.num_channels, self.mean, self.std)
        return torch.from_numpy(pixels)

    # ---- the whole way -------------------------------------------------------------------------

    def __call__(
        self, volume_or_clips: Any, return_tensors: str | None = "pt", stride: int | None = None
    ) -> BatchFeature:
        """Prepare a study or clips.

        Parameters
        ----------
        volume_or_clips : CTVolume, array or list of arrays
            A volume: an object with ``hu``, or an array (slice, row, column) of HU, slices from
            feet to head. Clips: an array (clip, frame, row, column) or a list of arrays (frame,
            row, column), each of at most ``num_frames`` frames.
        return_tensors : {"pt", "np", None}
            torch tensors (also None) or numpy arrays.
        stride : int, optional
            Replaces the processor's own stride for a volume.

        Returns
        -------
        BatchFeature
            ``pixel_values`` float32 (clip, num_frames, num_channels, plane_size, plane_size),
            ``clip_lengths`` int64 (clip,), frames that come from the scan; for a volume also
            ``clip_starts`` int64 (clip,), first slice of each clip.

        Raises
        ------
        ValueError
            For a wrong number of axes, too few slices, or values that are not HU.
        """
        if return_tensors not in ("pt", "np", None):
            raise ValueError(f"return_tensors is {return_tensors!r}; allowed: 'pt', 'np', None.")
        clips = _given_clips(volume_or_clips)
        if clips is None:
            data = self._from_volume(_given_volume(volume_or_clips), stride)
        elif stride is not None:
            raise ValueError("stride applies to a volume; these are clips already.")
        else:
            data = self._from_clips(clips)
        return BatchFeature(data, tensor_type=return_tensors or "pt")

    preprocess = __call__

    def _from_volume(self, volume: np.ndarray, stride: int | None) -> dict[str, Any]:
        starts = self.clip_starts(len(volume), stride)
        if len(starts) == 0:
            raise ValueError(
                f"tail='drop' (the published RSNA rule) leaves no clip of a study of "
                f"{len(volume)} slices with num_frames {self.num_frames}. Use tail='pad'."
            )
        planes = self.center_crop(self.fit(as_hu(volume)))
        clips, lengths = self.cut(planes, starts)
        return {
            "pixel_values": self.to_pixel_values(clips),
            "clip_starts": starts,
            "clip_lengths": lengths,
        }

    def _from_clips(self, clips: list[np.ndarray]) -> dict[str, Any]:
        rows, lengths = [], []
        for index, clip in enumerate(clips):
            name = f"clip {index}"
            if not self.min_slices <= len(clip) <= self.num_frames:
                raise ValueError(
                    f"{name} has {len(clip)} frames (shape {tuple(clip.shape)}); from "
                    f"{self.min_slices} (min_slices) to {self.num_frames} (num_frames) are allowed."
                    " Clips are (clip, frame, row, column) of HU without a channel axis; a whole "
                    "study goes in as one array (slice, row, column)."
                )
            planes = self.center_crop(self.fit(as_hu(clip, name)))
            cut, length = self.cut(planes, [0])
            rows.append(cut)
            lengths.append(length)
        return {
            "pixel_values": self.to_pixel_values(np.concatenate(rows)),
            "clip_lengths": np.concatenate(lengths),
        }

    # ---- presets and JSON ----------------------------------------------------------------------

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> CTVideoProcessor:
        """Build from a name in :data:`PROCESSOR_PRESETS`; keywords replace its fields."""
        if name not in PROCESSOR_PRESETS:
            known = ", ".join(sorted(PROCESSOR_PRESETS))
            raise ValueError(f"There is no processor preset {name!r}; known: {known}.")
        return cls(**(copy.deepcopy(PROCESSOR_PRESETS[name]) | overrides))

    @classmethod
    def from_dict(cls, video_processor_dict: dict[str, Any], **kwargs: Any):
        """Build from the saved dictionary; keywords replace its fields, unknown ones are refused.

        Keywords that belong to the download (``token``, ``revision``, ...) have been taken out by
        ``from_pretrained`` before.
        """
        fields = dict(video_processor_dict)
        auto_map = fields.pop("auto_map", None)
        for label in ("video_processor_type", "processor_class"):
            fields.pop(label, None)
        return_unused = kwargs.pop("return_unused_kwargs", False)
        for hub_option in ("trust_remote_code", "code_revision"):
            kwargs.pop(hub_option, None)
        unused = {key: kwargs.pop(key) for key in list(kwargs) if key not in _FIELDS}
        if unused and not return_unused:
            raise TypeError(
                f"CTVideoProcessor has no field {', '.join(sorted(unused))}; "
                f"known: {', '.join(_FIELDS)}."
            )
        processor = cls(**(fields | kwargs))
        if auto_map is not None:
            processor.auto_map = auto_map
        return (processor, unused) if return_unused else processor

    @classmethod
    def from_json_file(cls, json_file: Any) -> CTVideoProcessor:
        """Build from a saved JSON file."""
        fields, _ = cls.get_video_processor_dict(json_file)
        return cls.from_dict(fields)

    def to_dict(self) -> dict[str, Any]:
        """Fields as plain JSON types, checked again; what ``save_pretrained`` writes."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        type(self)(**fields)  # a field set to nonsense after construction is refused here
        fields = copy.deepcopy(fields)
        if getattr(self, "auto_map", None) is not None:
            fields["auto_map"] = copy.deepcopy(self.auto_map)
        return fields | {"video_processor_type": "CTVideoProcessor"}


_FIELDS = (
    "size",
    "crop_size",
    "windows",
    "num_channels",
    "mean",
    "std",
    "num_frames",
    "stride",
    "tail",
    "min_slices",
)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}; a whole number of at least 1 is expected.")
    return int(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ValueError(f"{name} holds {value!r}; numbers are expected.")
    if not math.isfinite(value):
        raise ValueError(f"{name} holds {value!r}; finite numbers are expected.")
    return float(value)


def _windows(windows: Any, num_channels: int) -> list[list[float]]:
    if isinstance(windows, str) or not isinstance(windows, Sequence) or not windows:
        raise ValueError(f"windows is {windows!r}; a list of [center, width] in HU is expected.")
    for window in windows:
        if isinstance(window, str) or not isinstance(window, Sequence) or len(window) != 2:
            raise ValueError(f"windows holds {window!r}; [center, width] in HU is expected.")
    pairs = [[_number("windows", value) for value in window] for window in windows]
    if any(width <= 0 for _, width in pairs):
        raise ValueError(f"windows is {pairs}; every width must be above 0 HU.")
    if len(pairs) not in (1, num_channels):
        raise ValueError(
            f"{len(pairs)} windows for num_channels {num_channels}: one window (repeated on every "
            "channel) or one a channel is allowed."
        )
    return pairs


def _per_channel(name: str, values: Any, num_channels: int) -> list[float] | None:
    if values is None:
        return None
    if isinstance(values, int | float):
        values = [values]
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ValueError(f"{name} is {values!r}; a list of numbers or null is expected.")
    numbers = [_number(name, value) for value in values]
    if len(numbers) not in (1, num_channels):
        raise ValueError(f"{name} has {len(numbers)} values for num_channels {num_channels}.")
    return numbers * num_channels if len(numbers) == 1 else numbers


def _axes_error(shape: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"An array with {len(shape)} axes, shape {shape}, is neither a volume (slice, row, column) "
        "nor clips (clip, frame, row, column) of HU. Channels are added here, from the windows."
    )


def _given_clips(given: Any) -> list[np.ndarray] | None:
    """The clips if these are clips, None if it is a volume."""
    if isinstance(given, list | tuple):
        if not given:
            raise ValueError("The list of clips is empty.")
        if any(hasattr(clip, "hu") for clip in given):
            raise ValueError("One volume at a time: call the processor once for each study.")
        for clip in given:
            if np.ndim(clip) != 3:
                raise ValueError(
                    f"A list holds clips (frame, row, column); this one has an entry of shape "
                    f"{np.shape(clip)}. Stack slices to one array (slice, row, column) first."
                )
        return list(given)
    if not hasattr(given, "hu") and np.ndim(given) == 4:
        return list(given)
    return None


def _given_volume(given: Any) -> np.ndarray:
    volume = getattr(given, "hu", given)
    shape = tuple(np.shape(volume))
    if len(shape) == 2:
        raise ValueError(
            f"An array of shape {shape} is one slice, not a study. Pass the whole series as "
            "(slice, row, column)."
        )
    if len(shape) != 3:
        raise _axes_error(shape)
    if not hasattr(given, "hu") and shape[0] == shape[1] != shape[2]:
        raise ValueError(
            f"The shape {shape} looks like (row, column, slice). Pass (slice, row, column), e.g. "
            "numpy.moveaxis(volume, -1, 0), or a CTVolume."
        )
    return volume


CTVideoProcessor.register_for_auto_class("AutoVideoProcessor")
