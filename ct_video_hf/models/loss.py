"""The loss of every classifier: binary or categorical, over the known labels only."""

import torch
from torch import nn
from transformers import PreTrainedConfig

__all__ = ["classification_loss"]


def classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, config: PreTrainedConfig
) -> torch.Tensor:
    """Mean loss over the known labels, in float32.

    Parameters
    ----------
    logits : torch.Tensor
        (batch, num_labels).
    labels : torch.Tensor
        ``multi_label_classification``: 0..1, (batch, num_labels), or (batch,) for one label;
        NaN and negative values are unknown and left out. ``single_label_classification``: class
        indices (batch,); negative ones are unknown and left out.
    config : PreTrainedConfig
        ``problem_type`` and ``class_weights``.

    Raises
    ------
    ValueError
        When the shapes do not fit.
    """
    logits, labels = logits.float(), labels.to(logits.device)
    weights = None
    if config.class_weights is not None:
        if len(config.class_weights) != logits.shape[1]:
            raise ValueError(
                f"class_weights has {len(config.class_weights)} values for {logits.shape[1]} labels"
            )
        weights = torch.tensor(config.class_weights, dtype=torch.float32, device=logits.device)
    if config.problem_type == "single_label_classification":
        if labels.shape != logits.shape[:1] or labels.is_floating_point():
            raise ValueError(
                f"labels has shape {tuple(labels.shape)} and dtype {labels.dtype}; class indices "
                f"({len(logits)},) are needed for single_label_classification."
            )
        target = torch.where(labels >= 0, labels, -100).long()
        total = nn.functional.cross_entropy(logits, target, weight=weights, reduction="sum")
        counted = labels >= 0 if weights is None else weights[target.clamp(min=0)] * (target >= 0)
        return total / counted.sum().clamp(min=torch.finfo(torch.float32).tiny)
    if labels.ndim == 1 and logits.shape[1] == 1:
        labels = labels.unsqueeze(1)
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}; {tuple(logits.shape)} is needed for "
            "multi_label_classification."
        )
    target = labels.float()
    known = target >= 0  # False for NaN, too
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits, torch.where(known, target, 0.0), pos_weight=weights, reduction="none"
    )
    return torch.where(known, losses, 0.0).sum() / known.sum().clamp(min=1)
