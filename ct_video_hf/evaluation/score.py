"""Scoring the clips of a data set with a model, on one device."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data import CTClipDataset
from .tables import predictions_from

__all__ = ["default_device", "score_clips"]


def default_device() -> torch.device:
    """CUDA or another accelerator when there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def score_clips(
    model,
    dataset: CTClipDataset,
    *,
    batch_size: int = 8,
    workers: int = 0,
    device: torch.device | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """The predictions table of ``model`` on every clip of ``dataset``.

    Parameters
    ----------
    model : PreTrainedModel
        One logit; put in eval mode and left on ``device``.
    dataset : CTClipDataset
        With a transform that is not for training.
    device : torch.device, optional
        See :func:`default_device`.
    """
    device = default_device() if device is None else device
    model = model.to(device).eval()
    # spawned, because a fork of a process with Arrow's threads may wait for ever
    context = "spawn" if workers else None
    loader = DataLoader(dataset, batch_size, num_workers=workers, multiprocessing_context=context)
    logits, studies, starts = [], [], []
    with (
        torch.inference_mode(),
        tqdm(
            total=len(dataset), desc="scoring", unit="clip", disable=None if progress else True
        ) as bar,
    ):
        for batch in loader:
            logits.append(model(pixel_values=batch["pixel_values"].to(device)).logits.float().cpu())
            studies.append(batch["study_index"])
            starts.append(batch["clip_start"])
            bar.update(len(starts[-1]))
    columns = [np.concatenate([part.numpy() for part in parts]) for parts in (studies, starts)]
    return predictions_from(dataset, torch.cat(logits).numpy(), *columns)
