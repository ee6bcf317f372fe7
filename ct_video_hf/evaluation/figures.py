"""Figures from the predictions table and the training log; drawn without a display."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from ..errors import CTVideoError
from .aggregation import describe_aggregation
from .bootstrap import bootstrap_intervals, draw_counts
from .calibration import Calibration, score_log_odds
from .metrics import auprc, auroc, precision_recall_curve, roc_curve
from .pointing import wilson_interval
from .predictions import aggregate
from .style import BLUE, ORANGE, in_both_themes, new_axes, new_figure, save_figure, text_colour

__all__ = [
    "plot_learning_curve",
    "plot_pr",
    "plot_reliability",
    "plot_roc",
    "plot_scores",
    "write_figures",
]


def _levels(table: pd.DataFrame, **rules) -> list[tuple[str, pd.DataFrame]]:
    studies = aggregate(table, **rules)
    return [
        (name, cases[cases["label"] >= 0]) for name, cases in (("clip", table), ("study", studies))
    ]


def _curves(labels, scores, clusters, grid, kind: str, *, resamples: int, seed: int):
    """2.5th and 97.5th percentile over the draws of a curve's height, on a grid of 0..1.

    ``roc``: the highest sensitivity reached by each rate of false alarms. ``pr``: the precision
    when each recall is first reached.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
    positive = labels[order].astype(float)
    curves = []
    for counts in draw_counts(clusters, resamples, seed):
        ordered = counts[:, order]
        true = np.cumsum(ordered * positive, axis=1)[:, ends]
        false = np.cumsum(ordered * (1 - positive), axis=1)[:, ends]
        for hits, alarms in zip(true, false, strict=True):
            if kind == "roc" and hits[-1] and alarms[-1]:
                x, y = np.r_[0, alarms / alarms[-1]], np.r_[0, hits / hits[-1]]
                curves.append(y[np.searchsorted(x, grid + 1e-12, side="right") - 1])
            elif kind == "pr" and hits[-1]:
                recall, called = hits / hits[-1], hits + alarms
                precision = np.divide(hits, called, out=np.ones_like(hits), where=called > 0)
                curves.append(precision[np.searchsorted(recall, grid - 1e-12, side="left")])
    return np.percentile(curves, [2.5, 97.5], axis=0) if curves else None


_KINDS = {
    "roc": ("1 - specificity", "Sensitivity", "AUROC", auroc, "lower right"),
    "pr": ("Recall (sensitivity)", "Precision", "AUPRC", auprc, "lower left"),
}


