"""The slices where a saliency map is brightest, with the map over them, as one PNG."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CTVideoError
from ..files import replacing
from .page import (
    FAINT,
    GAP,
    INK,
    LEFT,
    LUNG_WINDOW,
    RIGHT,
    WIDTH,
    Page,
    body_box,
    mark_sides,
    show_plane,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..dicom import CTVolume
    from .saliency import SaliencyMap

__all__ = ["SALIENCY_COLOURS", "overlay_rgba", "saliency_figure"]

#: Even steps from violet over red to yellow: told from grey by everyone.
SALIENCY_COLOURS = "inferno"
_DARKEST = 0.3  # of those colours: the first of them are nearly black
#: Below this value the scan alone is shown.
_FAINTEST = 0.05
_TOP, _FOOT, _BAR, _WIDEST = 1.35, 0.95, 0.75, 5.2  # inches


def overlay_rgba(plane: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Colours of a plane of a map, to be laid over the same plane of the scan.

    Parameters
    ----------
    plane : numpy.ndarray
        (row, column), 0..1, from :meth:`.SaliencyMap.plane`.
    opacity : float
        0..1, of the value 1. Smaller values are as much fainter, so that little evidence does not
        hide the scan.

    Returns
    -------
    numpy.ndarray
        uint8 (row, column, 4): red, green, blue, alpha.
    """
    from matplotlib import colormaps

    if not 0 <= opacity <= 1:
        raise CTVideoError(f"opacity is {opacity}; 0 to 1 is expected.")
    values = np.clip(plane, 0.0, 1.0)
    colours = colormaps[SALIENCY_COLOURS](_DARKEST + (1 - _DARKEST) * values)
    shown = np.clip(np.sqrt(values), 0.0, 1.0)
    colours[..., 3] = np.where(values < _FAINTEST, 0.0, opacity * shown)
    return np.rint(colours * 255).astype(np.uint8)


