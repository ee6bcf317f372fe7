"""What is known about a backbone besides its code: presets and published weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Backbone", "Layout", "WeightRecord"]


@dataclass(frozen=True)
class WeightRecord:
    """Published weights of a backbone, where they come from, and what input they expect.

    Attributes
    ----------
    url : str or None
        Official address; None where a licence to pass the weights on is missing: they are never
        downloaded, and a user converts a file of their own.
    sha256 : str or None
        Full hash, or its first digits where only those are published; None where nobody published
        one, in which case the hash of the first download is pinned.
    code_license, weight_license : str
        Licence of the reference code, and what is stated about the weights.
    origin : str
        Data that the weights were trained on.
    frames, image_size : int
        Clip length and side in pixels.
    stride : int or None
        Frames between the clip's frames; None where it is not published.
    mean, std : tuple of float
        Normalisation on the 0..1 scale.
    labels : int
        Classes of the published head.
    top1 : float or None
        Reported accuracy in percent; None where none is published.
    protocol : str
        How ``top1`` was measured; figures of different protocols do not compare.
    paper : str
        The network's paper.
    size_bytes : int or None
        Size of the file; None where it is not known for sure.
    """

    url: str | None
    sha256: str | None
    code_license: str
    weight_license: str
    origin: str
    frames: int
    stride: int | None
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: int
    top1: float | None
    protocol: str
    paper: str
    size_bytes: int | None = None


@dataclass(frozen=True)
class Layout:
    """A further way in which checkpoints of a backbone name its weights.

    Attributes
    ----------
    name : str
        For messages.
    sign : str
        A checkpoint is in this layout when one of its keys starts with this text.
    key_map : tuple of (str, str)
        As :attr:`Backbone.key_map`. Several published keys may become the same one; then their
        tensors have to be equal.
    drop : tuple of str
        Patterns (``fnmatch``) of published keys that are no part of the network, such as a momentum
        encoder or a table that is computed: they are left out. All other keys count.
    config : mapping
        Fields of the configuration without which the same weights are another function, such as the
        epsilon of norms. :func:`.registry.create_model` sets them, and refuses other values.
    defaults : mapping
        Fields of the configuration that the published network had, such as its pooling, and that a
        caller may replace.
    processor : mapping
        Fields of the processor that these weights were trained with, where they differ from those
        of the backbone's first :class:`WeightRecord`.
    """

    name: str
    sign: str
    key_map: tuple[tuple[str, str], ...]
    drop: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)


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
    layouts : tuple of Layout
        Layouts besides that of ``key_map``; the first whose sign a checkpoint bears counts.
    input_keys : tuple of str
        Weights of the layers that see the input channels.
    weights : mapping of str to WeightRecord
        Published weights by name; empty where there are none.
    million_parameters : float or None
        As published, with the published classifier.
    adapt : callable or None
        state, configuration -> state, under our own keys: fits tensors to the configuration, such
        as position embeddings interpolated to another clip. Raises ValueError, naming what is
        allowed, where that is not possible.
    new_parts : tuple of str
        Prefixes of our keys that published weights may lack, such as a recurrent layer on top of
        a picture network; each prefix is loaded as a whole or starts anew as a whole. The
        classifier always is one.
    """

    name: str
    config_class: type
    model_class: type
    classifier_class: type
    overrides: Mapping[str, Any]
    tiny: Mapping[str, Any]
    tiny_clip: tuple[int, int, int]
    key_map: tuple[tuple[str, str], ...] = ()
    layouts: tuple[Layout, ...] = ()
    input_keys: tuple[str, ...] = ()
    weights: Mapping[str, WeightRecord] = field(default_factory=dict)
    million_parameters: float | None = None
    adapt: Callable[[dict[str, Any], Any], dict[str, Any]] | None = None
    new_parts: tuple[str, ...] = ()
