"""Which checkpoints are whole: a run may be killed while one is being written."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

import torch

from ..errors import CTVideoError
from ..files import replacing
from ..models.weights import read_folder

__all__ = [
    "best_beside",
    "discard_partial",
    "is_complete",
    "last_complete",
    "load_weights",
    "mark_complete",
    "remove_all",
]

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


def best_beside(checkpoint) -> str | None:
    """The best checkpoint of the run that ``checkpoint`` belongs to, in the folder of both.

    ``checkpoint`` says where it was when that was saved: if the run's folder has been moved since,
    transformers goes on without a best one, and if it has been copied, with the original's.

    Returns
    -------
    str or None
        None where there was none yet.

    Raises
    ------
    CTVideoError
        It is not there, and the run could not end with it.
    """
    checkpoint = Path(checkpoint)
    text = (checkpoint / "trainer_state.json").read_text(encoding="utf-8")
    then = json.loads(text)["best_model_checkpoint"]
    if then is None:
        return None
    best = checkpoint.parent / re.split(r"[/\\]", then)[-1]
    if not best.is_dir():
        raise CTVideoError(
            f"{best.name}, the best so far of the run that {checkpoint.name} is to go on with, is "
            f"not in the folder {checkpoint.absolute().parent.name}: put it back, or begin anew in "
            "another folder"
        )
    if not Path(then).is_dir():  # transformers has just said that it will be ignored
        logger.warning("the run has been moved, its best checkpoint is the %s beside it", best.name)
    return str(best)


def load_weights(model: torch.nn.Module, folder) -> None:
    """Load a saved model folder into ``model``, every weight of it.

    transformers saves some networks under the names of older releases (VideoMAE's ``query.bias`` as
    ``q_bias``) and finds its way back in ``from_pretrained`` alone: its Trainer leaves such weights
    as they are, where it goes on from a checkpoint and where it takes the best one.

    Raises
    ------
    RuntimeError
        Weights are missing, or there are more.
    """
    state = read_folder(folder)
    own = model.state_dict()
    if state.keys() != own.keys():
        loaded = type(model).from_pretrained(folder, config=model.config, dtype=torch.float32)
        state = loaded.state_dict()
    model.load_state_dict(state)


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
