"""What is written down about a run: options, data, versions, hardware; no path of this machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

__all__ = ["hardware", "public_command", "public_value", "versions"]

_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "pytorchvideo")


def public_value(value: Any) -> Any:
    """The value with every absolute path shortened to its last part, lists and dicts included."""
    if isinstance(value, dict):
        return {str(key): public_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [public_value(entry) for entry in value]
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            path = kind(value)
            if path.is_absolute() or value.startswith(("~", "..")):
                return path.name
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def public_command(words: list[str]) -> str:
    """A command line that can be published: absolute paths are shortened to their last part."""
    shown = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name.startswith("--"):
            shown.append(f"{name}={public_value(value)}")
        else:
            shown.append(str(public_value(word)))
    return " ".join(shown)


def versions() -> dict[str, str]:
    """Versions of this package, Python and what computes."""
    from .. import __version__

    found = {"ct_video_hf": __version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in _PACKAGES}


def hardware(device: torch.device, processes: int) -> dict[str, Any]:
    """What the run was computed on; no host name."""
    described = {
        "device": device.type,
        "processes": processes,
        "cpu_cores": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described