def _plot_curve(
    kind: str, table: pd.DataFrame, path, rules: dict, resamples: int, seed: int
) -> Path:
    """One curve for clips and one for studies, the latter with its band over patients."""
    xlabel, ylabel, area, metric, corner = _KINDS[kind]
    figure = new_figure()
    axes = new_axes(figure, xlabel, ylabel)
    if kind == "roc":
        axes.plot([0, 1], [0, 1], color=text_colour(), alpha=0.6, lw=0.8, linestyle=(0, (2, 3)))
    grid = np.linspace(0, 1, 201)
    style = {"clip": (ORANGE, "--", 1.4), "study": (BLUE, "-", 2.0)}
    for level, cases in _levels(table, **rules):
        colour, line, width = style[level]
        labels, scores = cases["label"].to_numpy(), cases["score"].to_numpy()
        if len(set(labels)) < 2:
            axes.plot([], [], color=colour, linestyle=line, label=f"{level}: undefined, one class")
            continue
        clusters = cases["patient_hash"].to_numpy(dtype=str)
        draws = {"resamples": resamples, "seed": seed}
        found = bootstrap_intervals({area: metric}, labels, scores, clusters, **draws)[area]
        name = f"{level} (n = {labels.size}): {found.value:.3f}"
        if resamples:
            name += f" [{found.low:.3f}, {found.high:.3f}]"
        curve = {"color": colour, "linestyle": line, "lw": width, "label": name}
        if kind == "roc":
            false_rate, true_rate, _ = roc_curve(labels, scores)
            axes.step(false_rate, true_rate, where="post", **curve)
        else:
            recall, precision, _ = precision_recall_curve(labels, scores)
            axes.step(np.r_[0, recall], np.r_[precision[0], precision], where="pre", **curve)
            if level == "study":
                share = labels.mean()
                axes.axhline(share, color=text_colour(), alpha=0.6, lw=0.8, linestyle=(0, (2, 3)))
        if level == "study" and resamples:
            band = _curves(labels, scores, clusters, grid, kind, **draws)
            if band is not None:
                axes.fill_between(grid, *band, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
    axes.legend(
        loc=corner, fontsize=7.5, frameon=True, framealpha=0.9, edgecolor="none",
        title=f"{area} [95 % interval]", title_fontsize=7.5,
    )  # fmt: skip
    rule = describe_aggregation(rules["method"], rules["top_k"])
    name = {"roc": "ROC", "pr": "Precision and recall"}[kind]
    axes.set_title(f"{name}, {_split(table)}, study score: {rule}", fontsize=9)
    return save_figure(figure, path)


def plot_roc(
    table: pd.DataFrame,
    path,
    *,
    aggregation: str = "max",
    top_k: int = 3,
    label_from: str = "study",
    resamples: int = 2000,
    seed: int = 0,
) -> Path:
    """ROC curves of clips and studies; the study curve with its 95 % band over patients.

    A level with one class only is named in the legend as undefined, and not drawn.
    """
    rules = {"method": aggregation, "top_k": top_k, "label_from": label_from}
    return _plot_curve("roc", table, path, rules, resamples, seed)


def plot_pr(
    table: pd.DataFrame,
    path,
    *,
    aggregation: str = "max",
    top_k: int = 3,
    label_from: str = "study",
    resamples: int = 2000,
    seed: int = 0,
) -> Path:
    """Precision against recall, as :func:`plot_roc`; the dotted line is the share of positives."""
    rules = {"method": aggregation, "top_k": top_k, "label_from": label_from}
    return _plot_curve("pr", table, path, rules, resamples, seed)


def plot_reliability(
    table: pd.DataFrame,
    path,
    *,
    calibration: Calibration | None = None,
    aggregation: str = "max",
    top_k: int = 3,
    label_from: str = "study",
    bins: int = 10,
) -> Path:
    """Observed share of positive studies against the score, as it is and calibrated.

    A point a bin of equal width, its area by the studies in it, its bar the 95 % Wilson interval.
    """
    studies = aggregate(table, aggregation, top_k=top_k, label_from=label_from)
    known = studies[studies["label"] >= 0]
    labels, scores = known["label"].to_numpy(), known["score"].to_numpy()
    figure = new_figure()
    axes = new_axes(figure, "Study probability", "Observed share of positive studies")
    axes.plot([0, 1], [0, 1], color=text_colour(), alpha=0.6, lw=0.8, linestyle=(0, (2, 3)))
    lines = [("scores as they are", scores, ORANGE, "^")]
    if calibration is not None:
        calibrated = calibration.apply(score_log_odds(scores))
        lines.append((f"calibrated ({calibration.method})", calibrated, BLUE, "o"))
    for shift, (name, values, colour, marker) in enumerate(lines):
        which = np.clip(np.ceil(values * bins).astype(int) - 1, 0, bins - 1)
        x, share, low, high, count = [], [], [], [], []
        for place in np.unique(which):
            members = which == place
            n, hits = int(members.sum()), int(labels[members].sum())
            x.append(values[members].mean() + 0.004 * shift)
            share.append(hits / n)
            bounds = wilson_interval(hits, n)
            low.append(bounds[0])
            high.append(bounds[1])
            count.append(n)
        axes.vlines(x, low, high, color=colour, lw=1, alpha=0.7)
        axes.plot(x, share, color=colour, lw=1.2, alpha=0.8)
        sizes = 14 + 120 * np.array(count) / labels.size
        axes.scatter(x, share, s=sizes, color=colour, marker=marker, label=name, zorder=3)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.legend(loc="upper left", fontsize=7.5, frameon=True, framealpha=0.9, edgecolor="none")
    axes.set_title(f"Reliability, {_split(table)}, n = {labels.size} studies", fontsize=9)
    return save_figure(figure, path)


def _split(table: pd.DataFrame) -> str:
    return ", ".join(sorted(map(str, table["split"].unique()))) + " split"


def plot_scores(
    table: pd.DataFrame,
    path,
    *,
    aggregation: str = "max",
    top_k: int = 3,
    label_from: str = "study",
) -> Path:
    """Study scores of negatives and positives, every study a dot, with the quartiles."""
    studies = aggregate(table, aggregation, top_k=top_k, label_from=label_from)
    figure = new_figure(4.6, 2.8)
    axes = new_axes(figure, f"Study score ({describe_aggregation(aggregation, top_k)})", "")
    rng = np.random.default_rng(0)  # spreads the dots, nothing else
    names = []
    groups = ((0, "negative", BLUE, "o"), (1, "positive", ORANGE, "^"))
    for row, (label, name, colour, marker) in enumerate(groups):
        scores = studies.loc[studies["label"] == label, "score"].to_numpy()
        names.append(f"{name}\nn = {scores.size}")
        if not scores.size:
            continue
        height = row + rng.uniform(-0.22, 0.22, scores.size)
        axes.scatter(
            scores,
            height,
            s=18,
            c=colour,
            marker=marker,
            alpha=0.75,
            edgecolors=text_colour(),
            lw=0.3,
        )
        low, middle, high = np.percentile(scores, [25, 50, 75])
        axes.plot([low, high], [row + 0.34] * 2, color=text_colour(), linewidth=1.2)
        axes.plot(middle, row + 0.34, marker="|", color=text_colour(), markersize=9)
    axes.set_yticks([0, 1], names)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.5, 1.6))
    axes.set_title(f"Study scores, {_split(table)} (bar: quartiles and median)", fontsize=9)
    return save_figure(figure, path)


