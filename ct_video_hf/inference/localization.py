"""Which slices of a clip speak for its score: class activation along the clip."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..models.base import CTVideoClassifier

__all__ = ["clip_forward", "parts_forward", "slice_relevance"]


def clip_forward(
    model: torch.nn.Module,
    pixel_values: torch.Tensor,
    label: int,
    compute: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits of clips and, where the network shows its last grid, the class activation along them.

    The activation is gradient times feature on the last spatio-temporal grid, summed over the
    features, negative values cut off (HiResCAM, arXiv 2011.08891), and then the maximum over each
    plane. Only the head is differentiated, with a class token the last block too; the logits are
    those of ``model(pixel_values)``.

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
    features, grid, pooled = model.backbone.explain_from(*parts)
    with torch.no_grad():
        logits = model.classify(features.pooled_grid).float()
    with torch.enable_grad():
        target = model.classify(pooled)[:, label].sum()
        (gradient,) = torch.autograd.grad(target, grid)
    speaks = (gradient.float() * grid.detach().float()).sum(1).clamp(min=0)
    along = speaks.amax((2, 3)).unsqueeze(1)  # (clip, 1, t)
    return logits, torch.nn.functional.interpolate(along, frames, mode="linear")[:, 0]


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
