"""Clip logits to the study's result: plain Python, JSON-able, free of identifiers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation import study_score
from ..evaluation.attention import attention_weights, pooled_log_odds

if TYPE_CHECKING:
    from ..dicom import CTVolume

__all__ = [
    "KEY_SLICE_RULE",
    "KEY_SLICE_RULE_CLIPS",
    "NOT_BY_ATTENTION",
    "along_the_body",
    "clip_rows",
    "key_slice",
    "key_slices",
    "log_odds",
    "peaks",
    "sigmoid",
    "study_log_odds",
]

#: How key slices are chosen where the network shows its activation along a clip.
KEY_SLICE_RULE = (
    "Key slices: highest clip score times the network's relative class activation along that clip "
    "(HiResCAM, maximum over the plane), at least an eighth of a clip apart."
)
#: How they are chosen where it does not.
KEY_SLICE_RULE_CLIPS = "Key slices: the middle slices of the clips with the highest scores."
#: Follows the rule where learned attention makes the study's score. Key slices are where to look
#: for the finding, and the network's own classifier tells that slice by slice; a clip may weigh
#: much because it speaks against the label, and attention knows no slices.
NOT_BY_ATTENTION = "Learned attention does not count here."

_KEY_SLICES = 5


def log_odds(logits: np.ndarray, problem_type: str | None) -> np.ndarray:
    """Log-odds (clip, label): the logits themselves, or of the softmax over classes.

    Parameters
    ----------
    logits : numpy.ndarray
        (clip, label), float64.
    problem_type : str or None
        ``single_label_classification`` means softmax, anything else one sigmoid a label.
    """
    if problem_type != "single_label_classification" or logits.shape[1] < 2:
        return logits
    others = np.empty_like(logits)
    for label in range(logits.shape[1]):
        rest = np.delete(logits, label, axis=1)
        highest = rest.max(axis=1, keepdims=True)
        others[:, label] = highest[:, 0] + np.log(np.exp(rest - highest).sum(axis=1))
    return logits - others


def sigmoid(value: float) -> float:
    """Probability of log-odds, without overflow."""
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    odds = math.exp(value)
    return odds / (1.0 + odds)


def study_log_odds(
    odds: np.ndarray, method: str, top_k: int, attention: np.ndarray | None = None
) -> np.ndarray:
    """Log-odds (label,) of a study from those of its clips (clip, label).

    ``method`` and ``top_k`` as in :func:`ct_video_hf.evaluation.study_score`, which works on
    probabilities; those that round to 0 or 1 stop at log-odds of about 36. ``attention``
    (clip, label, 2) is needed by learned attention.
    """
    if method == "attention":
        return pooled_log_odds(attention[..., 0], attention[..., 1])
    if method == "max":  # a probability would lose what it cannot tell from 1
        return odds.max(axis=0)
    columns = [[sigmoid(float(value)) for value in column] for column in odds.T]
    scores = np.array([study_score(np.array(column), method, top_k) for column in columns])
    scores = scores.clip(2.0**-52, 1 - 2.0**-52)
    return np.log(scores) - np.log1p(-scores)


def clip_rows(
    volume: CTVolume,
    starts: np.ndarray,
    lengths: np.ndarray,
    odds: np.ndarray,
    label: int,
    labels: list[str],
    *,
    include_ids: bool,
    attention: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """One dictionary a clip: start, stop (half-open, without padding), score, place in the body.

    ``z_mm`` holds the centres of the first and the last slice; ``source_index`` their places in
    source order and ``source_slices`` those of all slices from the first to the last, for source
    order need not follow the body (None for a slice that was interpolated). ``source_range`` is
    the lowest and the highest of them; None where no slice is of the source. With ``include_ids``
    ``sop_instance_uids`` names each slice. With several labels, ``scores`` holds the score of each.
    With ``attention`` (clip, label, 2) ``attention`` is the clip's weight, the weights of a study
    summing up to 1, and ``attention_logit`` the log-odds that it puts into the study's.
    """
    z = volume.z_mm
    rows = []
    if attention is not None:
        weights = attention_weights(attention[:, label, 0]).tolist()
    for start, length, values in zip(starts.tolist(), lengths.tolist(), odds, strict=True):
        last = start + length - 1
        source = list(volume.source_index[start : last + 1])
        known = [index for index in source if index is not None]
        row = {
            "start": start,
            "stop": last + 1,
            "score": sigmoid(float(values[label])),
            "z_mm": [float(z[start]), float(z[last])],
            "source_index": [source[0], source[-1]],
            "source_range": [min(known), max(known)] if known else None,
            "source_slices": source,
        }
        if include_ids:
            row["sop_instance_uids"] = list(volume.slice_ids[start : last + 1])
        if attention is not None:
            place = len(rows)
            row["attention"] = weights[place]
            row["attention_logit"] = float(attention[place, label, 1])
        if len(labels) > 1:
            scores = (sigmoid(float(value)) for value in values)
            row["scores"] = dict(zip(labels, scores, strict=True))
        rows.append(row)
    return rows


def key_slices(
    volume: CTVolume,
    clips: list[dict[str, Any]],
    relevance: np.ndarray | None,
    num_frames: int,
    *,
    include_ids: bool,
) -> tuple[list[dict[str, Any]], str]:
    """The most suspicious slices, best first, and the rule that chose them.

    Each has ``index`` (from the feet), ``z_mm``, ``source_index``, ``score`` (of the clip that
    brought it in) and ``relevance`` (0..1 within that clip, None where the network does not tell);
    with ``include_ids`` also ``sop_instance_uid``. Under learned attention, too, they follow the
    scores of clips, and the rule says so: see :data:`NOT_BY_ATTENTION`.

    Parameters
    ----------
    relevance : numpy.ndarray or None
        (clip, frame) from :func:`.localization.slice_relevance`.
    """
    scores = np.array([clip["score"] for clip in clips])
    if relevance is None or not relevance.any():
        chosen, rule = _middles(clips, scores), KEY_SLICE_RULE_CLIPS
    else:
        chosen = _peaks(len(volume), clips, scores, relevance, max(1, num_frames // 8))
        rule = KEY_SLICE_RULE
    rows = [
        key_slice(volume, index, clips[clip]["score"], share, include_ids=include_ids)
        for index, clip, share in chosen
    ]
    if any("attention" in clip for clip in clips):
        rule = f"{rule} {NOT_BY_ATTENTION}"
    return rows, rule


def key_slice(
    volume: CTVolume, index: int, score: float, relevance: float | None, *, include_ids: bool
) -> dict[str, Any]:
    """One row of :func:`key_slices`."""
    row = {
        "index": index,
        "z_mm": float(volume.z_mm[index]),
        "source_index": volume.source_index[index],
        "score": score,
        "relevance": relevance,
    }
    if include_ids:
        row["sop_instance_uid"] = volume.slice_ids[index]
    return row


def peaks(values: np.ndarray, apart: int) -> list[int]:
    """Places of the highest values above 0, best first, at least ``apart`` from each other."""
    chosen: list[int] = []
    for index in np.argsort(-values, kind="stable").tolist():
        if values[index] <= 0 or len(chosen) == _KEY_SLICES:
            break
        if all(abs(index - other) >= apart for other in chosen):
            chosen.append(index)
    return chosen


def along_the_body(
    n_slices: int, clips: list[dict[str, Any]], relevance: np.ndarray
) -> list[float]:
    """How much each slice speaks for the label: its activation times the score of its clip.

    Parameters
    ----------
    clips : list of dict
        As from :func:`clip_rows`.
    relevance : numpy.ndarray
        (clip, frame) in 0..1, from :func:`.localization.slice_relevance`.

    Returns
    -------
    list of float
        A value in 0..1 for each slice, from the feet, the highest where clips overlap; to four
        decimals.
    """
    highest = np.zeros(n_slices)
    for clip, values in zip(clips, relevance, strict=True):
        here = highest[clip["start"] : clip["stop"]]
        np.maximum(here, clip["score"] * values[: len(here)], out=here)
    return highest.round(4).tolist()


def _middles(clips: list[dict[str, Any]], scores: np.ndarray) -> list[tuple[int, int, None]]:
    order = np.argsort(-scores, kind="stable")[:_KEY_SLICES].tolist()
    return [((clips[clip]["start"] + clips[clip]["stop"] - 1) // 2, clip, None) for clip in order]


def _peaks(
    n_slices: int,
    clips: list[dict[str, Any]],
    scores: np.ndarray,
    relevance: np.ndarray,
    apart: int,
) -> list[tuple[int, int, float]]:
    best = np.zeros(n_slices)
    source = np.zeros(n_slices, np.int64)
    share = np.zeros(n_slices)
    for number, clip in enumerate(clips):
        here = slice(clip["start"], clip["stop"])
        values = relevance[number, : clip["stop"] - clip["start"]]
        better = scores[number] * values > best[here]
        best[here] = np.where(better, scores[number] * values, best[here])
        source[here] = np.where(better, number, source[here])
        share[here] = np.where(better, values, share[here])
    return [(index, int(source[index]), float(share[index])) for index in peaks(best, apart)]
