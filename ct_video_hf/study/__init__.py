"""The paper's grid as data: plan it, run it cell by cell, read its tables and figures.

Names are imported when first used: reading a design needs neither torch nor matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "Cell": "grid",
    "StudyConfig": "config",
    "StudyState": "state",
    "analyse": "analysis",
    "grid_cells": "grid",
    "plan_study": "plan",
    "read_study": "config",
    "run_local": "engines",
    "run_ray": "engines",
    "shipped": "config",
    "write_report": "report",
    "write_slurm": "engines",
}

__all__ = [
    "Cell",
    "StudyConfig",
    "StudyState",
    "analyse",
    "grid_cells",
    "plan_study",
    "read_study",
    "run_local",
    "run_ray",
    "shipped",
    "write_report",
    "write_slurm",
]

if TYPE_CHECKING:
    from .analysis import analyse
    from .config import StudyConfig, read_study, shipped
    from .engines import run_local, run_ray, write_slurm
    from .grid import Cell, grid_cells
    from .plan import plan_study
    from .report import write_report
    from .state import StudyState


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value
