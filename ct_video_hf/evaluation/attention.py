"""Learned attention: which clips of a study count how much, learned from training studies.

Gated attention of multiple instance learning (Ilse et al. 2018, arXiv 1802.04712) on the vector
that a network's classifier sees of each clip. Each clip gets a score and log-odds of its own, and a
study's log-odds are the mean of its clips' log-odds, weighed by the softmax of their scores. Both
stand in the predictions table, so the table alone gives the study scores. A model folder keeps the
head as ``attention.safetensors`` and ``attention.json``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CTVideoError
from ..files import replacing

__all__ = [
    "ATTENTION_COLUMNS",
    "ATTENTION_FILES",
    "AttentionHead",
    "attention_weights",
    "how_to_fit",
    "pooled_log_odds",
    "read_attention",
]

#: Of a clip and label in a predictions table: score, of which the softmax over a study's clips are
#: their weights, and log-odds.
ATTENTION_COLUMNS = ("attention_score", "attention_logit")
#: Both or neither lie in a model folder.
ATTENTION_FILES = ("attention.safetensors", "attention.json")
_FORMAT = "ct_video_hf.attention.1"
_TENSORS = (
    "tanh.weight", "tanh.bias", "sigmoid.weight", "sigmoid.bias", "attention.weight",
    "classifier.weight", "classifier.bias",
)  # fmt: skip


def how_to_fit(name: str) -> str:
    """What to do about a model without an attention head, as a sentence."""
    return (
        f"Fit one: `ct-video-hf features {name} SET --out F.safetensors`, then `ct-video-hf probe "
        f"{name} F.safetensors SET --keep-head --aggregation attention --output DIR`; or train "
        "with --aggregation attention."
    )


def attention_weights(scores) -> np.ndarray:
    """Weights (clip,) or (clip, label) of a study's clips: the softmax of their scores."""
    scores = np.asarray(scores, dtype=np.float64)
    shares = np.exp(scores - scores.max(axis=0))
    return shares / shares.sum(axis=0)


def pooled_log_odds(scores, log_odds) -> np.ndarray:
    """A study's log-odds () or (label,) from scores and log-odds of its clips, clips first."""
    return (attention_weights(scores) * np.asarray(log_odds, np.float64)).sum(axis=0)


@dataclass(frozen=True, eq=False)
class AttentionHead:
    """What weighs and judges the clips of a study.

    Attributes
    ----------
    tensors : dict of numpy.ndarray
        float32: ``tanh.weight`` and ``sigmoid.weight`` (feature, hidden) with ``...bias``
        (hidden,), ``attention.weight`` (hidden, label), ``classifier.weight`` (feature, label) and
        ``classifier.bias`` (label,).
    labels : tuple of str
        As the model's.
    weights_sha256 : str
        Of the network whose features it takes
        (:func:`ct_video_hf.training.features.weights_hash`).
    fit : dict
        How it was fitted; JSON-able.
    """

    tensors: dict[str, np.ndarray]
    labels: tuple[str, ...]
    weights_sha256: str
    fit: dict[str, Any] = field(default_factory=dict)

    def clip_values(self, features) -> np.ndarray:
        """Scores and log-odds float64 (clip, label, 2) of clips with features (clip, feature).

        Raises
        ------
        CTVideoError
            Features of another length.
        """
        x = np.asarray(features, dtype=np.float64)
        part = {name: value.astype(np.float64) for name, value in self.tensors.items()}
        wanted = len(part["tanh.weight"])
        if x.ndim != 2 or x.shape[1] != wanted:
            raise CTVideoError(
                f"the attention head takes features (clip, {wanted}), found {x.shape}: it belongs "
                "to another network"
            )
        open_ = np.tanh(x @ part["tanh.weight"] + part["tanh.bias"])
        gate = 0.5 * (1 + np.tanh(0.5 * (x @ part["sigmoid.weight"] + part["sigmoid.bias"])))
        scores = (open_ * gate) @ part["attention.weight"]
        return np.stack([scores, x @ part["classifier.weight"] + part["classifier.bias"]], axis=2)

    def write(self, folder) -> list[Path]:
        """Write both files into a model folder; returns their paths."""
        from safetensors.numpy import save_file

        tensors, facts = (Path(folder) / name for name in ATTENTION_FILES)
        with replacing(tensors) as partial:
            kept = {name: np.ascontiguousarray(value) for name, value in self.tensors.items()}
            save_file(kept, partial, metadata={"format": "np"})
        content = {
            "format": _FORMAT,
            "labels": list(self.labels),
            "weights_sha256": self.weights_sha256,
            "fit": self.fit,
        }
        with replacing(facts) as partial:
            text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
            partial.write_text(text + "\n", encoding="utf-8")
        return [tensors, facts]


def read_attention(folder) -> AttentionHead | None:
    """The attention head of a model folder, or None where it has none.

    Raises
    ------
    CTVideoError
        One of the two files is missing, damaged, or holds something else.
    """
    tensors, facts = (Path(folder) / name for name in ATTENTION_FILES)
    if not tensors.is_file() and not facts.is_file():
        return None
    for one, other in ((tensors, facts), (facts, tensors)):
        if not one.is_file():
            raise CTVideoError(f"{other.name} lies there without {one.name}")
    try:
        content = json.loads(facts.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"it is not of the format {_FORMAT}")
        labels = tuple(map(str, content["labels"]))
        digest, fit = str(content["weights_sha256"]), dict(content["fit"])
    except (ValueError, KeyError, TypeError) as error:
        raise CTVideoError(f"{facts.name} describes no attention head: {error}") from error
    return AttentionHead(_read_tensors(tensors, len(labels)), labels, digest, fit)


def _read_tensors(path: Path, labels: int) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CTVideoError(f"{path.name} is damaged: {error}") from error
    if set(found) != set(_TENSORS):
        raise CTVideoError(f"{path.name} holds other tensors than those of an attention head")
    features, hidden = found["tanh.weight"].shape if found["tanh.weight"].ndim == 2 else (0, 0)
    shapes = {
        "tanh.weight": (features, hidden),
        "tanh.bias": (hidden,),
        "sigmoid.weight": (features, hidden),
        "sigmoid.bias": (hidden,),
        "attention.weight": (hidden, labels),
        "classifier.weight": (features, labels),
        "classifier.bias": (labels,),
    }
    for name, shape in shapes.items():
        value = found[name]
        if value.shape != shape or value.dtype != np.float32 or not np.isfinite(value).all():
            raise CTVideoError(
                f"{path.name}: {name} is {value.dtype} {value.shape}; finite float32 {shape} is "
                "expected"
            )
    return found
