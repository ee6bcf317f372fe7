"""Tiny models and clips of every registered backbone, for tests that run over the registry."""

from __future__ import annotations

import torch
from torch import nn

from ct_video_hf.models import create_model, get_backbone

__all__ = ["enliven", "tiny_clip", "tiny_model"]


def tiny_model(name, num_labels=1, seed=0, **overrides):
    """The backbone ``name`` with few channels, all of its branches alive, in eval mode."""
    torch.manual_seed(seed)
    model = create_model(name, num_labels, **(dict(get_backbone(name).tiny) | overrides))
    return enliven(model, seed)


def tiny_clip(name, batch=2, seed=0, model=None, longer=0):
    """Random pixel values for ``tiny_model(name)``."""
    frames, rows, columns = get_backbone(name).tiny_clip
    channels = (model or tiny_model(name)).config.num_channels
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, frames + longer, channels, rows, columns, generator=generator)


@torch.no_grad()
def enliven(network: nn.Module, seed=0) -> nn.Module:
    """Give norms random weights and statistics.

    Networks start the last norm of every residual block at zero, which switches the block off and
    hides every error in it.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm):
            module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=generator))
            module.bias.copy_(0.2 * torch.randn(module.bias.shape, generator=generator))
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            shape = module.running_mean.shape
            module.running_mean.copy_(0.2 * torch.randn(shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(shape, generator=generator))
    return network
