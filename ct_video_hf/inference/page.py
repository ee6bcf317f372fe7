"""What the study's picture is made of: the page, planes in a window, marks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Page", "badge", "body_box", "mark_sides", "show_plane"]

#: (centre, width) in HU of the two windows that every chest CT is read in.
LUNG_WINDOW = (-600.0, 1500.0)
MEDIASTINAL_WINDOW = (40.0, 400.0)

INK, FAINT, RULE = "#1c2530", "#6b7683", "#cfd5dc"
MARK = "#e69f00"  # orange of the Okabe-Ito palette: told from grey and from cividis by everyone
SCORE_COLOURS = "cividis"  # even steps, colour-blind safe, ascending in grey print

# inches
WIDTH, LEFT, RIGHT, GAP, STRIP = 15.0, 0.85, 0.40, 0.06, 3.5


class Page:
    """A figure on which things are placed in inches from the upper left corner."""

    def __init__(self, height: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.height = height
        self.figure = Figure(figsize=(WIDTH, height), facecolor="white")
        FigureCanvasAgg(self.figure)  # no pyplot: no global state, no display needed

    def axes(self, left: float, top: float, width: float, height: float, **options: Any) -> Axes:
        box = (
            left / WIDTH,
            1 - (top + height) / self.height,
            width / WIDTH,
            height / self.height,
        )
        return self.figure.add_axes(box, **options)

    def text(self, left: float, top: float, words: str, **style: Any) -> None:
        style = {"color": INK, "va": "center", **style}
        self.figure.text(left / WIDTH, 1 - top / self.height, words, **style)


def show_plane(axes: Axes, plane: np.ndarray, window: tuple[float, float], **options: Any) -> None:
    centre, width = window
    axes.imshow(
        plane,
        cmap="gray",
        vmin=centre - width / 2,
        vmax=centre + width / 2,
        interpolation="bicubic",
        **options,
    )
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def badge(
    axes: Axes, x: float, y: float, number: int, *, transform: Any, offset: tuple[float, float]
) -> None:
    axes.annotate(
        str(number),
        (x, y),
        xycoords=transform,
        xytext=offset,
        textcoords="offset points",
        size=8.5,
        weight="bold",
        color="black",
        ha="center",
        va="center",
        bbox={"boxstyle": "circle,pad=0.22", "facecolor": MARK, "edgecolor": "none"},
        annotation_clip=False,
        zorder=6,
    )


def mark_sides(axes: Axes, left: str = "R", right: str = "L") -> None:
    from matplotlib.patheffects import withStroke

    style = {
        "size": 8.5,
        "color": "white",
        "va": "center",
        "transform": axes.transAxes,
        "path_effects": [withStroke(linewidth=2, foreground="#333a42")],
    }
    axes.text(0.02, 0.5, left, ha="left", **style)
    axes.text(0.98, 0.5, right, ha="right", **style)


def body_box(hu: np.ndarray, margin: float = 0.02) -> tuple[slice, slice]:
    """Rows and columns that hold the body in any of up to 32 slices spread over the scan."""
    chosen = hu[:: max(1, len(hu) // 32)]
    tissue = np.mean(chosen > -300, axis=0) > 0.12
    if not tissue.any():
        return slice(None), slice(None)
    return _extent(tissue.any(axis=1), margin), _extent(tissue.any(axis=0), margin)


def _extent(mask: np.ndarray, margin: float) -> slice:
    inside = np.flatnonzero(mask)
    pad = round(margin * len(mask))
    return slice(max(0, inside[0] - pad), min(len(mask), inside[-1] + 1 + pad))
