"""What is known of each cell: its folder, whether it is finished, failed, running or waits.

==================  ===============================================================================
cells/NAME/         one folder a cell
  run.yaml          options of its training run
  run/              the finished model folder, which ``ct-video-hf train`` wrote
  log.txt           what the run printed
  failed.json       why it failed, the last lines of the log; gone when it is tried again
  .lock             held while it runs
==================  ===============================================================================

A cell is finished when its run's record (training_config.json) is there: training writes it last.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import CTVideoError
from .config import StudyConfig
from .grid import BEST, Cell, needs

__all__ = ["CellFolder", "StudyState"]

_RECORD = "training_config.json"


class CellFolder:
    """The folder of one cell."""

    def __init__(self, root: Path, cell: Cell) -> None:
        self.cell = cell
        self.path = root / "cells" / cell.name
        self.run = self.path / "run"
        self.options = self.path / "run.yaml"
        self.log = self.path / "log.txt"
        self.failure = self.path / "failed.json"
        self.lock = self.path / ".lock"

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return (self.run / _RECORD).is_file()

    def record(self) -> dict[str, Any]:
        """The run's record: options, data, versions, hardware, best validation value."""
        return json.loads((self.run / _RECORD).read_text(encoding="utf-8"))

    def failed(self) -> dict[str, Any] | None:
        """Why the cell failed, or None."""
        if self.finished or not self.failure.is_file():
            return None
        return json.loads(self.failure.read_text(encoding="utf-8"))

    def is_running(self) -> bool:
        """Whether some process holds the cell at this moment."""
        from filelock import FileLock, Timeout

        if not self.lock.is_file():
            return False
        try:
            with FileLock(self.lock, timeout=0):
                return False
        except Timeout:
            return True


class StudyState:
    """All cells of a study and what has become of them."""

    def __init__(self, config: StudyConfig, cells: list[Cell]) -> None:
        self.config = config
        self.cells = cells
        self._folders = {cell.name: CellFolder(config.folder, cell) for cell in cells}

    def folder(self, cell: Cell) -> CellFolder:
        """The folder of a cell, by its name."""
        return self._folders[cell.name]

    def cell(self, name: str) -> Cell:
        """The cell called ``name``.

        Raises
        ------
        CTVideoError
            When the study has none.
        """
        if name not in self._folders:
            raise CTVideoError(
                f"the study {self.config.name} has no cell {name!r}; `study plan --json` names them"
            )
        return self._folders[name].cell

    def status(self, cell: Cell) -> str:
        """``finished``, ``failed``, ``running``, ``ready``, ``waiting`` or ``blocked``.

        ``blocked``: something that it needs has failed. A rate of the search may fail (a rate can
        be too high to learn with) as long as another one has worked.
        """
        folder = self.folder(cell)
        if folder.finished:
            return "finished"
        if folder.is_running():
            return "running"
        if folder.failed():
            return "failed"
        tried, begun = [], []
        for earlier in needs(self.config, cell):
            (tried if earlier.role == "search" else begun).append(self.status(earlier))
        dead = ("failed", "blocked")
        if any(status in dead for status in begun) or (tried and all(s in dead for s in tried)):
            return "blocked"
        settled = all(status in ("finished", *dead) for status in tried)
        return "ready" if settled and all(s == "finished" for s in begun) else "waiting"

    def best_rate(self, cell: Cell) -> float:
        """The learning rate of a cell: its own, or the best of its search.

        The search is judged by the value that picked each run's checkpoint, on validation data; of
        equal rates the smaller one counts, and one that failed does not.

        Raises
        ------
        CTVideoError
            When the search is not finished, or no rate worked.
        """
        if cell.learning_rate != BEST:
            return float(cell.learning_rate)
        values = []
        for entry in self.tried(cell):
            folder = self.folder(entry)
            if folder.failed():
                continue
            if not folder.finished:
                raise CTVideoError(f"{cell.name} waits for {entry.name}, which is not finished")
            best = folder.record()["best_metric"]
            if best is None:
                raise CTVideoError(f"{entry.name} has no validation value to choose a rate by")
            lower = best["name"].endswith(("loss", "brier", "error"))
            values.append((-best["value"] if lower else best["value"], -entry.learning_rate))
        if not values:
            raise CTVideoError(f"{cell.name}: every learning rate of its search failed")
        return -max(values)[1]

    def tried(self, cell: Cell) -> list[Cell]:
        """The search of a cell: one cell a rate; empty where its rate is given."""
        return [entry for entry in needs(self.config, cell) if entry.role == "search"]
