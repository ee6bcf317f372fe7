"""A network that says how bright a clip is, so that what it should look at is known."""

from __future__ import annotations

import torch

from ct_video_hf.inference import CTVideoPipeline, LoadedModel
from ct_video_hf.models import CTVideoProcessor, create_model

#: Tissue is 0.27 and a ball of 1500 HU 1.0.
WINDOW = [[500.0, 2000.0]]


@torch.no_grad()
def brightness_model(weights=(1.0,), *, darkness=False, head_pool="mean", **overrides):
    """A tiny Slow network whose one living feature is the pixel at each cell.

    Parameters
    ----------
    weights : sequence of float
        What the feature adds to each logit.
    darkness : bool
        The feature is 1 minus the pixel.
    """
    torch.manual_seed(0)
    options = {"head_pool": head_pool} | overrides
    model = create_model("slow_tiny", num_labels=len(weights), **options)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 5:
            parameter.zero_()
            middle = tuple(size // 2 for size in parameter.shape[2:])
            parameter[(0, 0, *middle)] = 1.0
        elif name.endswith("weight") and parameter.ndim == 1:
            parameter.fill_(1.0)
        else:
            parameter.zero_()
    for module in model.modules():
        if getattr(module, "block_final_bn", False):
            module.weight.zero_()  # the branches are silent, the shortcuts carry the feature
    if darkness:
        stem = model.backbone.blocks[0]
        stem.conv.weight.neg_()
        stem.norm.bias[0] = 1.0
    model.classifier.weight[:, 0] = torch.tensor(weights)
    return model.eval()


def brightness_processor(**overrides) -> CTVideoProcessor:
    """16 slices of 64x64 out of 72x72, one channel."""
    fields = {"size": 72, "crop_size": 64, "num_channels": 1, "num_frames": 16, "stride": 8}
    return CTVideoProcessor(**(fields | {"windows": WINDOW} | overrides))


def brightness_pipeline(model=None, processor=None, **options) -> CTVideoPipeline:
    """A pipeline around such a network, on the CPU."""
    loaded = LoadedModel(model or brightness_model(), processor or brightness_processor(), "bright")
    return CTVideoPipeline(loaded, device="cpu", **options)
