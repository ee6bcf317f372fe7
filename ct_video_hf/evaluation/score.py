"""Scoring the clips of a data set with a model, on one device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data import CTClipDataset
from ..workers import QuietSpawnContext
from .tables import predictions_from

__all__ = ["default_device", "score_clips"]


def default_device() -> torch.device:
    """CUDA or another accelerator when there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


class _Eager:
    """The model as PyTorch runs it, in float32."""

    def __init__(self, model, device: torch.device) -> None:
        self.model, self.device = model, device

    @torch.inference_mode()
    def __call__(self, pixel_values: torch.Tensor) -> np.ndarray:
        return self.model(pixel_values=pixel_values.to(self.device)).logits.float().cpu().numpy()


def score_clips(
    model,
    dataset: CTClipDataset,
    *,
    batch_size: int = 8,
    workers: int = 0,
    device: torch.device | None = None,
    progress: bool = True,
    scorer: Callable[[torch.Tensor], np.ndarray] | None = None,
) -> pd.DataFrame:
    """The predictions table of ``model`` on every clip of ``dataset``.

    Parameters
    ----------
    model : PreTrainedModel
        One logit a label; put in eval mode and left on ``device``.
    dataset : CTClipDataset
        With a transform that is not for training.
    device : torch.device, optional
        See :func:`default_device`.
    scorer : callable, optional
        Takes ``pixel_values`` to logits (clip, label) in the place of ``model``, which is then not
        used: another arithmetic, another backend.
    """
    device = default_device() if device is None else device
    if scorer is None:
        scorer = _Eager(model.to(device).eval(), device)
    # spawned, because a fork of a process with Arrow's threads may wait for ever
    context = QuietSpawnContext() if workers else None
    loader = DataLoader(dataset, batch_size, num_workers=workers, multiprocessing_context=context)
    logits, studies, starts = [], [], []
    with tqdm(
        total=len(dataset), desc="scoring", unit="clip", disable=None if progress else True
    ) as bar:
        for batch in loader:
            logits.append(scorer(batch["pixel_values"]))
            studies.append(batch["study_index"])
            starts.append(batch["clip_start"])
            bar.update(len(starts[-1]))
    columns = [np.concatenate([part.numpy() for part in parts]) for parts in (studies, starts)]
    return predictions_from(dataset, np.concatenate(logits), *columns)
