"""An attention head fitted on clip features: in seconds, the network itself does not run."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from ..data import CTClipDataset
from ..errors import CTVideoError
from ..evaluation import aggregate
from ..evaluation.attention import AttentionHead
from ..evaluation.several import by_label, has_several_labels
from ..evaluation.tables import predictions_from

__all__ = ["Bags", "bags_of", "fit_attention"]

#: Length of the gates; half of Ilse et al.'s, whose sets were larger.
HIDDEN = 64
#: Weight decays that are tried; the best on the validation studies is taken.
DECAYS = (1e-2, 1.0)
_EPOCHS, _PATIENCE, _RATE = 60, 15, 1e-2
#: Epochs where no validation studies tell when to stop.
_BLIND_EPOCHS = 20
#: Studies of one step.
_BATCH = 32


@dataclass(frozen=True, eq=False)
class Bags:
    """Studies as bags of clips.

    Attributes
    ----------
    features : numpy.ndarray
        float32 (clip, feature).
    study : numpy.ndarray
        int64 (clip,): row of ``labels``.
    labels : numpy.ndarray
        float32 (study, label): 1, 0 or -1 (unknown).
    """

    features: np.ndarray
    study: np.ndarray
    labels: np.ndarray


def bags_of(dataset: CTClipDataset, features: np.ndarray, label_from: str = "study") -> Bags:
    """The studies of a data set, features (clip, feature) in its order.

    ``label_from`` as in :func:`ct_video_hf.evaluation.aggregate`.
    """
    index = dataset.index
    width = max(1, index.labels.shape[1])
    table = predictions_from(dataset, np.zeros((len(index), width)), index.study, index.start)
    tables = by_label(table) if has_several_labels(table) else {"": table}
    studies = [
        aggregate(rows, label_from=label_from).set_index("study_id") for rows in tables.values()
    ]
    labels = pd.concat([rows["label"] for rows in studies], axis=1)
    names = dataset.dataset.select_columns(["study_id"])["study_id"]
    rows = labels.index.get_indexer([str(names[int(row)]) for row in index.study])
    return Bags(np.asarray(features, np.float32), rows, labels.to_numpy(np.float32))


def fit_attention(
    train: Bags,
    validation: Bags | None,
    classifier: nn.Linear,
    labels: tuple[str, ...],
    weights_sha256: str,
    *,
    seed: int = 0,
    hidden: int = HIDDEN,
) -> AttentionHead:
    """Gated attention (Ilse et al. 2018, arXiv 1802.04712) over the clips of the train studies.

    It starts as the plain mean of the log-odds that the network's own classifier gives the clips,
    and learns by AdamW which clips count and what they say. The epoch and the weight decay are
    those of the lowest log loss on the validation studies; the start itself is among them, so
    that the head is never worse there than that mean.

    Parameters
    ----------
    train, validation : Bags
        Without validation studies the smaller decay runs for a fixed number of epochs.
    classifier : torch.nn.Linear
        The network's own.
    labels : tuple of str
        Names, one for each output of the classifier.
    weights_sha256 : str
        Of the network, kept in the head.
    seed : int
        The same seed on the same machine gives the same head.
    hidden : int
        Length of the gates.

    Raises
    ------
    CTVideoError
        No label is known with both classes among the train studies, or the loss is not finite.
    """
    known = [set(column[column >= 0].tolist()) for column in train.labels.T]
    if not any(classes == {0.0, 1.0} for classes in known):
        raise CTVideoError(
            "learned attention needs train studies of both classes of a label, and there are none"
        )
    scale = _Scale.of(train.features)
    start = _Gated.beginning(classifier, scale, hidden, seed)
    sets = [None if bags is None else _Tensors.of(bags, scale) for bags in (train, validation)]
    tried = [_learn(copy.deepcopy(start), *sets, decay, seed) for decay in DECAYS]
    if validation is None:
        tried = tried[:1]
    best = min(tried, key=lambda one: one.loss)
    head = AttentionHead(
        best.model.tensors(scale),
        tuple(labels),
        weights_sha256,
        {
            "method": "gated attention, arXiv 1802.04712",
            "chosen_by": "a fixed number of epochs" if validation is None
            else "log loss of the validation studies",
            "validation_log_loss": None if validation is None else best.loss,
            "validation_log_loss_at_start": None if validation is None else best.first,
            "epoch": best.epoch,
            "weight_decay": best.decay,
            "weight_decays": list(DECAYS),
            "hidden": hidden,
            "seed": seed,
            "train_studies": len(train.labels),
            "train_clips": len(train.study),
            "validation_studies": 0 if validation is None else len(validation.labels),
        },
    )  # fmt: skip
    if not all(np.isfinite(value).all() for value in head.tensors.values()):
        raise CTVideoError("the loss of the attention head is not finite: features are not usable")
    return head


@dataclass(frozen=True)
class _Scale:
    """Mean and spread of each feature; a feature that never changes has no spread (infinity)."""

    mean: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def of(cls, features: np.ndarray) -> _Scale:
        x = torch.from_numpy(features).double()
        mean, spread = x.mean(0), x.std(0, correction=0)
        return cls(mean, torch.where(spread > 1e-6 * (1 + mean.abs()), spread, torch.inf))

    def __call__(self, features: np.ndarray) -> torch.Tensor:
        return ((torch.from_numpy(features).double() - self.mean) / self.spread).float()


@dataclass(frozen=True)
class _Tensors:
    x: torch.Tensor
    study: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, bags: Bags, scale: _Scale) -> _Tensors:
        """Clips in the order of their studies, so that a batch of studies is one slice."""
        order = np.argsort(bags.study, kind="stable")
        study = torch.from_numpy(bags.study[order].astype(np.int64))
        return cls(scale(bags.features[order]), study, torch.tensor(bags.labels))

    def some(self, studies: torch.Tensor) -> _Tensors:
        """The studies at these places, which are renumbered."""
        place = torch.full((len(self.labels),), -1, dtype=torch.int64)
        place[studies] = torch.arange(len(studies))
        clips = place[self.study] >= 0
        return _Tensors(self.x[clips], place[self.study[clips]], self.labels[studies])


class _Gated(nn.Module):
    """The head on standardised features."""

    def __init__(self, features: int, labels: int, hidden: int) -> None:
        super().__init__()
        self.tanh = nn.Linear(features, hidden)
        self.sigmoid = nn.Linear(features, hidden)
        self.attention = nn.Linear(hidden, labels, bias=False)
        self.classifier = nn.Linear(features, labels)

    @classmethod
    @torch.no_grad()
    def beginning(cls, classifier: nn.Linear, scale: _Scale, hidden: int, seed: int) -> _Gated:
        """All clips weigh the same, and each says what the network's classifier says."""
        labels, features = classifier.weight.shape
        model = cls(features, labels, hidden)
        chance = torch.Generator().manual_seed(seed)
        for gate in (model.tanh, model.sigmoid):
            gate.weight.normal_(0, features**-0.5, generator=chance)
            gate.bias.zero_()
        model.attention.weight.zero_()
        weight = classifier.weight.detach().cpu().double()
        changing = torch.where(torch.isinf(scale.spread), 0.0, scale.spread)
        model.classifier.weight.copy_(weight * changing)
        model.classifier.bias.copy_(classifier.bias.detach().cpu().double() + weight @ scale.mean)
        return model

    def forward(self, bags: _Tensors) -> torch.Tensor:
        """Log-odds (study, label)."""
        scores = self.attention(self.tanh(bags.x).tanh() * self.sigmoid(bags.x).sigmoid())
        count, place = len(bags.labels), bags.study[:, None].expand_as(scores)
        highest = scores.new_full((count, scores.shape[1]), -torch.inf)
        highest = highest.scatter_reduce(0, place, scores.detach(), "amax")
        shares = (scores - highest[bags.study]).exp()
        zeros = torch.zeros_like(highest)
        total = zeros.index_add(0, bags.study, shares)
        return zeros.index_add(0, bags.study, shares * self.classifier(bags.x)) / total

    def loss(self, bags: _Tensors) -> torch.Tensor:
        """Log loss over the labels that are known."""
        known = bags.labels >= 0
        odds, labels = self(bags), bags.labels.clamp(min=0)
        each = functional.binary_cross_entropy_with_logits(odds, labels, reduction="none")
        return (each * known).sum() / known.sum().clamp(min=1)

    @torch.no_grad()
    def tensors(self, scale: _Scale) -> dict[str, np.ndarray]:
        """For features as they are, by the names of :class:`.AttentionHead`."""
        found = {}
        for name in ("tanh", "sigmoid", "classifier"):
            layer = getattr(self, name)
            weight = layer.weight.double() / scale.spread
            found[f"{name}.weight"] = weight.T
            found[f"{name}.bias"] = layer.bias.double() - weight @ scale.mean
        found["attention.weight"] = self.attention.weight.T
        return {name: value.float().contiguous().numpy() for name, value in found.items()}


@dataclass(frozen=True)
class _Learned:
    model: _Gated
    loss: float
    first: float
    epoch: int
    decay: float


def _learn(
    model: _Gated, train: _Tensors, held: _Tensors | None, decay: float, seed: int
) -> _Learned:
    """The head at its best epoch; epoch 0 is the start."""
    chance = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=decay)
    with torch.no_grad():
        first = None if held is None else float(model.loss(held))
    best = (first, 0, copy.deepcopy(model.state_dict()))
    for epoch in range(1, (_BLIND_EPOCHS if held is None else _EPOCHS) + 1):
        for studies in torch.randperm(len(train.labels), generator=chance).split(_BATCH):
            optimizer.zero_grad()
            model.loss(train.some(studies)).backward()
            optimizer.step()
        if held is None:
            continue
        with torch.no_grad():
            loss = float(model.loss(held))
        if loss < best[0]:
            best = (loss, epoch, copy.deepcopy(model.state_dict()))
        elif epoch - best[1] >= _PATIENCE:
            break
    if held is None:
        return _Learned(model, float("nan"), float("nan"), _BLIND_EPOCHS, decay)
    model.load_state_dict(best[2])
    return _Learned(model, best[0], first, best[1], decay)
