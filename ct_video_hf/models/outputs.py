"""What backbones and classifiers give."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

__all__ = ["CTVideoClassifierOutput", "CTVideoModelOutput"]


@dataclass
class CTVideoModelOutput(ModelOutput):
    """What a backbone gives.

    Attributes
    ----------
    last_hidden_state : torch.Tensor
        (batch, feature, t, h, w): features on the network's last grid.
    pooler_output : torch.Tensor
        (batch, feature_size): one vector a clip.
    pooled_grid : torch.Tensor
        (batch, feature_size, t', h', w'): features after the head's pooling. One position, or
        several where a published head slides a fixed window and averages afterwards.
    hidden_states : tuple of torch.Tensor, optional
        (batch, channel, t, h, w) after the stem and after each stage.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    pooled_grid: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class CTVideoClassifierOutput(ModelOutput):
    """What a classifier gives: loss (with labels), logits (batch, num_labels), features."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
