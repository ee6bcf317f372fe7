"""The loss of every classifier: binary or categorical, over the known labels only."""

import torch
from torch import nn
from transformers import PreTrainedConfig

__all__ = ["classification_loss", "known_weight"]


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    config: PreTrainedConfig,
    *,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    label_weights: list[float] | None = None,
    divisor: torch.Tensor | float | None = None,
) -> torch.Tensor:
    """Mean loss over the known labels, in float32.

    What a model computes from its configuration alone is the cross-entropy; the keywords are those
    of training.

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
    label_smoothing : float
        The share e of a target that is spread evenly over the classes (Szegedy et al. 2016): of
        two, so that a binary target y becomes y (1 - e) + e / 2, or of all of a softmax.
    focal_gamma : float
        Each term is multiplied by (1 - p) to this power, p being the probability that the network
        gives to the class of the term (Lin et al. 2017); 0 is the cross-entropy.
    label_weights : list of float, optional
        One weight a label of ``multi_label_classification``, of positive and negative cases.
    divisor : torch.Tensor or float, optional
        What the sum is divided by instead of :func:`known_weight` of this batch: that of all
        batches of an optimizer step makes a mean over parts the mean over the whole.

    Raises
    ------
    ValueError
        When the shapes do not fit.
    """
    logits, labels = logits.float(), labels.to(logits.device)
    if config.class_weights is not None and len(config.class_weights) != logits.shape[1]:
        raise ValueError(
            f"class_weights has {len(config.class_weights)} values for {logits.shape[1]} labels"
        )
    target = _target(logits, labels, config.problem_type)
    if config.problem_type == "single_label_classification":
        total = _categorical(logits, target, config.class_weights, label_smoothing, focal_gamma)
    else:
        total = _binary(
            logits, target, config.class_weights, label_smoothing, focal_gamma, label_weights
        )
    if divisor is None:
        divisor = known_weight(target, config, label_weights)
    return total / torch.as_tensor(divisor, device=logits.device).clamp(
        min=torch.finfo(torch.float32).tiny
    )


def known_weight(
    labels: torch.Tensor, config: PreTrainedConfig, label_weights: list[float] | None = None
) -> torch.Tensor:
    """What the mean of :func:`classification_loss` divides its sum by.

    The number of known labels, or the sum of their weights: ``label_weights`` of a label, or
    ``class_weights`` of a class. (Weights of positive cases, which ``class_weights`` holds for
    ``multi_label_classification``, do not count, as in torch's ``pos_weight``.)
    """
    if config.problem_type == "single_label_classification":
        known = labels >= 0
        if config.class_weights is None:
            return known.sum()
        weights = torch.tensor(config.class_weights, device=labels.device)
        return (weights[labels.clamp(min=0).long()] * known).sum()
    known = labels >= 0  # False for NaN, too
    if label_weights is None:
        return known.sum()
    return (known.float() @ torch.tensor(label_weights, device=labels.device)).sum()


def _target(logits: torch.Tensor, labels: torch.Tensor, problem_type: str | None) -> torch.Tensor:
    if problem_type == "single_label_classification":
        if labels.shape != logits.shape[:1] or labels.is_floating_point():
            raise ValueError(
                f"labels has shape {tuple(labels.shape)} and dtype {labels.dtype}; class indices "
                f"({len(logits)},) are needed for single_label_classification."
            )
        return labels.long()
    if labels.ndim == 1 and logits.shape[1] == 1:
        labels = labels.unsqueeze(1)
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}; {tuple(logits.shape)} is needed for "
            "multi_label_classification."
        )
    return labels.float()


def _categorical(logits, target, class_weights, label_smoothing, focal_gamma) -> torch.Tensor:
    """The sum of the loss over clips (batch,) of known class."""
    known = target >= 0
    if not focal_gamma:
        weights = None if class_weights is None else logits.new_tensor(class_weights)
        return nn.functional.cross_entropy(
            logits,
            torch.where(known, target, -100),
            weight=weights,
            reduction="sum",
            label_smoothing=label_smoothing,
        )
    truth = nn.functional.one_hot(target.clamp(min=0), logits.shape[1]).to(logits)
    truth = truth * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    log_p = nn.functional.log_softmax(logits, dim=1)
    terms = truth * -log_p * (-torch.expm1(log_p)).clamp(min=1e-12) ** focal_gamma
    if class_weights is not None:
        terms = terms * logits.new_tensor(class_weights)
    return torch.where(known, terms.sum(dim=1), 0.0).sum()


def _binary(
    logits, target, class_weights, label_smoothing, focal_gamma, label_weights
) -> torch.Tensor:
    """The sum of the loss over known labels (batch, num_labels)."""
    known = target >= 0
    truth = torch.where(known, target, 0.0)
    if label_smoothing:
        truth = truth * (1 - label_smoothing) + label_smoothing / 2
    if focal_gamma:
        losses = _focal(logits, truth, class_weights, focal_gamma)
    else:
        losses = nn.functional.binary_cross_entropy_with_logits(
            logits,
            truth,
            pos_weight=None if class_weights is None else logits.new_tensor(class_weights),
            reduction="none",
        )
    if label_weights is not None:
        losses = losses * logits.new_tensor(label_weights)
    return torch.where(known, losses, 0.0).sum()


def _focal(logits, truth, class_weights, gamma) -> torch.Tensor:
    # powers of probabilities through their logarithms: a gradient of 0 ** 0.5 would be infinite
    log_p, log_q = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
    positive = truth * -log_p * torch.exp(gamma * log_q)
    negative = (1 - truth) * -log_q * torch.exp(gamma * log_p)
    if class_weights is not None:
        positive = positive * logits.new_tensor(class_weights)
    return positive + negative
