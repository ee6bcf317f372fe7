"""Where in a clip a network finds what speaks for its score: class activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..models.base import CTVideoClassifier
from .cells import Cells, cells_of, linear_weights
from .exported import ExportedNetwork

__all__ = [
    "along_frames",
    "clip_forward",
    "contributions",
    "parts_forward",
    "slice_relevance",
    "target_of",
]


def clip_forward(
    model: torch.nn.Module,
    pixel_values: torch.Tensor,
    label: int,
    compute: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits of clips and, where the network shows its last grid, the class activation along them.

    The activation is what :func:`contributions` gives, between the cells by :func:`along_frames`,
    negative values cut off, and then the maximum over each plane.

    Parameters
    ----------
    model : torch.nn.Module
        In eval mode.
    pixel_values : torch.Tensor
        (clip, frame, channel, row, column).
    label : int
        The logit to explain.
    compute : callable, optional
        Instead of the backbone's ``to_explain``, see :mod:`.backends`; for this package's networks.

    Returns
    -------
    logits : torch.Tensor
        float32 (clip, num_labels).
    activation : torch.Tensor or None
        float32 (clip, frame), not below 0, comparable within a clip only. None for networks that
        are not this package's.
    """
    if isinstance(model, ExportedNetwork):
        return model.scores(pixel_values, label)
    if not isinstance(model, CTVideoClassifier):
        with torch.no_grad():
            return model(**{model.main_input_name: pixel_values}).logits.float(), None
    with torch.no_grad():
        parts = (compute or model.backbone.to_explain)(pixel_values)
    return parts_forward(model, parts, label, pixel_values.shape[1])


def parts_forward(
    model: CTVideoClassifier, parts: tuple[torch.Tensor, ...], label: int, frames: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`clip_forward`, from what the backbone's ``to_explain`` gave for ``frames`` frames.

    Whatever computed them: a :mod:`.backends` backend, or features that clips share.
    """
    logits, values = contributions(model, parts, label)
    cells = cells_of(model.config, frames, values.shape[2:])
    return logits, along_frames(values, cells, frames).clamp(min=0).amax((2, 3))


def contributions(
    model: CTVideoClassifier, parts: tuple[torch.Tensor, ...], label: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of clips, and what each feature of each cell of the last grid adds to the score.

    Gradient times feature on the last spatio-temporal grid (HiResCAM, arXiv 2011.08891). Only the
    head is differentiated, with a class token the last block too; the logits are those of the
    model. Where the head is linear after pooling, and pools by mean or maximum, the contributions
    of a clip sum up to its score without the classifier's bias.

    Parameters
    ----------
    model, parts, label
        As for :func:`parts_forward`.

    Returns
    -------
    logits : torch.Tensor
        float32 (clip, num_labels).
    values : torch.Tensor
        float32 (clip, feature, t, h, w); above 0 what speaks for the label, below what against.
    """
    features, grid, pooled = model.backbone.explain_from(*parts)
    with torch.no_grad():
        logits = model.classify(features.pooled_grid).float()
    with torch.enable_grad():
        target = target_of(model.classify(pooled).float(), label, model.config)
        (gradient,) = torch.autograd.grad(target.sum(), grid)
    return logits, gradient.float() * grid.detach().float()


def target_of(logits: torch.Tensor, label: int, config: Any) -> torch.Tensor:
    """The score (clip,) that a clip is judged by: its logit, or its log-odds against other classes.

    With a softmax a class also gains by what speaks against the others.
    """
    if config.problem_type != "single_label_classification" or logits.shape[1] < 2:
        return logits[:, label]
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], 1)
    return logits[:, label] - others.logsumexp(1)


def along_frames(values: torch.Tensor, cells: list[Cells], frames: int) -> torch.Tensor:
    """Contributions (clip, feature, t, h, w) as one number for each frame and cell of its plane.

    Features are summed; between the cells along the frames it is linear, each cell being where it
    looks (:mod:`.cells`).

    Returns
    -------
    torch.Tensor
        float32 (clip, frame, h, w).
    """
    whole = values.new_zeros((values.shape[0], frames, *values.shape[3:]))
    with torch.autocast(values.device.type, enabled=False):
        for part in cells:
            weights = linear_weights(part.frames, np.arange(frames, dtype=float))
            summed = values[:, part.channels].sum(1)
            weights = torch.from_numpy(weights).to(summed)
            whole += torch.einsum("ft,cthw->cfhw", weights, summed)
    return whole


def slice_relevance(activation: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Scale each clip's activation to a maximum of 1 over its slices of the scan.

    Parameters
    ----------
    activation : numpy.ndarray
        (clip, frame), not below 0.
    lengths : numpy.ndarray
        (clip,): slices of the scan in each clip; what follows is padding and becomes 0.

    Returns
    -------
    numpy.ndarray
        (clip, frame) in 0..1. A clip without any activation is 0 throughout.
    """
    inside = np.arange(activation.shape[1]) < np.asarray(lengths)[:, None]
    kept = np.where(inside, activation, 0.0)
    highest = kept.max(axis=1, keepdims=True)
    return np.divide(kept, highest, out=np.zeros_like(kept), where=highest > 0)
