"""Figures from the predictions table and the training log; drawn without a display."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..errors import CTVideoError
from ..files import replacing
from .aggregation import describe_aggregation
from .bootstrap import bootstrap_intervals, draw_counts
from .metrics import auroc, roc_curve
from .predictions import aggregate

__all__ = [
    "new_axes",
    "new_figure",
    "plot_learning_curve",
    "plot_roc",
    "plot_scores",
    "save_figure",
]

# Okabe and Ito's colours, told apart with every common kind of colour blindness, and in print by
# their lightness: blue is dark, orange is light.
_BLUE, _ORANGE, _GREY = "#0072B2", "#E69F00", "#595959"
_NOT_CLINICAL = "Research only, not for clinical use"


def new_figure(width: float = 4.6, height: float = 4.2) -> Figure:
    """An empty figure of that size in inches, drawn without a display."""
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_axes(figure: Figure, xlabel: str, ylabel: str, place: tuple[int, int, int] = (1, 1, 1)):
    """Axes in the project's style; ``place`` as in ``Figure.add_subplot``."""
    axes = figure.add_subplot(*place)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E0E0E0", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return axes


def save_figure(figure: Figure, path) -> Path:
    """Write the figure under a temporary name, marked as not for clinical use, and rename it."""
    figure.text(0.995, 0.005, _NOT_CLINICAL, ha="right", va="bottom", fontsize=6, color=_GREY)
    figure.get_layout_engine().set(rect=(0, 0.03, 1, 0.97))
    with replacing(path) as partial:
        figure.savefig(partial)
    return Path(path)


def _levels(table: pd.DataFrame, **rules) -> list[tuple[str, pd.DataFrame]]:
    studies = aggregate(table, **rules)
    return [
        (name, cases[cases["label"] >= 0]) for name, cases in (("clip", table), ("study", studies))
    ]


def _band(labels, scores, clusters, grid, *, resamples: int, seed: int):
    """2.5th and 97.5th percentile of the sensitivity over the draws, on a grid of rates."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
    positive = labels[order].astype(float)
    curves = []
    for counts in draw_counts(clusters, resamples, seed):
        ordered = counts[:, order]
        true = np.cumsum(ordered * positive, axis=1)[:, ends]
        false = np.cumsum(ordered * (1 - positive), axis=1)[:, ends]
        for hits, alarms in zip(true, false, strict=True):
            if hits[-1] and alarms[-1]:
                x, y = np.r_[0, alarms / alarms[-1]], np.r_[0, hits / hits[-1]]
                # the highest sensitivity reached by each rate of false alarms
                curves.append(y[np.searchsorted(x, grid + 1e-12, side="right") - 1])
    return np.percentile(curves, [2.5, 97.5], axis=0) if curves else None


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
    figure = new_figure()
    axes = new_axes(figure, "1 - specificity", "Sensitivity")
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=(0, (2, 3)))
    grid = np.linspace(0, 1, 201)
    style = {"clip": (_ORANGE, "--", 1.4), "study": (_BLUE, "-", 2.0)}
    rules = {"method": aggregation, "top_k": top_k, "label_from": label_from}
    for level, cases in _levels(table, **rules):
        colour, line, width = style[level]
        labels, scores = cases["label"].to_numpy(), cases["score"].to_numpy()
        if len(set(labels)) < 2:
            axes.plot([], [], color=colour, linestyle=line, label=f"{level}: undefined, one class")
            continue
        clusters = cases["patient_hash"].to_numpy(dtype=str)
        interval = bootstrap_intervals(
            {"auroc": auroc}, labels, scores, clusters, resamples=resamples, seed=seed
        )["auroc"]
        name = f"{level} (n = {labels.size}): {interval.value:.3f}"
        if resamples:
            name += f" [{interval.low:.3f}, {interval.high:.3f}]"
        false_rate, true_rate, _ = roc_curve(labels, scores)
        axes.step(
            false_rate, true_rate, where="post", color=colour, linestyle=line, lw=width, label=name
        )
        if level == "study" and resamples:
            band = _band(labels, scores, clusters, grid, resamples=resamples, seed=seed)
            if band is not None:
                axes.fill_between(grid, *band, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
    axes.legend(
        loc="lower right", fontsize=7.5, frameon=True, framealpha=0.9, edgecolor="none",
        title="AUROC [95 % interval]", title_fontsize=7.5,
    )  # fmt: skip
    rule = describe_aggregation(aggregation, top_k)
    axes.set_title(f"ROC, {_split(table)}, study score: {rule}", fontsize=9)
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
    groups = ((0, "negative", _BLUE, "o"), (1, "positive", _ORANGE, "^"))
    for row, (label, name, colour, marker) in enumerate(groups):
        scores = studies.loc[studies["label"] == label, "score"].to_numpy()
        names.append(f"{name}\nn = {scores.size}")
        if not scores.size:
            continue
        height = row + rng.uniform(-0.22, 0.22, scores.size)
        axes.scatter(
            scores, height, s=18, c=colour, marker=marker, alpha=0.75, edgecolors="black", lw=0.3
        )
        low, middle, high = np.percentile(scores, [25, 50, 75])
        axes.plot([low, high], [row + 0.34] * 2, color="black", linewidth=1.2)
        axes.plot(middle, row + 0.34, marker="|", color="black", markersize=9)
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
                *zip(*points, strict=True), color=_BLUE, linestyle=line, marker=marker, ms=3.5,
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
            *zip(*points, strict=True), color=_ORANGE, linewidth=2, marker="^", ms=4.5,
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
