"""Tiny random VideoMAE, V-JEPA 2, TimeSformer and ViViT folders, as the Hub's look."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    AutoModelForVideoClassification,
    TimesformerConfig,
    VideoMAEConfig,
    VivitConfig,
    VJEPA2Config,
)

FRAMES, SIZE = 4, 32
_SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_frames": FRAMES,
    "image_size": SIZE,
}
_CLASSES = {index: f"action {index}" for index in range(7)}

CONFIGS = {
    "videomae": lambda **more: VideoMAEConfig(**(_SIZES | more)),
    "timesformer": lambda **more: TimesformerConfig(**(_SIZES | more)),
    "vivit": lambda **more: VivitConfig(**(_SIZES | more)),
    "vjepa2": lambda **more: VJEPA2Config(
        **{
            "crop_size": SIZE,
            "frames_per_clip": FRAMES,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_pooler_layers": 1,
            "mlp_ratio": 1.5,
            "pred_hidden_size": 24,
            "pred_num_attention_heads": 2,
            "pred_num_hidden_layers": 1,
            **more,
        }
    ),
}

#: What lies beside the weights on the Hub, in the form of each family's published checkpoints.
PROCESSORS = {
    "videomae": (
        "preprocessor_config.json",
        {
            "image_processor_type": "VideoMAEImageProcessor",
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    ),
    "timesformer": (
        "preprocessor_config.json",
        {
            "feature_extractor_type": "VideoMAEFeatureExtractor",
            "do_normalize": True,
            "image_mean": [0.45, 0.45, 0.45],
            "image_std": [0.225, 0.225, 0.225],
        },
    ),
    "vivit": (
        "preprocessor_config.json",
        {
            "image_processor_type": "VivitImageProcessor",
            "do_rescale": True,
            "rescale_factor": 1 / 127.5,
            "offset": True,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    ),
    "vjepa2": (
        "video_preprocessor_config.json",
        {
            "video_processor_type": "VJEPA2VideoProcessor",
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    ),
}


def video_model_folder(family: str, folder: Path, *, license: str | None = None, **config) -> Path:
    """A classifier of 7 named classes with its processor and, with a licence, its card."""
    torch.manual_seed(0)
    config = CONFIGS[family](id2label=_CLASSES, label2id={}, **config)
    model = AutoModelForVideoClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # nothing is left at zero
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    file, content = PROCESSORS[family]
    (folder / file).write_text(json.dumps(content))
    if license is not None:
        (folder / "README.md").write_text(f"---\nlicense: {license}\n---\n# A model\n")
    return folder
