"""Which labels of a set are learned and scored: their names, places and weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CTDataError
from .hub_sets import describe_on_hub, is_repo_id
from .manifest import read_manifest

__all__ = ["LabelChoice", "choose_labels"]


@dataclass(frozen=True)
class LabelChoice:
    """Labels of a set, in the order of a model's logits.

    Attributes
    ----------
    names : tuple of str
    places : tuple of int
        Where each stands among the labels of the set's rows.
    weights : tuple of float or None
        One a label, where the set's source has an official metric that weighs them.
    finding : int or None
        Which of ``names`` makes a clip positive when clips are drawn by class; None: any.
    """

    names: tuple[str, ...]
    places: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    finding: int | None = None

    def __len__(self) -> int:
        return len(self.names)


def choose_labels(
    data: str | os.PathLike, studies, names: Sequence[str] | None = None
) -> LabelChoice:
    """The labels of a set, or those of them that are named.

    Parameters
    ----------
    data : str or path
        The folder of a prepared set, or the dataset repository that it was pushed to; of another
        source labels are known by their place alone ("label 1" and so on).
    studies : datasets.Dataset
        Any of its splits.
    names : sequence of str, optional

    Raises
    ------
    CTDataError
        A name that the set does not have, or one that is given twice.
    """
    manifest: dict[str, Any] = {}
    if (Path(data) / "manifest.json").is_file():
        manifest = read_manifest(data)
    elif not Path(data).exists() and is_repo_id(str(data)):
        manifest = describe_on_hub(str(data))
    width = len(studies.select_columns(["labels"])[0]["labels"])
    known = list(manifest.get("label_names") or [])
    if len(known) != width:
        known = ["label"] if width == 1 else [f"label {place + 1}" for place in range(width)]
    chosen = known if names is None else list(names)
    wrong = [name for name in chosen if name not in known]
    if wrong or len(set(chosen)) != len(chosen):
        what = f"has no label {wrong[0]!r}" if wrong else "was asked for one label twice"
        raise CTDataError(f"the set {Path(data).name} {what}; its labels: {', '.join(known)}")
    places = [known.index(name) for name in chosen]
    weights, finding = manifest.get("label_weights"), manifest.get("finding")
    return LabelChoice(
        names=tuple(chosen),
        places=tuple(places),
        weights=tuple(weights[place] for place in places) if weights else None,
        finding=places.index(finding) if finding in places else None,
    )
