"""The loss that a run learns by: cross-entropy or focal, smoothed, weighted by class and label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..data import ClipIndex
from ..errors import CTVideoError
from ..models.loss import classification_loss, known_weight

__all__ = ["TrainingLoss", "positive_weights"]


@dataclass(frozen=True)
class TrainingLoss:
    """:func:`ct_video_hf.models.loss.classification_loss` with what one run says of it.

    It is computed from logits, so it is the same for every network. The model keeps the loss of
    its own configuration: what a run learns by is written in training_config.json.

    Attributes
    ----------
    problem_type : str
        Of the model: ``multi_label_classification`` is one sigmoid a label.
    class_weights : list of float or None
        One weight a label, of its positive clips.
    label_smoothing, focal_gamma, label_weights
        As :func:`classification_loss` takes them.
    """

    problem_type: str = "multi_label_classification"
    class_weights: list[float] | None = None
    label_smoothing: float = 0.0
    focal_gamma: float = 0.0
    label_weights: list[float] | None = None

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        """What the sum over a batch is divided by, a scalar."""
        return known_weight(labels, self, self.label_weights)

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, divisor: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Loss of clips: logits (clip, label) and labels (clip, label), unknown ones negative."""
        return classification_loss(
            logits,
            labels,
            self,
            label_smoothing=self.label_smoothing,
            focal_gamma=self.focal_gamma,
            label_weights=self.label_weights,
            divisor=divisor,
        )


def positive_weights(index: ClipIndex, said: str) -> list[float] | None:
    """Weights of positive clips against negative ones, one a label.

    Parameters
    ----------
    index : ClipIndex
        The training clips.
    said : str
        ``"none"``; ``"balanced"``: the negative clips over the positive ones, counted for each
        label over the clips where it is known; or two weights, of negative and positive clips,
        such as ``"1,3"``, of which only the ratio counts.

    Raises
    ------
    CTVideoError
        ``balanced``, and a label has no positive or no negative clip.
    """
    labels = index.labels.shape[1]
    if said == "none":
        return None
    if said != "balanced":
        negative, positive = (float(part) for part in said.split(","))
        return [positive / negative] * labels
    positives = (index.labels == 1).sum(axis=0)
    negatives = (index.labels == 0).sum(axis=0)
    empty = np.flatnonzero((positives == 0) | (negatives == 0))
    if empty.size:
        raise CTVideoError(
            f"class_weights balanced: of label {int(empty[0]) + 1} of {labels} there are "
            f"{positives[empty[0]]} positive and {negatives[empty[0]]} negative training clips; "
            "name two weights, such as 1,3, or leave it out"
        )
    return (negatives / positives).tolist()
