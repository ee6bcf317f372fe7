"""Tiny models and clips of every registered backbone, for tests that run over the registry."""

from __future__ import annotations

import torch
from pytorchvideo.layers.drop_path import DropPath
from torch import nn
from torchvision.ops import StochasticDepth

from ct_video_hf.models import create_model, get_backbone

__all__ = ["UNSEEN", "enliven", "tiny_clip", "tiny_model", "without_chance"]

_POSITIONS = ("pos_embed", "rel_pos", "bias_table", "class_token", "cls_token")

#: Parameters whose gradient is zero in the original networks too: the softmax does not see what is
#: added to all keys, and in the last block of MViTv2 only the class token's query counts, which is
#: neither pooled nor given relative positions.
UNSEEN = {
    "mvit_b_32x3": r"\.norm_k\.bias$",
    "mvit_v2_s": r"\.pool_k\.norm_act\.0\.bias$|blocks\.4\.1\.attn\.(rel_pos_|pool_q\.pool\.)",
}


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
    """Give norms random weights and statistics, and make input, attention and positions matter.

    Networks start the last norm of every residual block at zero, which switches the block off and
    hides every error in it. Transformers start with positions near zero and linear layers that make
    all attention nearly even, which hides errors in both. Convolutions that are initialised as
    torch does it lose the input against the norms' biases after some layers, so that any two
    networks would agree.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            strong = (2 / module.weight[0].numel()) ** 0.5  # by He et al.; torch's is 0.41 of it
            if 0.35 < module.weight.std() / strong < 0.45:
                module.weight.mul_(0.8 * strong / module.weight.std())
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm):
            module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=generator))
            module.bias.copy_(0.2 * torch.randn(module.bias.shape, generator=generator))
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            shape = module.running_mean.shape
            module.running_mean.copy_(0.2 * torch.randn(shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(shape, generator=generator))
    for key, module in network.named_modules():
        if isinstance(module, nn.Linear) and {"attn", "mlp"} & set(key.split(".")):
            spread = module.weight.shape[1] ** -0.5
            module.weight.copy_(spread * torch.randn(module.weight.shape, generator=generator))
    for key, parameter in network.named_parameters():
        if any(part in key for part in _POSITIONS):
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return network


def without_chance(network: nn.Module) -> nn.Module:
    """Switch dropout and stochastic depth off, for networks whose draws would differ."""
    for module in network.modules():
        if isinstance(module, nn.Dropout | StochasticDepth):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0
    return network
