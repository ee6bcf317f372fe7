"""The figures of a study: AUROC against the number of training studies, and the differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.ticker import FixedLocator, NullLocator

from ..evaluation.style import new_axes, new_figure, save_figure
from .analysis import MEAN, Estimate, StudyResults

__all__ = ["plot_data_curves", "plot_differences"]

# Okabe and Ito, from dark to light so that they stay apart in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"


def _series(results: StudyResults, dataset: str, model: str, arm: str) -> list[Estimate]:
    found = [
        results.estimate(dataset, model, arm, fraction) for fraction in results.config.fractions
    ]
    drawn = [entry for entry in found if entry and entry.interval and entry.train_studies]
    return sorted(drawn, key=lambda entry: entry.train_studies)


def _lines(results: StudyResults, dataset: str) -> list[tuple[str, str, str, list[Estimate]]]:
    """What one panel shows: (arm, title, kind, points)."""
    config = results.config
    three_d = [model.name for model in config.models if model.kind == "3d"]
    name = MEAN if len(three_d) > 1 else (three_d or [""])[0]
    lines = [
        (arm.name, f"{arm.title}, {name}", "3d", _series(results, dataset, name, arm.name))
        for arm in config.arms
    ]
    lines += [
        (arm, f"{config.arm(arm).title}, {model.name} (2D)", "2d",
         _series(results, dataset, model.name, arm))
        for model in config.models
        if model.kind == "2d"
        for arm in model.arms
    ]  # fmt: skip
    return [line for line in lines if line[3]]


def plot_data_curves(results: StudyResults, path) -> Path | None:
    """AUROC against training studies: a panel a data set, a line an arm, with 95 % intervals.

    None when no estimate is there to draw.
    """
    names = [data.name for data in results.config.data if data.evaluate]
    panels = [(name, _lines(results, name)) for name in names]
    panels = [(name, lines) for name, lines in panels if lines]
    if not panels:
        return None
    figure = new_figure(4.4 * len(panels) + 0.4, 4.4)
    order = [arm.name for arm in results.config.arms]
    for number, (name, lines) in enumerate(panels, start=1):
        axes = new_axes(
            figure,
            "Training studies",
            "Study AUROC" if number == 1 else "",
            (1, len(panels), number),
        )
        ticks = set()
        for shift, (arm, title, kind, points) in enumerate(lines):
            place = order.index(arm) % len(_COLOURS)
            # neighbouring lines stand a hair apart, so that their intervals can be read
            x = np.array([p.train_studies for p in points]) * 1.02 ** (shift - len(lines) / 2)
            value = np.array([p.interval.value for p in points])
            reach = np.abs(np.array([[p.interval.low, p.interval.high] for p in points]).T - value)
            axes.errorbar(
                x, value, yerr=reach, color=_COLOURS[place], marker=_MARKERS[place], ms=5,
                linestyle="-" if kind == "3d" else (0, (4, 2)), linewidth=1.6, capsize=2,
                elinewidth=0.9, label=title, markerfacecolor=None if kind == "3d" else "white",
            )  # fmt: skip
            ticks |= {round(p.train_studies) for p in points}
        axes.axhline(0.5, color="#808080", linewidth=0.8, linestyle=(0, (2, 3)))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{tick:,}" for tick in sorted(ticks)])
        axes.set_title(results.config.dataset(name).title, fontsize=9)
        axes.legend(fontsize=7, frameon=True, framealpha=0.9, edgecolor="none", loc="best")
    return save_figure(figure, path)


def plot_differences(results: StudyResults, path) -> Path | None:
    """Every tested difference with its interval, by model and fraction; None when there is none.

    All panels have the same scale; short ones stand below each other, so that a page can hold them.
    """
    drawn = [entry for entry in results.differences if entry.comparison is not None]
    if not drawn:
        return None
    groups: dict[tuple[str, str, str], list] = {}
    for entry in drawn:
        groups.setdefault((entry.dataset, entry.a, entry.b), []).append(entry)
    rows = max(len(group) for group in groups.values())
    shape = (len(groups), 1) if rows <= 12 else (1, len(groups))
    figure = new_figure(4.2 * shape[1] + 1.4, (0.26 * rows + 1.1) * shape[0] + 0.3)
    config = results.config
    ends = [0.0] + [end for entry in drawn for end in (entry.comparison.low, entry.comparison.high)]
    margin = 0.05 * (max(ends) - min(ends))
    for number, ((dataset, a, b), group) in enumerate(groups.items(), start=1):
        axes = new_axes(figure, "Difference of study AUROC", "", (*shape, number))
        axes.set_xlim(min(ends) - margin, max(ends) + margin)
        for row, entry in enumerate(reversed(group)):
            found = entry.comparison
            mean = entry.model == MEAN
            axes.plot([found.low, found.high], [row, row], color="#0072B2", lw=2.2 if mean else 1.2)
            axes.plot(found.value, row, marker="D" if mean else "o", color="#0072B2", ms=5)
        axes.set_yticks(
            range(len(group)),
            [f"{entry.model}, {entry.fraction:.0%}" for entry in reversed(group)],
            fontsize=7,
        )
        axes.set_ylim(-0.7, len(group) - 0.3)
        axes.axvline(0, color="#808080", linewidth=0.8, linestyle=(0, (2, 3)))
        axes.set_title(
            f"{config.dataset(dataset).title}: {config.arm(a).title} - {config.arm(b).title}",
            fontsize=8.5,
        )
    return save_figure(figure, path)
