"""Heads of learned attention with weights by chance, for model folders that were never trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ct_video_hf.evaluation.attention import AttentionHead
from ct_video_hf.inference import load_model
from ct_video_hf.training.features import weights_hash


def chance_head(
    features: int, labels: tuple[str, ...], digest: str = "0" * 64, hidden: int = 5, seed: int = 0
) -> AttentionHead:
    """A head whose clips differ much in weight and in log-odds."""
    rng = np.random.default_rng(seed)
    shapes = {
        "tanh.weight": (features, hidden),
        "tanh.bias": (hidden,),
        "sigmoid.weight": (features, hidden),
        "sigmoid.bias": (hidden,),
        "attention.weight": (hidden, len(labels)),
        "classifier.weight": (features, len(labels)),
        "classifier.bias": (len(labels),),
    }
    tensors = {name: rng.normal(0, 2, shape).astype(np.float32) for name, shape in shapes.items()}
    return AttentionHead(tensors, labels, digest, {"seed": seed})


def write_attention(folder: Path) -> AttentionHead:
    """Put a head into a model folder."""
    model = load_model(folder).model
    names = tuple(str(model.config.id2label[place]) for place in range(model.config.num_labels))
    head = chance_head(model.classifier.in_features, names, weights_hash(model))
    head.write(folder)
    return head
