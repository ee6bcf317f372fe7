"""Low-rank adapters (LoRA) on the layers of a backbone, with peft."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import CTVideoError
from ..models.transformers_video import clip_input

__all__ = ["add_lora", "lora_targets", "merge_lora"]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def lora_targets(model: nn.Module) -> list[str]:
    """Names of the backbone's layers that low-rank adapters can take part in.

    Linear layers and convolutions without groups that the forward pass calls: a layer whose weight
    is read by somebody else, as in torchvision's window attention, would leave its adapter unused.

    Parameters
    ----------
    model : torch.nn.Module
        A classifier of this package, or one of transformers that it takes.
    """
    body, called = model.base_model, set()
    hooks = []
    for name, module in body.named_modules():
        grouped = getattr(module, "groups", 1) > 1
        if type(module) in _LAYERS and not grouped:
            hooks.append(module.register_forward_hook(lambda *_, name=name: called.add(name)))
    training, (frames, side, channels) = model.training, clip_input(model.config)
    parameter = next(model.parameters())
    clip = torch.zeros(
        1, frames, channels, side, side, dtype=parameter.dtype, device=parameter.device
    )
    model.eval()
    model(clip)  # not the body alone: V-JEPA 2's would run a predictor that no score needs
    model.train(training)
    for hook in hooks:
        hook.remove()
    return [
        f"{model.base_model_prefix}.{name}" for name, _ in body.named_modules() if name in called
    ]


def add_lora(model: nn.Module, rank: int) -> Any:
    """Freeze a classifier and let adapters of ``rank`` and its head learn.

    Returns
    -------
    peft.PeftModel
        :func:`merge_lora` gives the plain model back.

    Raises
    ------
    CTVideoError
        Without peft, or for a model that has no layer to adapt.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise CTVideoError(
            "LoRA needs the package peft: pip install 'ct-video-hf[lora]'"
        ) from error
    targets = lora_targets(model)
    if not targets:
        raise CTVideoError(f"{type(model).__name__} has no layer that an adapter could be added to")
    head = [
        name
        for name, part in model.named_children()
        if part is not model.base_model and any(True for _ in part.parameters())
    ]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, modules_to_save=head)
    return get_peft_model(model, config)


@torch.no_grad()
def merge_lora(adapted: Any) -> nn.Module:
    """The plain classifier with the adapters added to its weights.

    Not ``merge_and_unload`` of peft, which (0.21) fails for convolutions of kernel 1 x 1 x 1.
    """
    for module in adapted.modules():
        if not hasattr(module, "lora_A"):
            continue
        layer = module.get_base_layer()
        for name, scaling in module.scaling.items():
            down, up = module.lora_A[name].weight, module.lora_B[name].weight
            change = scaling * (up.flatten(1) @ down.flatten(1))
            layer.weight += change.view_as(layer.weight)
    return adapted.unload()