def plot_learning_curve(history: list[dict], path, *, metric: str = "study/auroc") -> Path:
    """Training and validation loss, and the validation metric, against the epoch.

    Parameters
    ----------
    history : list of dict
        ``trainer.state.log_history``: ``epoch`` with ``loss``, ``eval_loss``, ``eval_<metric>``.
    """
    figure = new_figure(5.4, 3.4)
    axes = new_axes(figure, "Epoch", "Loss")
    drawn = []
    for key, name, line, marker in (
        ("loss", "training loss", "-", "o"),
        ("eval_loss", "validation loss", "--", "s"),
    ):
        points = [(row["epoch"], row[key]) for row in history if key in row]
        if points:
            drawn += axes.plot(
                *zip(*points, strict=True), color=BLUE, linestyle=line, marker=marker, ms=3.5,
                label=name,
            )  # fmt: skip
    if not drawn:
        raise CTVideoError("the training log has no loss to draw")
    points = [(row["epoch"], row[f"eval_{metric}"]) for row in history if f"eval_{metric}" in row]
    if points and metric != "loss":
        right = axes.twinx()
        right.spines[["top", "left"]].set_visible(False)
        right.set_ylabel(f"Validation {metric}")
        drawn += right.plot(
            *zip(*points, strict=True), color=ORANGE, linewidth=2, marker="^", ms=4.5,
            label=f"validation {metric}",
        )  # fmt: skip
        if metric.endswith(("auroc", "auprc")):
            right.set_ylim(0, 1.03)
    axes.set_ylim(0, 1.08 * axes.dataLim.y1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(
        handles=drawn, loc="outside upper center", ncols=len(drawn), fontsize=7.5, frameon=False
    )
    return save_figure(figure, path)


def write_figures(
    table: pd.DataFrame,
    folder,
    *,
    calibration: Calibration | None = None,
    resamples: int = 2000,
    seed: int = 0,
    **rules,
) -> list[Path]:
    """Every figure of a predictions table, light and dark, into ``folder``.

    ``rules`` are ``aggregation``, ``top_k`` and ``label_from`` of :func:`plot_roc`.
    """
    folder, draws = Path(folder), {"resamples": resamples, "seed": seed}
    return [
        *in_both_themes(plot_roc, table, path=folder / "roc.png", **draws, **rules),
        *in_both_themes(plot_pr, table, path=folder / "pr.png", **draws, **rules),
        *in_both_themes(plot_scores, table, path=folder / "scores.png", **rules),
        *in_both_themes(
            plot_reliability,
            table,
            path=folder / "reliability.png",
            calibration=calibration,
            **rules,
        ),
    ]
