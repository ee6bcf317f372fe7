"""What speaks for a label in clips, frame by frame, by the kind of network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import CTVideoError
from ..models.base import CTVideoClassifier
from ..models.transformers_video import FAMILIES
from .cells import Cells, cells_of, token_cells
from .localization import along_frames, contributions
from .results import log_odds
from .tokens import TOKENS, is_attention, token_contributions

if TYPE_CHECKING:
    from .scorer import ClipScorer

__all__ = ["HIRESCAM", "Evidence", "Way", "way_of"]

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


@dataclass(frozen=True)
class Way:
    """A way of explaining.

    Attributes
    ----------
    name : str
        For results.
    evidence : callable
        From a scorer and clips as its window cuts them to :class:`Evidence`.
    most_clips : int or None
        Clips of a study that are explained, those with the highest scores; None for all.
    eager : bool
        Whether the network is computed by PyTorch as it is, whatever the backend.
    """

    name: str
    evidence: Callable[[ClipScorer, torch.Tensor], Evidence]
    most_clips: int | None = None
    eager: bool = False


def way_of(model: torch.nn.Module) -> Way:
    """How a network is explained.

    Raises
    ------
    CTVideoError
        A network of a kind that nothing is known about.
    """
    if is_attention(model.config):
        return Way(TOKENS, _by_tokens, most_clips=8, eager=True)
    if isinstance(model, CTVideoClassifier):
        return Way(HIRESCAM, _by_grid)
    known = ", ".join(family.title for family in FAMILIES.values())
    raise CTVideoError(
        f"No map can be made of a network of type {model.config.model_type!r}; it can of this "
        f"package's networks and of {known}."
    )


def _by_grid(scorer: ClipScorer, clips: torch.Tensor) -> Evidence:
    logits, values = contributions(scorer.model, scorer.parts(clips), scorer.label)
    cells = cells_of(scorer.model.config, clips.shape[1], values.shape[2:])
    return _evidence(scorer, logits, values, cells, clips.shape[1])


def _by_tokens(scorer: ClipScorer, clips: torch.Tensor) -> Evidence:
    logits, values = token_contributions(scorer.model, clips, scorer.label)
    cells = token_cells(scorer.model.config, values.shape[2:])
    return _evidence(scorer, logits, values, cells, clips.shape[1])


def _evidence(
    scorer: ClipScorer, logits: torch.Tensor, values: torch.Tensor, cells: list[Cells], frames: int
) -> Evidence:
    scores = log_odds(logits.double().cpu().numpy(), scorer.model.config.problem_type)
    return Evidence(
        scores=scores[:, scorer.label],
        values=along_frames(values, cells, frames).cpu().numpy(),
        explained=values.sum((1, 2, 3, 4)).cpu().numpy(),
        rows=cells[0].rows,
        columns=cells[0].columns,
    )