def saliency_figure(
    volume: CTVolume,
    saliency: SaliencyMap,
    path: str | os.PathLike,
    label: str | None = None,
    *,
    slices: int = 5,
    opacity: float = 0.6,
) -> Path:
    """Draw the slices where a map is brightest, as they are and with the map over them.

    Colours stand for the same values in every picture (0 to 1): a study without suspicion stays
    grey. The picture holds no identifier; ``label`` is drawn as given.

    Parameters
    ----------
    volume : CTVolume
        The volume that the map is of.
    saliency : SaliencyMap
    path : path-like
        The PNG to write. It replaces an older file only when it is complete.
    label : str, optional
        Words for the title. Do not give a patient's name or number.
    slices : int
        How many slices to show at most; they are at least 3 apart.
    opacity : float
        0..1, of the largest value.

    Raises
    ------
    CTVideoError
        The map is of another volume, or the opacity is beyond 0..1.
    """
    if saliency.shape != volume.hu.shape:
        raise CTVideoError(
            f"The map is of {saliency.shape} slices, rows, columns and the volume has "
            f"{volume.hu.shape}. Draw a map with the volume that it was made of."
        )
    overlay_rgba(np.zeros((1, 1)), opacity)  # refuses a wrong one before the work
    places = saliency.most_suspicious(slices, apart=3)
    if not places:  # nothing speaks for the label: the middle, so that the scan is seen
        places = [{"index": len(volume) // 2, "value": 0.0}]
    page = _draw(volume, saliency, places, label, opacity)
    path = Path(path)
    with replacing(path) as partial:
        page.figure.savefig(partial, dpi=120, metadata={"Software": "ct_video_hf"})
    return path


def _draw(
    volume: CTVolume,
    saliency: SaliencyMap,
    places: list[dict[str, Any]],
    label: str | None,
    opacity: float,
) -> Page:
    box = body_box(volume.hu)
    tall, wide = (
        len(range(*part.indices(size))) * spacing
        for part, size, spacing in zip(box, volume.hu.shape[1:], volume.spacing[1:], strict=True)
    )
    columns = max(2, len(places))
    width = min((WIDTH - LEFT - RIGHT - _BAR - (columns - 1) * GAP) / columns, _WIDEST)
    height = min(width * tall / wide, 1.15 * width)
    page = Page(_TOP + 2 * height + GAP + _FOOT)
    _words(page, saliency, label)
    for number, place in enumerate(places):
        left = LEFT + number * (width + GAP)
        for line in range(2):
            axes = page.axes(left, _TOP + line * (height + GAP), width, height)
            _panel(axes, volume, saliency, place, box, opacity if line else None)
            if number == 0:
                axes.set_ylabel(("scan", "scan and map")[line], size=9.5, color=FAINT)
            if line == 0:
                _caption(axes, volume, place)
    end = LEFT + len(places) * (width + GAP)
    _colour_bar(page, end + 0.1, _TOP + height + GAP, height, opacity)
    return page


def _words(page: Page, saliency: SaliencyMap, label: str | None) -> None:
    title = f"where the score for “{saliency.label}” comes from"
    title += f"  ·  {label}" if label else ""
    model = saliency.model
    names = [str(model[key]) for key in ("name", "backbone") if model.get(key)]
    left, right, bottom = LEFT - 0.45, WIDTH - RIGHT, page.height
    page.text(left, 0.34, title, size=15, weight="bold")
    page.text(
        right, 0.34, "Not for clinical use", size=14, weight="bold", color="#a63a00", ha="right"
    )
    highest = max((clip["score"] for clip in saliency.clips), default=0.0)
    detail = f"highest clip score {highest:.3f}  ·  the map shows the network, not the disease"
    page.text(left, 0.62, detail, size=10.5, color=FAINT)
    if names:
        page.text(right, 0.62, "model: " + "  ·  ".join(names), size=10.5, color=FAINT, ha="right")
    page.text(left, bottom - 0.50, saliency.method, size=9, color=FAINT)
    page.text(left, bottom - 0.26, f"value: {saliency.combination}", size=9, color=FAINT)


def _panel(
    axes: Axes,
    volume: CTVolume,
    saliency: SaliencyMap,
    place: dict[str, Any],
    box: tuple[slice, slice],
    opacity: float | None,
) -> None:
    index = place["index"]
    aspect = volume.spacing[1] / volume.spacing[2]
    axes.set_facecolor("black")
    show_plane(axes, volume.hu[index][box], LUNG_WINDOW, aspect=aspect)
    if opacity is not None:
        colours = overlay_rgba(saliency.plane(index)[box], opacity)
        axes.imshow(colours, interpolation="nearest", aspect=aspect)
        if "row" in place:
            first_row, first_column = (part.start or 0 for part in box)
            spot = (place["column"] - first_column, place["row"] - first_row)
            for width, colour in ((3.0, "#333a42"), (1.2, "white")):
                axes.plot(*spot, marker="+", color=colour, markersize=9, markeredgewidth=width)
    mark_sides(axes)
    _mark_front_and_back(axes)


def _mark_front_and_back(axes: Axes) -> None:
    from matplotlib.patheffects import withStroke

    style = {
        "size": 8.5,
        "color": "white",
        "ha": "center",
        "transform": axes.transAxes,
        "path_effects": [withStroke(linewidth=2, foreground="#333a42")],
    }
    axes.text(0.5, 0.98, "A", va="top", **style)
    axes.text(0.5, 0.02, "P", va="bottom", **style)


def _caption(axes: Axes, volume: CTVolume, place: dict[str, Any]) -> None:
    index = place["index"]
    source = volume.source_index[index]
    where = "interpolated" if source is None else f"source {source}"
    axes.set_title(
        f"z = {volume.z_mm[index]:.1f} mm   value {place['value']:.3f}\nslice {index}  ·  {where}",
        size=9.5,
        color=INK,
        pad=5,
        linespacing=1.35,
    )


def _colour_bar(page: Page, left: float, top: float, height: float, opacity: float) -> None:
    """As the colours look over lung."""
    axes = page.axes(left, top + 0.1, 0.16, height - 0.2)
    axes.set_facecolor("#484848")
    axes.imshow(
        overlay_rgba(np.linspace(0, 1, 256)[:, None], opacity),
        origin="lower",
        aspect="auto",
        extent=(0, 1, 0, 1),
    )
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.tick_params(labelsize=8.5, colors=INK)
    axes.set_title("value", size=8.5, color=INK, pad=4)
