"""LRCN: a 2D ResNet on every slice, a recurrent layer over the slices, a classifier.

Donahue et al., "Long-term Recurrent Convolutional Networks for Visual Recognition and Description",
arXiv 1411.4389, with a bidirectional GRU as in arXiv 2304.00546. The published configuration of
that study is a ResNeXt-101, one GRU layer of 256 in each direction and the mean over the slices,
which are the defaults here. Two things differ on purpose: there the GRU was trained on stored
features of 150 slices of a study, each joined with its neighbours' and batch-normalised before the
classifier; here everything is trained together, on the slices of a clip, with neither.
"""

from contextlib import nullcontext
from typing import ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import initialization as init

from .base import CTVideoClassifier
from .records import Backbone, Layout, WeightRecord
from .slice_resnet import (
    RESNET18,
    RESNET18_WEIGHTS,
    RESNET_KEYS,
    RESNEXT101,
    RESNEXT101_WEIGHTS,
    TINY_RESNET18,
    TINY_RESNEXT101,
    CTSliceResNetConfig,
    CTSliceResNetModel,
)

__all__ = ["BACKBONES", "CTLRCNConfig", "CTLRCNForVideoClassification", "CTLRCNModel"]

_POOLS = ("mean", "max", "last")


@strict
class CTLRCNConfig(CTSliceResNetConfig):
    """Sizes of an LRCN: those of its 2D ResNet, and of the GRU over the slices."""

    model_type = "ct_lrcn"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "CTLRCNModel",
        "AutoModelForVideoClassification": "CTLRCNForVideoClassification",
    }

    #: As torch starts a linear layer on 512 features: 1 / sqrt(3 x 512).
    head_init_std: float | int = 0.0255
    #: Width of the GRU in each direction.
    recurrent_width: int = 256
    #: Layers of the GRU.
    recurrent_layers: int = 1
    #: What of the GRU's output is classified: its "mean" or "max" over the slices, or where each
    #: direction ends ("last").
    head_pool: str = "mean"
    #: The GRU mixes the slices, so that only features can be pooled.
    pool_over: str = "features"

    @property
    def feature_size(self) -> int:
        """Both directions of the GRU."""
        return 2 * self.recurrent_width

    def validate_pooling(self) -> None:
        """Refuse ways of pooling that do not exist, and sizes below 1."""
        if self.head_pool not in _POOLS:
            raise ValueError(f"head_pool is {self.head_pool!r}; allowed: {', '.join(_POOLS)}.")
        if self.pool_over != "features":
            raise ValueError(f"pool_over is {self.pool_over!r}; an LRCN pools features.")
        for name in ("recurrent_width", "recurrent_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1 is expected.")


class RecurrentPool(nn.Module):
    """A bidirectional GRU over the features of the slices, and its output in one vector."""

    def __init__(self, config: CTLRCNConfig) -> None:
        super().__init__()
        self.pool = config.head_pool
        self.gru = nn.GRU(
            config.slice_feature_size,
            config.recurrent_width,
            num_layers=config.recurrent_layers,
            batch_first=True,
            bidirectional=True,
        )

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """(batch, feature, slice, row, column) -> (batch, 2 x recurrent_width, 1, 1, 1)."""
        features = video.mean((3, 4)).transpose(1, 2)
        with self._differentiable(features):
            outputs, ends = self.gru(features)
        if self.pool == "last":
            vector = torch.cat([ends[-2], ends[-1]], 1)
        else:
            vector = outputs.amax(1) if self.pool == "max" else outputs.mean(1)
        return vector[:, :, None, None, None]

    def _differentiable(self, features: torch.Tensor):
        """cuDNN's recurrent layers have no backward pass in eval mode; torch's own have."""
        if features.is_cuda and torch.is_grad_enabled() and not self.gru.training:
            return torch.backends.cudnn.flags(enabled=False)
        return nullcontext()


class CTLRCNModel(CTSliceResNetModel):
    """A 2D ResNet on every slice and a GRU over the slices, without classifier.

    ``last_hidden_state`` is what the 2D network gives, (batch, feature, slice, row, column);
    ``pooled_grid`` and ``pooler_output`` come after the GRU.
    """

    config_class = CTLRCNConfig
    _no_split_modules = ["BasicBlock", "Bottleneck", "RecurrentPool"]  # noqa: RUF012

    @staticmethod
    def make_head_pool(config: CTLRCNConfig) -> nn.Module:
        """The GRU with what sums it up."""
        return RecurrentPool(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As torch starts a GRU: uniform within 1 / sqrt(width)."""
        super()._init_weights(module)
        if isinstance(module, nn.GRU):
            bound = module.hidden_size**-0.5
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)


class CTLRCNForVideoClassification(CTVideoClassifier):
    """A 2D ResNet on every slice and a GRU over the slices, with a classifier."""

    config_class = CTLRCNConfig
    backbone_class = CTLRCNModel
    _no_split_modules = ["BasicBlock", "Bottleneck", "RecurrentPool"]  # noqa: RUF012


CTLRCNConfig.register_for_auto_class()
CTLRCNModel.register_for_auto_class("AutoModel")
CTLRCNForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")


_LRCN_KEYS = (*RESNET_KEYS, ("gru.", "backbone.head_pool.gru."), ("fc.", "classifier."))
_LAYOUTS = (
    Layout(name="LRCN", sign="gru.", key_map=_LRCN_KEYS),
    # The classifier of a 2D checkpoint reads features that the GRU replaces.
    Layout(name="2D network", sign="conv1.", key_map=RESNET_KEYS, drop=("fc.*",)),
)


def _preset(name: str, weights: dict[str, WeightRecord], fields: dict, tiny: dict) -> Backbone:
    return Backbone(
        name=name,
        config_class=CTLRCNConfig,
        model_class=CTLRCNModel,
        classifier_class=CTLRCNForVideoClassification,
        overrides={key: value for key, value in fields.items() if key != "head_init_std"},
        tiny=tiny | {"recurrent_width": 6},
        tiny_clip=(3, 32, 32),
        key_map=_LRCN_KEYS,
        layouts=_LAYOUTS,
        input_keys=("backbone.blocks.0.0.weight",),
        weights=weights,
        new_parts=("backbone.head_pool.",),
    )


BACKBONES = (
    _preset("lrcn_resnet18", RESNET18_WEIGHTS, RESNET18, TINY_RESNET18),
    _preset("lrcn_resnext101", RESNEXT101_WEIGHTS, RESNEXT101, TINY_RESNEXT101),
)
