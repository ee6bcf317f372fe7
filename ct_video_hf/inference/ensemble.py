"""Several models on one scan: each gives its result, and their probabilities are averaged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dicom import CTVolume
from ..errors import CTVideoError
from ..progress import Progress
from .pipeline import CTVideoPipeline
from .results import key_slice, peaks

__all__ = ["CTVideoEnsemble"]

_RULE = "Key slices: highest mean, over the models, of clip score times class activation."
#: What of a model's own result stands under ``members``.
_MEMBER = (
    "model", "study_probability", "study_score", "study_logit", "calibrated", "calibration",
    "aggregation", "test_time_augmentation", "clips", "key_slices", "precision", "backend",
    "timings_s",
)  # fmt: skip


class CTVideoEnsemble(CTVideoPipeline):
    """Models that score each scan together; called like a :class:`.pipeline.CTVideoPipeline`.

    Their input sizes, windows, clips and rules may differ; each scan is read once, at the size of
    the models where they agree and at full size where they do not. ``study_probability`` is the
    mean of the models' own, calibrated where a model's calibration holds; the mean itself has no
    calibration. ``members`` holds each model's own scores. ``clips`` are means where all models cut
    a study alike, and otherwise the first model's, as ``clips_of`` says.

    Parameters
    ----------
    members : sequence of CTVideoPipeline
        At least two, about labels of the same names.

    Raises
    ------
    CTVideoError
        Fewer than two members, or members about other labels.
    """

    def __init__(self, members: Sequence[CTVideoPipeline]) -> None:
        if len(members) < 2:
            raise CTVideoError(f"An ensemble of {len(members)} model(s); at least 2 are needed.")
        first = members[0]
        for other in members[1:]:
            if (other.labels, other.label) != (first.labels, first.label):
                raise CTVideoError(
                    f"{other.loaded.name} scores {', '.join(other.labels)} and {first.loaded.name} "
                    f"{', '.join(first.labels)}: an ensemble needs models of the same labels."
                )
        self.members = list(members)
        self.policy = first.policy
        sizes = {member.processor.size for member in members}
        self._in_plane = sizes.pop() if len(sizes) == 1 else None

    def saliency(self, scan: Any, *, progress: Progress = False) -> Any:
        """Not of several models at once: ask a member."""
        raise CTVideoError("A saliency map is one model's: predict with that model alone.")

    def _read(self, scan: Any, full_size: bool, progress: Progress) -> tuple[CTVolume, float]:
        return self.members[0]._read(scan, full_size or self._in_plane is None, progress)

    def _predict(
        self, volume: CTVolume, read_seconds: float, *, include_ids: bool, progress: Progress
    ) -> dict[str, Any]:
        begin = time.perf_counter()
        results = [
            member._predict(volume, 0.0, include_ids=include_ids, progress=progress)
            for member in self.members
        ]
        found = _together(results)
        found |= self._places(volume, results, include_ids)
        spent = [result["timings_s"] for result in results]
        found["timings_s"] = {
            **{part: round(sum(one[part] for one in spent), 4) for part in spent[0]},
            "read": round(read_seconds, 4),
            "total": round(read_seconds + time.perf_counter() - begin, 4),
        }
        found["members"] = [{name: result[name] for name in _MEMBER} for result in results]
        return found

    def _places(
        self, volume: CTVolume, results: list[dict[str, Any]], include_ids: bool
    ) -> dict[str, Any]:
        """Clips, key slices and the relevance of slices."""
        grids = [[(clip["start"], clip["stop"]) for clip in one["clips"]] for one in results]
        of_one = ("attention", "attention_logit")  # weights of one model's study score
        clips = [
            {name: value for name, value in clip.items() if name not in of_one}
            for clip in results[0]["clips"]
        ]
        clips_of = f"the first model, {results[0]['model']['name']}"
        if all(grid == grids[0] for grid in grids):
            clips_of = "all models, means of their scores"
            for clip, *several in zip(clips, *(one["clips"] for one in results), strict=True):
                clip["score"] = _mean([one["score"] for one in several])
                if "scores" in clip:
                    clip["scores"] = _means([one["scores"] for one in several])
        along = [one["slice_relevance"] for one in results]
        keys, rule, relevance = results[0]["key_slices"], results[0]["key_slice_rule"], None
        if None not in along:
            relevance = np.mean(along, axis=0).round(4).tolist()
            apart = max(1, min(member.processor.num_frames for member in self.members) // 8)
            keys = _keys(volume, relevance, clips, apart, include_ids)
            rule = _RULE
        return {
            "clips": clips,
            "clips_of": clips_of,
            "key_slices": keys,
            "key_slice_rule": rule,
            "slice_relevance": relevance,
        }


def _keys(
    volume: CTVolume,
    relevance: list[float],
    clips: list[dict[str, Any]],
    apart: int,
    include_ids: bool,
) -> list[dict[str, Any]]:
    """The slices of the highest relevance that lie in a clip, ``apart`` from each other."""
    highest = np.full(len(relevance), -1.0)
    for clip in clips:
        here = highest[clip["start"] : clip["stop"]]
        np.maximum(here, clip["score"], out=here)
    return [
        key_slice(volume, index, float(highest[index]), relevance[index], include_ids=include_ids)
        for index in peaks(np.where(highest >= 0, relevance, 0.0), apart)
    ]


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def _means(several: list[dict[str, float]]) -> dict[str, float]:
    return {name: _mean([one[name] for one in several]) for name in several[0]}


def _same(values: list[Any]) -> str:
    """The one value, or all of them in the order of the models."""
    return values[0] if len(set(values)) == 1 else "; ".join(map(str, values))


def _together(results: list[dict[str, Any]]) -> dict[str, Any]:
    """What does not depend on places in the scan."""
    score = _mean([one["study_score"] for one in results])
    held = min(max(score, 2.0**-52), 1 - 2.0**-52)
    own = sum(one["calibrated"] for one in results)
    words = f"a mean of {len(results)} models, {own} of them calibrated, has none of its own"
    return {
        "study_probability": _mean([one["study_probability"] for one in results]),
        "study_score": score,
        "study_logit": float(np.log(held) - np.log1p(-held)),
        "label": results[0]["label"],
        "study_probabilities": _means([one["study_probabilities"] for one in results]),
        "calibrated": False,
        "calibration": words,
        "aggregation": _same([one["aggregation"] for one in results]),
        "test_time_augmentation": results[0]["test_time_augmentation"],
        "report": results[0]["report"],
        "model": {
            "name": " + ".join(one["model"]["name"] for one in results),
            "revision": None,
            "commit": None,
            "model_type": _same([one["model"]["model_type"] for one in results]),
            "backbone": _same([one["model"]["backbone"] for one in results]),
        },
        "precision": _same([one["precision"] for one in results]),
        "backend": _same([one["backend"] for one in results]),
    }
