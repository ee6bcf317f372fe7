"""Which checkpoints are whole: a run may be killed while one is being written."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

from ..files import replacing

__all__ = ["discard_partial", "is_complete", "last_complete", "mark_complete", "remove_all"]

logger = logging.getLogger(__name__)

_MARK = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(folder, *, step: int, processes: int) -> None:
    """Say that every process has written its part of ``folder``; the last file to appear."""
    with replacing(Path(folder) / _MARK) as partial:
        text = json.dumps({"step": step, "processes": processes})
        partial.write_text(text + "\n", encoding="utf-8")


def is_complete(folder) -> bool:
    """Whether :func:`mark_complete` was reached for this checkpoint."""
    return (Path(folder) / _MARK).is_file()


def _checkpoints(folder) -> list[Path]:
    """Checkpoint folders, newest step last."""
    folder = Path(folder)
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(_NAME.fullmatch(path.name)[1]))


def last_complete(folder) -> Path | None:
    """The newest whole checkpoint in ``folder``, or None."""
    whole = [path for path in _checkpoints(folder) if is_complete(path)]
    return whole[-1] if whole else None


def discard_partial(folder) -> None:
    """Remove checkpoints that a killed run left unfinished."""
    for path in _checkpoints(folder):
        if not is_complete(path):
            logger.warning("removing the unfinished checkpoint %s", path.name)
            shutil.rmtree(path)


def remove_all(folder) -> None:
    """Remove every checkpoint in ``folder``."""
    for path in _checkpoints(folder):
        shutil.rmtree(path)
