"""The lower half of a study's picture: planes, clips and scores on one z axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .page import (
    FAINT,
    INK,
    LEFT,
    LUNG_WINDOW,
    MARK,
    RIGHT,
    RULE,
    SCORE_COLOURS,
    STRIP,
    WIDTH,
    Page,
    badge,
    mark_sides,
    show_plane,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..dicom import CTVolume

__all__ = ["draw_along_the_body"]

_MOST_LANES = 6


def draw_along_the_body(
    page: Page,
    volume: CTVolume,
    result: Mapping[str, Any],
    keys: list[Mapping[str, Any]],
    box: tuple[slice, slice],
    top: float,
) -> None:
    rows, cols = box
    half = volume.spacing[0] / 2
    low, high = float(volume.z_mm[0]) - half, float(volume.z_mm[-1]) + half
    coronal_mm = volume.hu[0, 0, cols].size * volume.spacing[2]
    sagittal_mm = volume.hu[0, rows, 0].size * volume.spacing[1]
    per_mm = STRIP / (high - low)  # mm are equal on both axes where there is room
    first = max(1.2, min(coronal_mm * per_mm, 4.6))
    second = max(0.9, min(sagittal_mm * per_mm, 3.2))
    left = LEFT + 0.25
    coronal = page.axes(left, top, first, STRIP)
    left += first + 0.50
    sagittal = page.axes(left, top, second, STRIP, sharey=coronal)
    left += second + 0.30
    rest = WIDTH - RIGHT - 0.45 - left
    bars = page.axes(left, top, 0.22 * rest, STRIP, sharey=coronal)
    left += 0.22 * rest + 0.30
    curve = page.axes(left, top, 0.78 * rest - 0.45, STRIP, sharey=coronal)
    scale = page.axes(WIDTH - RIGHT - 0.42, top, 0.13, STRIP)
    middle_row, middle_col = _centre(rows), _lung_column(volume.hu, cols)
    true = abs(first / (coronal_mm * per_mm) - 1) < 0.05
    name = "coronal" if true else "coronal (not to scale)"
    _plane(coronal, volume.hu[:, middle_row, cols], coronal_mm, (low, high), name)
    mark_sides(coronal)
    true = abs(second / (sagittal_mm * per_mm) - 1) < 0.05
    name = "sagittal" if true else "sagittal (not to scale)"
    _plane(sagittal, volume.hu[:, rows, middle_col], sagittal_mm, (low, high), name)
    mark_sides(sagittal, "A", "P")
    for axes in (coronal, sagittal, curve):
        for key in keys:
            axes.axhline(key["z_mm"], color=MARK, lw=1.0, alpha=0.9)
    _number_levels(coronal, keys, (low, high))
    _draw_clips(bars, result["clips"], half)
    dots = _draw_curve(curve, result["clips"], half)
    _draw_scale(page.figure, dots, scale)
    coronal.set_ylim(low, high)
    coronal.set_ylabel("z, mm (feet to head)", size=9.5, color=FAINT)
    for axes in (sagittal, bars, curve):
        axes.tick_params(labelleft=False, left=False)
    for axes in (coronal, sagittal, bars, curve):
        axes.tick_params(colors=FAINT, labelsize=8.5)


def _draw_scale(figure: Figure, dots: Any, axes: Axes) -> None:
    bar = figure.colorbar(dots, cax=axes)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=FAINT, labelsize=8.5)


def _centre(extent: slice) -> int:
    return (extent.start + extent.stop) // 2 if extent.start is not None else 0


def _lung_column(hu: np.ndarray, cols: slice) -> int:
    """Column with the most lung, which makes the more telling sagittal plane."""
    chosen = hu[:: max(1, len(hu) // 32)]
    lung = np.sum((chosen > -950) & (chosen < -650), axis=(0, 1))
    inside = np.zeros_like(lung)
    inside[cols] = lung[cols]
    return int(np.argmax(inside)) if inside.any() else hu.shape[2] // 2


def _plane(
    axes: Axes, plane: np.ndarray, width_mm: float, z_range: tuple[float, float], title: str
) -> None:
    show_plane(
        axes,
        plane,
        LUNG_WINDOW,
        origin="lower",
        extent=(0.0, width_mm, *z_range),
        aspect="auto",
    )
    axes.yaxis.set_major_locator(_nice_ticks())
    axes.set_title(title, size=9.5, color=FAINT, loc="left", pad=4)


def _nice_ticks():
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(6, steps=[1, 2, 5, 10])


def _number_levels(axes: Axes, keys: list[Mapping[str, Any]], z_range: tuple[float, float]) -> None:
    """Number the key slices right of the plane, moved apart where they are close."""
    low, high = z_range
    order = sorted(range(len(keys)), key=lambda index: keys[index]["z_mm"])
    wanted = [keys[index]["z_mm"] for index in order]
    gap = 0.068 * (high - low)
    for index, place in zip(order, _spread(wanted, gap, low, high), strict=True):
        axes.plot(
            [1.0, 1.045],
            [keys[index]["z_mm"], place],
            transform=axes.get_yaxis_transform(),
            color=MARK,
            lw=1.0,
            clip_on=False,
        )
        badge(axes, 1.045, place, index + 1, transform=axes.get_yaxis_transform(), offset=(6, 0))


def _spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending places at least ``gap`` apart, near the wanted ones and inside the range."""
    groups: list[list[float]] = []  # each is laid out evenly around the mean of its members
    for value in wanted:
        groups.append([value])
        while len(groups) > 1 and _first(groups[-1], gap, low, high) < gap + _last(
            groups[-2], gap, low, high
        ):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [
        _first(group, gap, low, high) + place * gap
        for group in groups
        for place in range(len(group))
    ]


