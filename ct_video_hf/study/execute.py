"""One cell as one ordinary training run, in a process of its own."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import CTVideoError
from ..files import replacing
from .grid import Cell, needs
from .state import CellFolder, StudyState

__all__ = ["allow_runs", "cell_options", "drop_weights", "execute", "prepare_sets", "stop_runs"]

logger = logging.getLogger(__name__)

_LAST_LINES = 12
#: Exit codes of a run that was told to stop, which is no failure: SIGINT and SIGTERM.
_STOPPED = (130, 143, -2, -15)
_running: set[subprocess.Popen] = set()
_stopped = threading.Event()
_lock = threading.Lock()  # of both: what is about to start is either started and told, or never


def cell_options(state: StudyState, cell: Cell) -> dict[str, Any]:
    """Options of ``ct-video-hf train`` for a cell; those of its data, then of its model, win.

    Raises
    ------
    CTVideoError
        When the learning rate or the beginning that it needs is not there yet.
    """
    config = state.config
    data, model, arm = (
        config.dataset(cell.dataset),
        config.model(cell.model),
        config.arm(cell.pretraining),
    )
    weights = model.weights.get(cell.pretraining, arm.weights)
    for earlier in needs(config, cell):
        if earlier.role == "source":
            folder = state.folder(earlier)
            if not folder.finished:
                raise CTVideoError(f"{cell.name} begins with {earlier.name}, which is not finished")
            weights = str(folder.run.resolve())
    grid = {
        "data": str(data.set.resolve()),
        "output": str(state.folder(cell).run.resolve()),
        "backbone": cell.model,
        "weights": weights,
        "fraction": cell.fraction,
        "seed": cell.seed,
        "lr": state.best_rate(cell),
        "resamples": 0,  # intervals are made by the report, over runs and paired
    }
    return {**config.training, **data.training, **model.training, **grid}


def _same_run(state: StudyState, cell: Cell) -> CellFolder | None:
    """The finished search run that has all of this cell's settings, if there is one."""
    for entry in state.tried(cell):
        folder = state.folder(entry)
        same = (entry.fraction, entry.seed) == (cell.fraction, cell.seed)
        if same and folder.finished and entry.learning_rate == state.best_rate(cell):
            return folder
    return None


def execute(state: StudyState, cell: Cell, *, threads: int | None = None) -> bool:
    """Run a cell to its end; True when it is finished.

    A cell that was killed goes on from its last checkpoint. One that is finished is not run again,
    one that another process holds is left to it. What fails is written to ``failed.json``.

    Parameters
    ----------
    threads : int, optional
        CPU threads of the run (``OMP_NUM_THREADS``); None leaves them as they are.
    """
    folder = state.folder(cell)
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.lock, timeout=0):
            if folder.finished:
                return True
            folder.failure.unlink(missing_ok=True)
            twin = _same_run(state, cell)
            if twin is not None:
                _copy_run(twin, folder)
                return True
            try:
                options = cell_options(state, cell)
            except CTVideoError as error:
                _note_failure(folder, None, [str(error)])
                return False
            with replacing(folder.options) as partial:
                partial.write_text(json.dumps(options, indent=1) + "\n", encoding="utf-8")
            return _train(state, folder, threads)
    except Timeout:
        logger.info("%s is being run by another process", cell.name)
        return False


def _copy_run(twin: CellFolder, folder: CellFolder) -> None:
    """The search has run exactly this cell: its run is taken over."""
    stage = folder.path / ".copy"
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(twin.run, stage)
    shutil.rmtree(folder.run, ignore_errors=True)
    os.replace(stage, folder.run)
    shutil.copyfile(twin.options, folder.options)
    folder.log.write_text(f"the same run as {twin.cell.name}\n", encoding="utf-8")


def _train(state: StudyState, folder: CellFolder, threads: int | None) -> bool:
    environment = dict(os.environ, TQDM_DISABLE="1")
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    words = [sys.executable, "-m", f"{__package__}.cell_process", str(os.getpid())]
    began = time.monotonic()
    with folder.log.open("a", encoding="utf-8") as log:
        with _lock:
            if _stopped.is_set():
                return False
            process = subprocess.Popen(
                [*words, str(folder.options)], stdout=log, stderr=subprocess.STDOUT, env=environment
            )
            _running.add(process)
        try:
            code = process.wait()
        finally:
            with _lock:
                _running.discard(process)
    if code in _STOPPED:
        logger.info("%s was stopped; it goes on when the study is run again", folder.cell.name)
        return False
    if code == 0 and folder.finished:
        logger.info("%s took %.0f s", folder.cell.name, time.monotonic() - began)
        return True
    lines = folder.log.read_text(encoding="utf-8", errors="replace").splitlines()
    _note_failure(folder, code, [line for line in lines if line.strip()][-_LAST_LINES:])
    return False


def allow_runs() -> None:
    """Let runs start again after :func:`stop_runs`."""
    _stopped.clear()


def stop_runs() -> None:
    """Tell the runs that this process has started to stop, and start no other.

    They leave their checkpoints.
    """
    with _lock:
        _stopped.set()
        for process in _running:
            process.terminate()


def _note_failure(folder: CellFolder, code: int | None, lines: list[str]) -> None:
    content = {
        "cell": folder.cell.name,
        "exit_code": code,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "last_lines": lines,
    }
    with replacing(folder.failure) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    logger.warning("%s failed: %s", folder.cell.name, lines[-1] if lines else f"exit {code}")


def drop_weights(state: StudyState) -> int:
    """Delete the weights of finished cells that nothing waits for; returns how many.

    ``keep_weights: all`` keeps every one, ``needed`` those that a cell begins with, ``none`` those
    only while a cell that begins with them is not finished.
    """
    keep = state.config.keep_weights
    if keep == "all":
        return 0
    wanted = set()
    for cell in state.cells:
        if keep == "needed" or not state.folder(cell).finished:
            wanted |= {e.name for e in needs(state.config, cell) if e.role != "search"}
            wanted |= {e.name for e in state.tried(cell) if not state.folder(cell).finished}
    dropped = 0
    for cell in state.cells:
        folder = state.folder(cell)
        if folder.finished and cell.name not in wanted:
            for file in folder.run.glob("*.safetensors"):
                file.unlink()
                dropped += 1
    return dropped


def prepare_sets(state: StudyState, *, workers: int = 1, progress: bool = True) -> None:
    """Make the prepared sets that the design says how to make; a set that is whole is kept.

    Raises
    ------
    CTVideoError
        A set is neither there nor described.
    """
    from ..data import PrepareOptions, prepare
    from ..data.manifest import read_manifest

    wanted = {cell.dataset for cell in state.cells}
    for data in (entry for entry in state.config.data if entry.name in wanted):
        if (data.set / "manifest.json").is_file():
            read_manifest(data.set)
            continue
        if not data.prepare:
            raise CTVideoError(
                f"the prepared set of {data.name} is not at {data.set}; make it with "
                "`ct-video-hf prepare`, or say in the design how (prepare:)"
            )
        said = dict(data.prepare)
        source, data_dir = said.pop("source"), Path(said.pop("data_dir"))
        names = PrepareOptions.__dataclass_fields__
        options = PrepareOptions(**{key: said.pop(key) for key in list(said) if key in names})
        data_dir.mkdir(parents=True, exist_ok=True)
        prepare(
            source, data_dir, data.set, options=options, workers=workers, progress=progress, **said
        )
