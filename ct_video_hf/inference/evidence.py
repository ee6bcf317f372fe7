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
from .cells import Cells, cells_of, linear_weights, token_cells
from .exported import ExportedNetwork
from .localization import along_frames, contributions
from .tokens import TOKENS, is_attention, token_contributions

if TYPE_CHECKING:
    from .scorer import ClipScorer

__all__ = ["HIRESCAM", "Evidence", "Way", "both_sides", "way_of"]

HIRESCAM = "HiResCAM (gradient times feature on the last grid, arXiv 2011.08891)"


@dataclass(frozen=True)
class Evidence:
    """What a batch of clips gives.

    Attributes
    ----------
    logits : numpy.ndarray
        float64 (clip, label), those of the network.
    values : numpy.ndarray
        float32 (clip, frame, h, w): contributions to the log-odds of the label; below 0 what speaks
        against it.
    explained : numpy.ndarray
        float32 (clip,): the sum of the contributions of all cells.
    rows, columns : numpy.ndarray
        float64 (h,) and (w,): where the cells lie in the planes of the clip.
    """

    logits: np.ndarray
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
        A network of a kind that nothing is known about, or an exported one.
    """
    if isinstance(model, ExportedNetwork):
        raise CTVideoError(
            "A map needs the network's gradients, which an exported graph does not have. Predict "
            f"with the model that it was exported from, {model.parity['source']['name']}."
        )
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
    return _evidence(logits, values, cells, clips.shape[1])


def _by_tokens(scorer: ClipScorer, clips: torch.Tensor) -> Evidence:
    logits, values = token_contributions(scorer.model, clips, scorer.label)
    cells = token_cells(scorer.model.config, values.shape[2:])
    return _evidence(logits, values, cells, clips.shape[1])


def _evidence(
    logits: torch.Tensor, values: torch.Tensor, cells: list[Cells], frames: int
) -> Evidence:
    return Evidence(
        logits=logits.double().cpu().numpy(),
        values=along_frames(values, cells, frames).cpu().numpy(),
        explained=values.sum((1, 2, 3, 4)).cpu().numpy(),
        rows=cells[0].rows,
        columns=cells[0].columns,
    )


def both_sides(found: Evidence, mirrored: Evidence, width: int) -> Evidence:
    """The mean of what clips give as they are and mirrored left to right, at its own places.

    A mirrored cell rarely lies on one that is not, so the grid has the columns of both: between
    them either map is linear, and none of it is lost.

    Parameters
    ----------
    found, mirrored : Evidence
        Of the same clips.
    width : int
        Columns of the clip.
    """
    turned = width - 1 - mirrored.columns[::-1]
    columns = np.unique(np.concatenate([found.columns, turned]).round(6))
    sides = (found.columns, found.values), (turned, mirrored.values[..., ::-1])
    values = sum(part @ linear_weights(cells, columns).T for cells, part in sides) / 2
    return Evidence(
        logits=(found.logits + mirrored.logits) / 2,
        values=values,
        explained=(found.explained + mirrored.explained) / 2,
        rows=found.rows,
        columns=columns,
    )
