"""What is known about a backbone besides its code: presets and published weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Backbone", "WeightRecord"]


@dataclass(frozen=True)
class WeightRecord:
    """Published weights of a backbone, where they come from, and what input they expect.

    Attributes
    ----------
    url : str
        Official address.
    sha256 : str or None
        Full hash, or its first digits where only those are published; None where nobody published
        one, in which case the hash of the first download is pinned.
    code_license, weight_license : str
        Licence of the reference code, and what is stated about the weights.
    origin : str
        Data that the weights were trained on.
    frames, stride, image_size : int
        Clip length, frames between its frames, and side in pixels.
    mean, std : tuple of float
        Normalisation on the 0..1 scale.
    labels : int
        Classes of the published head.
    top1 : float
        Reported accuracy in percent.
    protocol : str
        How ``top1`` was measured; figures of different protocols do not compare.
    paper : str
        The network's paper.
    """

    url: str
    sha256: str | None
    code_license: str
    weight_license: str
    origin: str
    frames: int
    stride: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: int
    top1: float
    protocol: str
    paper: str


@dataclass(frozen=True)
class Backbone:
    """A named preset of a configuration class.

    Attributes
    ----------
    name : str
        What ``create_model`` takes.
    config_class, model_class, classifier_class : type
        The family's classes.
    overrides : mapping
        Fields of the configuration that differ from its defaults.
    tiny : mapping
        Further overrides that make a network of the same structure with few channels, for tests.
    tiny_clip : tuple of int
        Smallest (frames, rows, columns) worth testing the tiny network on.
    key_map : tuple of (str, str)
        Prefixes of the published checkpoint's keys and what they become; the first that fits
        counts.
    input_keys : tuple of str
        Weights of the layers that see the input channels.
    weights : mapping of str to WeightRecord
        Published weights by name; empty where there are none.
    million_parameters : float or None
        As published, with the published classifier.
    """

    name: str
    config_class: type
    model_class: type
    classifier_class: type
    overrides: Mapping[str, Any]
    tiny: Mapping[str, Any]
    tiny_clip: tuple[int, int, int]
    key_map: tuple[tuple[str, str], ...] = ()
    input_keys: tuple[str, ...] = ()
    weights: Mapping[str, WeightRecord] = field(default_factory=dict)
    million_parameters: float | None = None
