"""Features of one scan: what the network's classifier sees of each clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..training.features import HeadInput

if TYPE_CHECKING:
    from .pipeline import CTVideoPipeline

__all__ = ["scan_features"]


def scan_features(predict: CTVideoPipeline, scan: Any) -> dict[str, np.ndarray]:
    """Features of the clips of a scan, see :meth:`.CTVideoPipeline.features`."""
    volume, _ = predict._read(scan, full_size=False, progress=False)
    starts, planes = predict._prepare(volume)
    compute, size = HeadInput(predict.model), predict.scorer.batch_size
    found, lengths = [], []
    with predict.scorer.arithmetic():
        for first in range(0, len(starts), size):
            clips, valid = predict.processor.cut(planes, starts[first : first + size])
            pixels = predict.processor.to_pixel_values(clips).to(predict.device)
            found.append(compute(pixels).cpu().numpy())
            lengths.append(valid)
    return {
        "features": np.concatenate(found),
        "start": np.asarray(starts, np.int64),
        "stop": np.asarray(starts, np.int64) + np.concatenate(lengths),
    }
