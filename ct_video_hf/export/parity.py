"""How far an exported graph is from the network that it was made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..evaluation.attention import AttentionHead, pooled_log_odds
from ..evaluation.score import ClassifierInput
from ..inference.exported import ExportedNetwork
from ..inference.localization import clip_forward
from ..inference.results import log_odds
from ..models import CTVideoProcessor

__all__ = ["ACTIVATION_TOLERANCE", "TOLERANCE", "Parity", "compare", "random_clips"]

#: Largest difference of a probability; of a logit, where the largest logit is above 1, that many
#: times this.
TOLERANCE = 1e-4
#: Largest difference of an activation, relative to the largest one.
ACTIVATION_TOLERANCE = 1e-3
#: Largest difference of a feature that learned attention takes, relative to the largest one.
FEATURE_TOLERANCE = 1e-4
#: Clips computed at a time: alone, and several.
_BATCHES = (1, 3)


@dataclass(frozen=True)
class Parity:
    """Differences over all clips.

    Attributes
    ----------
    logits, probabilities : float
        Largest absolute difference.
    activation, features : float or None
        Largest absolute difference over the largest activation, and over the largest feature; None
        where the graph gives none.
    largest_logit, spread : float
        Of the network's logits on these clips: the largest absolute value, and the largest standard
        deviation of a label over the clips. A spread near 0 says that the clips tell little.
    shapes : list of list of int
        Of the clips that were computed at a time.
    tolerance : float
    """

    logits: float
    probabilities: float
    activation: float | None
    largest_logit: float
    spread: float
    shapes: list[list[int]]
    tolerance: float
    features: float | None = None

    @property
    def passed(self) -> bool:
        """Whether all differences are within their tolerance; a difference that is none is not."""
        return (
            self.logits <= self.tolerance * max(1.0, self.largest_logit)
            and self.probabilities <= self.tolerance
            and (self.activation is None or self.activation <= ACTIVATION_TOLERANCE)
            and (self.features is None or self.features <= FEATURE_TOLERANCE)
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        differences = {
            "logits": self.logits,
            "probabilities": self.probabilities,
            "activation_relative": self.activation,
        }
        tolerances = {
            "logits": self.tolerance * max(1.0, self.largest_logit),
            "probabilities": self.tolerance,
            "activation_relative": ACTIVATION_TOLERANCE,
        }
        if self.features is not None:
            differences["features_relative"] = self.features
            tolerances["features_relative"] = FEATURE_TOLERANCE
        return {
            "passed": self.passed,
            "max_difference": differences,
            "tolerance": tolerances,
            "compared": {
                "clips": "random structures in Hounsfield units, through the processor",
                "shapes": self.shapes,
                "with": f"PyTorch {torch.__version__} eager, cpu, float32",
                "largest_logit": self.largest_logit,
                "spread_of_logits": self.spread,
            },
        }

    def words(self) -> str:
        """For people."""
        words = f"logits differ by {self.logits:.1e} and probabilities by {self.probabilities:.1e}"
        if self.activation is not None:
            words += f", activations by {self.activation:.1e} of the largest"
        if self.features is not None:
            words += f", features by {self.features:.1e} of the largest"
        return words


def compare(
    network: nn.Module,
    exported: ExportedNetwork,
    processor: CTVideoProcessor,
    tolerance: float = TOLERANCE,
    head: AttentionHead | None = None,
) -> Parity:
    """Compute the same clips by the eager network and by the graph.

    Parameters
    ----------
    network : torch.nn.Module
        In eval mode, on the CPU, in float32.
    exported : ExportedNetwork
        As prediction runs it, from the files that were written.
    processor : CTVideoProcessor
    tolerance : float
        See :data:`TOLERANCE`.
    head : AttentionHead, optional
        The model's head of learned attention: features are compared, too, and the probabilities of
        the clips together, a study of them, that it makes of either.
    """
    labels = range(network.config.num_labels)
    differences, activations, wanted, found, shapes = [], [], [], [], []
    taken: tuple[list, list] = ([], [])
    for seed, count in enumerate(_BATCHES):
        clips = random_clips(processor, count, seed)
        shapes.append(list(clips.shape))
        (expected, _), features = _watched(network, clips, head)
        (logits, given), others = _watched(exported, clips, head)
        if head is not None:
            taken[0].append(features)
            taken[1].append(others)
        wanted.append(expected.double().numpy())
        found.append(logits.double().numpy())
        for label in labels if given is not None else ():
            _, along = clip_forward(network, clips, label)
            _, given = exported.scores(clips, label)
            differences.append(_largest(along - given))
            activations.append(_largest(along))
    wanted, found = np.concatenate(wanted), np.concatenate(found)
    kind = network.config.problem_type
    odds, other = log_odds(wanted, kind), log_odds(found, kind)
    apart = _largest(_sigmoid(odds) - _sigmoid(other))
    features = None
    if head is not None:
        of_network, of_graph = map(np.concatenate, taken)
        features = _ratio(_largest(of_network - of_graph), _largest(of_network))
        studies = [_study_of(head, some) for some in (of_network, of_graph)]
        apart = max(apart, _largest(_sigmoid(studies[0]) - _sigmoid(studies[1])))
    return Parity(
        logits=_largest(wanted - found),
        probabilities=apart,
        features=features,
        activation=_ratio(max(differences), max(activations)) if activations else None,
        largest_logit=_largest(wanted),
        spread=float(wanted.std(axis=0).max()),
        shapes=shapes,
        tolerance=tolerance,
    )


def _watched(
    network: nn.Module, clips: torch.Tensor, head: AttentionHead | None
) -> tuple[tuple[torch.Tensor, torch.Tensor | None], np.ndarray | None]:
    """Logits and activations of the first label, and with a head what the classifier takes."""
    if head is None:
        return clip_forward(network, clips, 0), None
    seen = ClassifierInput(network)
    with seen.watched():
        scores = clip_forward(network, clips, 0)
    return scores, seen.taken().double().numpy()


def _study_of(head: AttentionHead, features: np.ndarray) -> np.ndarray:
    """Log-odds (label,) of a study with clips of these features."""
    values = head.clip_values(features)
    return pooled_log_odds(values[..., 0], values[..., 1])


def random_clips(processor: CTVideoProcessor, count: int, seed: int) -> torch.Tensor:
    """Clips (clip, frame, channel, row, column) of random structures, coarse ones and noise.

    Noise alone is nearly the same to a network from clip to clip, and would hide errors.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (processor.num_frames, processor.plane_size, processor.plane_size)
    coarse = torch.randn(count, 1, 4, 5, 5, generator=generator)
    smooth = nn.functional.interpolate(coarse, shape, mode="trilinear", align_corners=True)
    noise = torch.randn(count, *shape, generator=generator)
    hu = (-300 + 400 * smooth[:, 0] + 60 * noise).clamp(-1024, 3071)
    return processor.to_pixel_values(hu.round().to(torch.int16).numpy())


def _sigmoid(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds.clip(-700, 700)))


def _largest(values: Any) -> float:
    """The largest absolute value; infinite where one is no number, so that it passes nothing."""
    highest = float(abs(values).max())
    return highest if math.isfinite(highest) else math.inf


def _ratio(difference: float, size: float) -> float:
    return difference / size if size > 0 else difference
