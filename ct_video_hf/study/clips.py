"""How many clips the runs of a study see: counted in its sets, or said, or worked out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..training.options import resolve
from .config import StudyConfig, StudyData

__all__ = ["RunClips", "count_clips", "run_options", "unmade_set"]

#: What the Trainer does where nothing is said.
_TRAINER = {"max_steps": -1, "eval_strategy": "epoch", "eval_steps": None, "logging_steps": 500}


@dataclass(frozen=True)
class RunClips:
    """Clips of each role in the runs of a network on a data set.

    ``how``: ``"counted"`` in the set, ``"expected"`` by the design, or ``"worked out"`` from what
    the design says of the making of the set.
    """

    train: float
    validation: float
    test: float
    how: str


def run_options(config: StudyConfig, data: StudyData, model: str) -> dict[str, Any]:
    """Effective options of the runs of a model on a data set, with the Trainer's that count."""
    said = {**config.training, **data.training, **config.model(model).training}
    said |= {"data": "-", "output": "-", "backbone": model}
    options, extras = resolve(("the design", said))
    return options | {name: extras.get(name, default) for name, default in _TRAINER.items()}


def unmade_set(data: StudyData):
    """The set that the design will make (:class:`ct_video_hf.data.expected.ExpectedSet`).

    None where the set is there, or where only its scans tell what it will hold.
    """
    from ..data.expected import expected_set

    if (data.set / "manifest.json").is_file() or not data.prepare:
        return None
    said = dict(data.prepare)
    said.pop("data_dir")
    return expected_set(said.pop("source"), said)


def count_clips(
    config: StudyConfig, pairs: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], RunClips]:
    """Clips that the runs of each (model, data set) train on and score.

    Pairs of a set that is not there are left out, unless the design tells of it: by ``expected``,
    or by preparing a generated source.
    """
    counted: dict[tuple, RunClips | None] = {}
    found = {}
    for model, name in pairs:
        data = config.dataset(name)
        options = run_options(config, data, model)
        rule = (options["num_frames"] or 32, options["stride"], options["tail"] or "pad")
        roles = ("train", options["validation_split"], options["test_split"])
        key = (name, *rule, *roles)
        if key not in counted:
            counted[key] = _clips(data, rule, roles)
        if counted[key] is not None:
            found[model, name] = counted[key]
    return found


def _clips(data: StudyData, rule: tuple, roles: tuple[str, str, str]) -> RunClips | None:
    from ..data import summarize_set

    if (data.set / "manifest.json").is_file():
        frames, stride, tail = rule
        summary = summarize_set(data.set, num_frames=frames, stride=stride, tail=tail)
        splits = summary["splits"]
        return RunClips(*(splits.get(role, {}).get("clips", 0) for role in roles), how="counted")
    if {"train_clips", "scored_clips"} <= data.expected.keys():
        half = data.expected["scored_clips"] / 2
        return RunClips(data.expected["train_clips"], half, half, how="expected")
    unmade = unmade_set(data)
    if unmade is None:
        return None
    return RunClips(*(unmade.clips(role, *rule) for role in roles), how="worked out")
