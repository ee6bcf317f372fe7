"""What speaks for a label in clips, frame by frame, by the kind of network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import CTVideoError
from ..models.base import CTVideoClassifier
from .cells import cells_of
from .localization import along_frames, contributions
from .results import log_odds

if TYPE_CHECKING:
    from .scorer import ClipScorer

__all__ = ["HIRESCAM", "Evidence", "evidence_of"]

HIRESCAM = "HiResCAM (gradient times feature on the last grid, arXiv 2011.08891)"


@dataclass(frozen=True)
class Evidence:
    """What a batch of clips gives.

    Attributes
    ----------
    scores : numpy.ndarray
        float64 (clip,): log-odds of the label.
    values : numpy.ndarray
        float32 (clip, frame, h, w): contributions to them; below 0 what speaks against the label.
    explained : numpy.ndarray
        float32 (clip,): the sum of the contributions of all cells.
    rows, columns : numpy.ndarray
        float64 (h,) and (w,): where the cells lie in the planes of the clip.
    """

    scores: np.ndarray
    values: np.ndarray
    explained: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def evidence_of(
    model: torch.nn.Module,
) -> tuple[str, Callable[[ClipScorer, torch.Tensor], Evidence]]:
    """How a network is explained: the name of the way, and the function from clips to evidence.

    Raises
    ------
    CTVideoError
        A network of a kind that nothing is known about.
    """
    if isinstance(model, CTVideoClassifier):
        return HIRESCAM, _by_grid
    raise CTVideoError(f"No map can be made of a network of type {model.config.model_type!r}.")


def _by_grid(scorer: ClipScorer, clips: torch.Tensor) -> Evidence:
    logits, values = contributions(scorer.model, scorer.parts(clips), scorer.label)
    return _evidence(scorer, logits, values, clips.shape[1])


def _evidence(
    scorer: ClipScorer, logits: torch.Tensor, values: torch.Tensor, frames: int
) -> Evidence:
    config = scorer.model.config
    cells = cells_of(config, frames, values.shape[2:])
    scores = log_odds(logits.double().cpu().numpy(), config.problem_type)
    return Evidence(
        scores=scores[:, scorer.label],
        values=along_frames(values, cells, frames).cpu().numpy(),
        explained=values.sum((1, 2, 3, 4)).cpu().numpy(),
        rows=cells[0].rows,
        columns=cells[0].columns,
    )