def _first(group: list[float], gap: float, low: float, high: float) -> float:
    """Place of a group's first member, the whole group being inside the range."""
    length = (len(group) - 1) * gap
    start = sum(group) / len(group) - length / 2
    return max(min(start, high - gap / 2 - length), low + gap / 2)


def _last(group: list[float], gap: float, low: float, high: float) -> float:
    return _first(group, gap, low, high) + (len(group) - 1) * gap


def _lanes(clips: list[Mapping[str, Any]]) -> list[int]:
    """A lane for each clip so that clips of one lane do not overlap."""
    ends: list[int] = []
    result = []
    for clip in clips:
        free = next((lane for lane, end in enumerate(ends) if end <= clip["start"]), len(ends))
        if free == len(ends):
            ends.append(0)
        ends[free] = clip["stop"]
        result.append(free)
    return result


def _draw_clips(axes: Axes, clips: list[Mapping[str, Any]], half: float) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    lanes = _lanes(clips)
    count = min(max(lanes) + 1, _MOST_LANES)
    colours = colormaps[SCORE_COLOURS]
    for clip, lane in zip(clips, lanes, strict=True):
        low, high = clip["z_mm"][0] - half, clip["z_mm"][1] + half
        axes.add_patch(
            Rectangle(
                (lane % count + 0.06, low),
                0.88,
                high - low,
                facecolor=colours(clip["score"]),
                edgecolor="white",
                lw=0.8,
            )
        )
    axes.set_xlim(0, count)
    axes.set_xticks([])
    axes.set_title("clips", size=9.5, color=FAINT, loc="left", pad=4)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(RULE)


def _draw_curve(axes: Axes, clips: list[Mapping[str, Any]], half: float) -> Any:
    from matplotlib import colormaps

    centres = np.array([sum(clip["z_mm"]) / 2 for clip in clips])
    scores = np.array([clip["score"] for clip in clips])
    order = np.argsort(centres)
    axes.plot(scores[order], centres[order], color="#9aa5b1", lw=1.4, zorder=2)
    many = len(clips) > 60
    for clip in [] if many else clips:
        extent = [clip["z_mm"][0] - half, clip["z_mm"][1] + half]
        axes.plot([clip["score"]] * 2, extent, color="#9aa5b1", lw=1.2, alpha=0.7, zorder=1)
    dots = axes.scatter(
        scores,
        centres,
        c=scores,
        cmap=colormaps[SCORE_COLOURS],
        vmin=0,
        vmax=1,
        s=14 if many else 44,
        edgecolors=INK,
        linewidths=0.6,
        zorder=3,
    )
    _name_the_highest(axes, float(scores.max()), float(centres[np.argmax(scores)]))
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("clip score", size=9.5, color=FAINT)
    axes.set_title("clip scores along the body", size=9.5, color=FAINT, loc="left", pad=4)
    axes.grid(axis="x", color=RULE, lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    return dots


def _name_the_highest(axes: Axes, score: float, z_mm: float) -> None:
    right = score < 0.75
    axes.annotate(
        f"highest {score:.3f}",
        (score, z_mm),
        xytext=(10 if right else -10, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        size=9.5,
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.9},
        zorder=4,
    )
