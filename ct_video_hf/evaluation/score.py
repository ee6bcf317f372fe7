"""Scoring the clips of a data set with a model, on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data import CTClipDataset
from ..errors import CTVideoError
from ..workers import QuietSpawnContext
from .attention import AttentionHead
from .tables import predictions_from, with_attention

__all__ = ["ClassifierInput", "FeatureTap", "default_device", "score_clips"]


def default_device() -> torch.device:
    """CUDA or another accelerator when there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


class FeatureTap(nn.Identity):
    """Stands for a classifier where there is only a graph: called with the features it gives."""


class ClassifierInput:
    """What a network's linear classifier sees of clips, while they are computed anyhow.

    Parameters
    ----------
    model : PreTrainedModel or ExportedNetwork
        With a linear ``classifier``, or one that stands for it and gives what it takes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.name = type(model).__name__
        self.head = getattr(model, "classifier", None)
        if not isinstance(self.head, (nn.Linear, FeatureTap)):
            raise CTVideoError(
                f"{self.name} has no linear classifier whose input could be its features"
            )
        self._seen: list[torch.Tensor] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within it the classifier's first input is kept for :meth:`taken`."""
        self._seen.clear()
        hook = self.head.register_forward_pre_hook(self._keep)
        try:
            yield
        finally:
            hook.remove()

    def _keep(self, module: nn.Module, inputs: tuple) -> None:
        if not self._seen:
            self._seen.append(inputs[0].detach())

    def taken(self) -> torch.Tensor:
        """Features (clip, feature), float32; where several positions of a clip are classified and
        averaged afterwards, the mean over the positions, which gives the same logits.

        Raises
        ------
        CTVideoError
            The classifier was not called.
        """
        if not self._seen:
            raise CTVideoError(
                f"the classifier of {self.name} was not called as it is, so nothing tells its "
                "features: leave out what compiles or exports the network"
            )
        features = self._seen.pop().float()
        return features if features.ndim == 2 else features.flatten(1, -2).mean(1)


class _Eager:
    """The model as PyTorch runs it, in float32; with an attention head also what that gives."""

    def __init__(self, model, device: torch.device, attention: AttentionHead | None) -> None:
        self.model, self.device, self.attention = model, device, attention
        self.input = None if attention is None else ClassifierInput(model)

    @torch.inference_mode()
    def __call__(self, pixel_values: torch.Tensor) -> np.ndarray:
        pixel_values = pixel_values.to(self.device)
        if self.attention is None:
            return self.model(pixel_values=pixel_values).logits.float().cpu().numpy()
        with self.input.watched():
            logits = self.model(pixel_values=pixel_values).logits
        values = self.attention.clip_values(self.input.taken().cpu().numpy())
        return np.concatenate([logits.double().cpu().numpy()[..., None], values], axis=2)


def score_clips(
    model,
    dataset: CTClipDataset,
    *,
    batch_size: int = 8,
    workers: int = 0,
    device: torch.device | None = None,
    progress: bool = True,
    scorer: Callable[[torch.Tensor], np.ndarray] | None = None,
    attention: AttentionHead | None = None,
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
        used: another arithmetic, another backend. With an attention head to (clip, label, 3):
        logits, and what the head gives.
    attention : AttentionHead, optional
        Of the model: the table then has :data:`.attention.ATTENTION_COLUMNS`.
    """
    device = default_device() if device is None else device
    if scorer is None:
        scorer = _Eager(model.to(device).eval(), device, attention)
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
    every = np.concatenate(logits)
    if attention is None:
        return predictions_from(dataset, every, *columns)
    # the loader keeps the order of the dataset
    return with_attention(
        predictions_from(dataset, every[..., 0], *columns), dataset, every[..., 1:]
    )
