"""Small designs for the tests of the study room."""

from __future__ import annotations

import copy
import json
from pathlib import Path

TWO_SETS = {
    "name": "small",
    "folder": "out",
    "data": {"ct": {"set": "sets/ct"}, "other": {"set": "sets/other", "evaluate": False}},
    "pretraining": {
        "random": {},
        "in_domain": {"from": {"ct": "other"}, "start": "random"},
    },
    "models": {"slow_tiny": {}, "slow_tiny_2d": {"kind": "2d", "pretraining": ["random"]}},
    "fractions": [0.5, 1.0],
    "seeds": [0, 1],
    "contrasts": [["in_domain", "random"]],
    "training": {"num_frames": 8, "crop_size": 32, "epochs": 1, "batch_size": 4, "use_cpu": True},
    "resamples": 100,
}


def design(**changes):
    """A fresh copy of the small design with top-level changes; None removes a key."""
    content = copy.deepcopy(TWO_SETS) | changes
    return {key: value for key, value in content.items() if value is not None}


def write(folder: Path, content: dict) -> Path:
    """The design as a file."""
    path = folder / "study.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
