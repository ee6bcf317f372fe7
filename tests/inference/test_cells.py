"""Where cells lie, against where gradients say that they look."""

import numpy as np
import pytest
import torch
from torch import nn

from ct_video_hf.errors import CTVideoError
from ct_video_hf.inference.cells import cells_of, linear_weights
from ct_video_hf.models import list_backbones
from tests.models.backbone_cases import tiny_model

_SILENT = (
    nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.ReLU, nn.LeakyReLU, nn.SiLU,
    nn.GELU, nn.Dropout,
)  # fmt: skip
_NAMES = ("SqueezeExcitation", "SqueezeAndExcitation3D", "PENetExcitation", "Swish")


def _plain(network: nn.Module) -> nn.Module:
    """The same grid from sums of pixels alone: no norms, activations, maxima and attention."""
    for parameter in network.parameters():
        parameter.data.fill_(0.01)  # even kernels
    for name, child in list(network.named_children()):
        if isinstance(child, _SILENT) or type(child).__name__ in _NAMES:
            setattr(network, name, nn.Identity())
        elif isinstance(child, nn.MaxPool3d | nn.MaxPool2d):
            average = nn.AvgPool3d if isinstance(child, nn.MaxPool3d) else nn.AvgPool2d
            pool = average(child.kernel_size, child.stride, child.padding)
            setattr(network, name, pool)
        else:
            _plain(child)
            for part, module in child.named_children():
                if "Attention" in type(child).__name__ and part.startswith("proj"):
                    for parameter in module.parameters():
                        nn.init.zeros_(parameter)
    return network


def _looks_at(backbone, clip, axis: int) -> tuple[float, int, tuple[int, ...]]:
    """Middle of what the middle cell along an axis sees, that cell, and the grid."""
    channels = backbone.config.num_channels
    pixels = torch.full((1, clip[0], channels, *clip[1:]), 0.1, requires_grad=True)
    last, _, _ = backbone.forward_features(pixels.transpose(1, 2))
    cell = last.shape[2 + axis] // 2
    last.select(2 + axis, cell).sum().backward()
    seen = pixels.grad[0].sum(1).sum([other for other in range(3) if other != axis]).double()
    return float((seen * torch.arange(len(seen))).sum() / seen.sum()), cell, last.shape[2:]


@pytest.mark.parametrize("name", list_backbones())
def test_cells_lie_where_their_gradients_say(name):
    torch.manual_seed(0)
    pools = {} if name.startswith(("mvit", "lrcn")) else {"head_pool": "mean"}
    sizes = {"num_frames": 9, "image_size": 160} if name.startswith("mvit") else {}
    backbone = _plain(tiny_model(name, **pools, **sizes).backbone)
    config = backbone.config
    for axis in range(3):
        clip = [33, 81, 81] if name == "s3d" else [9, 33, 33]
        if sizes:  # positions are for one size
            clip = [9, 160, 160]
        elif axis == 0:
            clip[0] = 72
        else:
            clip[axis] = 9 * 32
        looked, cell, grid = _looks_at(backbone, clip, axis)
        found = cells_of(config, clip[0], grid)[0]
        if config.model_type == "ct_slowfast" and axis == 0:
            continue
        place = (found.frames, found.rows, found.columns)[axis][cell]
        # Shortcuts of one pixel and kernels of three see the same middle.
        assert looked == pytest.approx(place, abs=0.02), (axis, grid)


def test_both_pathways_of_slowfast():
    config = tiny_model("slowfast_r50").config
    slow, fast = cells_of(config, 32, (8, 2, 2))
    assert slow.frames.tolist() == [0, 4, 8, 13, 17, 22, 26, 31]
    assert fast.frames.tolist() == [1.5 + 4 * index for index in range(8)]
    features = np.arange(config.feature_size)
    assert [*features[slow.channels], *features[fast.channels]] == features.tolist()
    assert len(features[slow.channels]) == config.widths[-1]


def test_weights_are_linear_and_hold_at_the_ends():
    weights = linear_weights(np.array([0.0, 4.0, 8.0]), np.array([-2, 0, 1, 4, 7, 8, 11, np.nan]))
    expected = [[1, 0, 0], [1, 0, 0], [0.75, 0.25, 0], [0, 1, 0], [0, 0.25, 0.75], [0, 0, 1],
                [0, 0, 1], [0, 0, 0]]  # fmt: skip
    np.testing.assert_allclose(weights, expected)


def test_one_cell_is_everywhere():
    np.testing.assert_array_equal(linear_weights(np.array([15.5]), np.arange(3.0)), np.ones((3, 1)))


def test_an_unknown_network_is_refused():
    class Config:
        model_type = "resnet4d"

    with pytest.raises(CTVideoError, match="resnet4d"):
        cells_of(Config(), 16, (1, 1, 1))
