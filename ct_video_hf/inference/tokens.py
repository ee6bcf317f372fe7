"""What speaks for a label in the tokens of attention networks: integrated gradients.

Attention weights say where a network looks and not what for, and the tokens of the last block have
gathered so much from everywhere that their place means little. So a clip's tokens, as they enter
the first block, are brought in steps from those of an even clip of the same mean to its own, and
what the score gains on the way is shared out among them (Sundararajan et al., "Axiomatic
Attribution for Deep Networks", arXiv 1703.01365). All attention is differentiated; the
contributions of a clip add up to its score minus that of the even clip.

This takes the eager network, its activations for the backward pass of one clip, and
:data:`STEPS` forward and backward passes a clip.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..models.base import CTVideoClassifier
from .cells import tubelet_of
from .localization import target_of

__all__ = ["STEPS", "TOKENS", "is_attention", "token_contributions"]

#: Steps from the even clip to the clip.
STEPS = 8
TOKENS = f"integrated gradients over tokens ({STEPS} steps from an even clip, arXiv 1703.01365)"

_WITH_CLASS_TOKEN = ("ct_mvit", "ct_mvit_v2", "timesformer", "vivit")
_ATTENTION = (*_WITH_CLASS_TOKEN, "ct_video_swin", "videomae", "vjepa2")


def is_attention(config: Any) -> bool:
    """Whether a network of this configuration is explained by its tokens."""
    return config.model_type in _ATTENTION


def token_contributions(
    model: nn.Module, pixel_values: torch.Tensor, label: int, steps: int = STEPS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of clips, and what each token adds to the score.

    Parameters
    ----------
    model : torch.nn.Module
        An attention network of this package or of transformers, in eval mode.
    pixel_values : torch.Tensor
        (clip, frame, channel, row, column).
    label : int
        The logit to explain.
    steps : int
        From the even clip to the clip.

    Returns
    -------
    logits : torch.Tensor
        float32 (clip, num_labels), those of the model.
    values : torch.Tensor
        float32 (clip, 1, t, h, w), on the grid of the first tokens.
    """
    clips = [_explain(model, clip.unsqueeze(0), label, steps) for clip in pixel_values]
    logits, values = (torch.cat(parts) for parts in zip(*clips, strict=True))
    return logits, _on_grid(values, model.config, pixel_values.shape)


def _explain(
    model: nn.Module, clip: torch.Tensor, label: int, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of one clip, and the contributions of its first tokens in the order of the network."""
    even = clip.mean((1, 3, 4), keepdim=True).expand_as(clip).contiguous()
    with torch.no_grad():
        logits, tokens = _forward(model, clip)
        _, start = _forward(model, even)
    way = tokens - start
    total = torch.zeros_like(way)
    for step in range(steps):
        point = (start + way * ((step + 0.5) / steps)).requires_grad_()
        with torch.enable_grad():
            found, _ = _forward(model, clip, point)
            target = target_of(found, label, model.config).sum()
            total += torch.autograd.grad(target, point)[0].float()
    return logits, (way * total / steps).sum(-1)


def _forward(
    model: nn.Module, clip: torch.Tensor, instead: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits in float32, and the first tokens, or those put in their place."""
    kept: list[torch.Tensor] = []

    def swap(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        kept.append(output.detach().float())
        return output if instead is None else instead.to(output.dtype)

    hook = _embeddings(model).register_forward_hook(swap)
    try:
        logits = model(**{model.main_input_name: clip}).logits.float()
    finally:
        hook.remove()
    return logits, kept[0]


def _embeddings(model: nn.Module) -> nn.Module:
    """The module that makes tokens of a clip, with their positions where those are added."""
    if isinstance(model, CTVideoClassifier):
        return model.backbone.blocks[0]
    base = model.base_model
    return base.encoder.embeddings if model.config.model_type == "vjepa2" else base.embeddings


def _on_grid(values: torch.Tensor, config: Any, clip: torch.Size) -> torch.Tensor:
    """Contributions as (clip, 1, t, h, w), without that of the class token."""
    kind = config.model_type
    if kind == "ct_video_swin":  # on its grid already
        return values.unsqueeze(1)
    if kind in _WITH_CLASS_TOKEN:
        values = values[:, 1:]
    if kind.startswith("ct_"):
        return values.reshape(len(values), 1, *config.patch_grid)
    batch, frames, _, rows, columns = clip
    tubelet, patch = tubelet_of(config)
    grid = (frames // tubelet, rows // patch, columns // patch)
    if kind == "timesformer":  # patch by patch, their frames innermost
        return values.reshape(batch, 1, *grid[1:], grid[0]).permute(0, 1, 4, 2, 3)
    return values.reshape(batch, 1, *grid)
