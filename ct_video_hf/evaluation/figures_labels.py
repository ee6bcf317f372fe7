"""The figure of a model with several labels: AUROC of each, with intervals."""

from __future__ import annotations

from pathlib import Path

from .style import BLUE, in_both_themes, new_axes, new_figure, save_figure, text_colour

__all__ = ["plot_labels", "write_label_figures"]


def plot_labels(report: dict, path) -> Path:
    """Study AUROC of each label of a report of several, best first, and their mean.

    A label without an AUROC stays in the list and says so.
    """
    entries = {name: found["study/auroc"] for name, found in report["labels"].items()}
    order = sorted(entries, key=lambda name: -(entries[name]["value"] or 0))
    figure = new_figure(5.6, 1.3 + 0.28 * len(order))
    axes = new_axes(figure, "Study AUROC [95 % interval]", "")
    for row, name in enumerate(order):
        entry = entries[name]
        if entry["value"] is None:
            axes.text(0.51, row, "undefined: " + entry["undefined"], va="center", fontsize=7)
            continue
        if entry["low"] is not None:
            axes.plot([entry["low"], entry["high"]], [row, row], color=BLUE, linewidth=1.4)
        axes.plot(entry["value"], row, marker="o", color=BLUE, markersize=4.5)
    mean = report["study/auroc"]["value"]
    if mean is not None:
        axes.axvline(mean, color=text_colour(), alpha=0.6, lw=0.8, linestyle=(0, (2, 3)))
        axes.set_title(f"Mean of {report['study/auroc']['over']} labels: {mean:.3f}", fontsize=9)
    names = [f"{name} ({entries[name]['positives']}/{entries[name]['n']})" for name in order]
    axes.set_yticks(range(len(order)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(right=1.02)
    return save_figure(figure, path)


def write_label_figures(report: dict, folder) -> list[Path]:
    """``labels.png``, light and dark, into ``folder``."""
    return in_both_themes(plot_labels, report, path=Path(folder) / "labels.png")
