"""What a user may choose for prediction, checked: device, arithmetic, label, batch and stride."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import CTVideoError

__all__ = [
    "TTA",
    "check_choices",
    "check_tta",
    "choose_device",
    "choose_dtype",
    "choose_label",
    "label_names",
    "place_model",
]

#: Test-time augmentations, in words for a result.
TTA = {None: None, "flips": "mean of the logits as it is and mirrored left to right"}

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def check_choices(policy: str, batch_size: int, stride: int | None, num_frames: int) -> None:
    """Refuse a policy that does not exist, and counts that make no clips.

    Parameters
    ----------
    policy : str
    batch_size : int
        Clips in the network at a time.
    stride : int or None
        Slices between the starts of clips; None for the processor's.
    num_frames : int
        Slices in a clip.

    Raises
    ------
    CTVideoError
        Naming the option and its value.
    """
    if policy not in ("strict", "warn", "repair"):
        raise CTVideoError(f"policy is {policy!r}; allowed: strict, warn, repair.")
    for name, value in (("batch_size", batch_size), ("stride", stride)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise CTVideoError(f"{name} is {value!r}; a whole number of at least 1 is needed.")
    if stride is not None and stride > num_frames:
        raise CTVideoError(
            f"stride {stride} exceeds the clip length {num_frames}: slices between the clips would "
            "never be read."
        )


def check_tta(tta: str | None) -> None:
    """Refuse a test-time augmentation that is not in :data:`TTA`."""
    if tta not in TTA:
        raise CTVideoError(f"tta is {tta!r}; allowed: flips, or None for none.")


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device of a name; by default the first CUDA device, or the CPU.

    Raises
    ------
    CTVideoError
        No such device, or not here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise CTVideoError(f"There is no device {device!r}; use cpu, cuda or cuda:N.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise CTVideoError("Device cuda was asked for; PyTorch sees no CUDA device here.")
    return chosen


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The arithmetic of a name; float32 where none is given.

    Raises
    ------
    CTVideoError
        Another name, or float16 on a CPU.
    """
    chosen = _DTYPES.get(str(dtype or "float32").removeprefix("torch."))
    if chosen is None:
        raise CTVideoError(f"dtype is {dtype!r}; allowed: {', '.join(_DTYPES)}.")
    if chosen == torch.float16 and device.type == "cpu":
        raise CTVideoError("float16 needs a GPU; on a CPU use float32 or bfloat16.")
    return chosen


def place_model(
    model: torch.nn.Module, device: torch.device, dtype: torch.dtype
) -> torch.nn.Module:
    """The model on its device, in eval mode, laid out for its arithmetic."""
    model = model.to(device).eval()
    if dtype != torch.float32:  # 16-bit convolutions are fast in this layout; float32 gains nothing
        for parameter in model.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return model


def label_names(config: Any) -> list[str]:
    """Names of a configuration's labels; an unnamed binary task is "positive"."""
    names = [str(config.id2label[index]) for index in range(config.num_labels)]
    if names == ["LABEL_0"]:  # transformers' placeholder for an unnamed binary task
        return ["positive"]
    return names


def choose_label(label: str | int | None, names: list[str], config: Any) -> int:
    """The number of the label that scores are about: the first, or class 1 of two classes.

    Raises
    ------
    CTVideoError
        No such label, or none given where several classes leave no default.
    """
    if label is None:
        if config.problem_type != "single_label_classification" or len(names) == 1:
            return 0
        if len(names) == 2:
            return 1
        raise CTVideoError(
            f"The model chooses between {len(names)} classes ({', '.join(names)}): say with "
            "label= which one the study score is about."
        )
    if label in names:
        return names.index(label)
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    raise CTVideoError(f"The model has no label {label!r}; it has: {', '.join(names)}.")
