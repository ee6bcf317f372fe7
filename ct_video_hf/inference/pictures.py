"""One picture of a study and its scores, for people who look rather than read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CTVideoError
from ..files import replacing
from .body_panels import draw_along_the_body
from .page import (
    FAINT,
    GAP,
    INK,
    LEFT,
    LUNG_WINDOW,
    MEDIASTINAL_WINDOW,
    RIGHT,
    STRIP,
    WIDTH,
    Page,
    badge,
    body_box,
    mark_sides,
    show_plane,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..dicom import CTVolume

__all__ = ["check_belongs", "study_figure"]

_MOST_SLICES = 5
_DPI = 120


def study_figure(
    volume: CTVolume,
    result: Mapping[str, Any],
    path: str | os.PathLike,
    label: str | None = None,
    *,
    slices: int = _MOST_SLICES,
) -> Path:
    """Draw a study, its clip scores and its most suspicious slices as one PNG.

    The upper half shows the key slices of ``result`` in the lung and the mediastinal window, the
    lower half a coronal and a sagittal plane with the clips and their scores beside them on the
    same z axis. The picture holds no identifier; ``label`` is drawn as given.

    Parameters
    ----------
    volume : CTVolume
        The scan that was scored. Full resolution looks best; the resized volume works as well.
    result : mapping
        What :func:`ct_video_hf.pipeline` returned for this scan.
    path : path-like
        The PNG to write. It replaces an older file only when it is complete.
    label : str, optional
        Words for the title. Do not give a patient's name or number.
    slices : int
        How many key slices to show at most.

    Returns
    -------
    pathlib.Path
        ``path``.

    Raises
    ------
    CTVideoError
        The result belongs to another scan (its slices lie outside of the volume).
    """
    check_belongs(volume, result)
    figure = _draw(volume, result, label, slices)
    return _save(figure, Path(path))


def check_belongs(volume: CTVolume, result: Mapping[str, Any]) -> None:
    """Refuse a result of another scan. Raises CTVideoError."""
    last = max(clip["stop"] for clip in result["clips"])
    if last > len(volume) or result["report"]["slices"] != len(volume):
        raise CTVideoError(
            f"The result is about a scan of {result['report']['slices']} slices (clips up to "
            f"{last}), the volume has {len(volume)}. Draw a result with the volume it came from."
        )


def _save(figure: Figure, path: Path) -> Path:
    with replacing(path) as partial:
        figure.savefig(partial, dpi=_DPI, metadata={"Software": "ct_video_hf"})
    return path


def _draw(volume: CTVolume, result: Mapping[str, Any], label: str | None, slices: int) -> Figure:
    keys = list(result["key_slices"])[:slices]
    rows, cols = body_box(volume.hu)
    tall = volume.hu[0, rows, cols].shape[0] * volume.spacing[1]
    wide = volume.hu[0, rows, cols].shape[1] * volume.spacing[2]
    # Few slices: their two windows side by side, so that the page is filled either way.
    side_by_side = len(keys) <= 2
    columns = 4 if side_by_side else max(4, len(keys))
    panel = (WIDTH - LEFT - RIGHT - (columns - 1) * GAP) / columns
    row = min(panel * tall / wide, 1.15 * panel)
    below = 1.55 + (row if side_by_side else 2 * row + GAP) + 0.50
    page = Page(below + STRIP + 1.0)
    _draw_title(page, result, label)
    _draw_key_slices(page, volume, keys, (rows, cols), (panel, row), side_by_side)
    draw_along_the_body(page, volume, result, keys, (rows, cols), below)
    _draw_footer(page, result)
    return page.figure


# ------------------------------------------------------------------------------ words


def _draw_title(page: Page, result: Mapping[str, Any], label: str | None) -> None:
    name = result.get("label") or "positive"
    calibrated = "calibrated" if result.get("calibrated") else "not calibrated"
    clips = len(result["clips"])
    right = WIDTH - RIGHT
    what = "probability" if result.get("calibrated") else "score"
    title = f"study {what} for “{name}”" + (f"  ·  {label}" if label else "")
    detail = f"{result['aggregation']} ({clips} clip{'' if clips == 1 else 's'}), {calibrated}"
    page.text(LEFT - 0.45, 0.42, f"{result['study_probability']:.3f}", size=30, weight="bold")
    page.text(LEFT + 1.05, 0.31, title, size=14)
    page.text(LEFT + 1.05, 0.56, detail, size=10.5, color=FAINT)
    page.text(
        right, 0.31, "Not for clinical use", size=14, weight="bold", color="#a63a00", ha="right"
    )
    page.text(right, 0.56, _model_line(result), size=10.5, color=FAINT, ha="right")


def _model_line(result: Mapping[str, Any]) -> str:
    model = result["model"]
    words = [str(model["name"])]
    if model.get("backbone"):
        words.append(str(model["backbone"]))
    if model.get("commit"):
        words.append(f"commit {str(model['commit'])[:8]}")
    return "model: " + "  ·  ".join(words)


def _draw_footer(page: Page, result: Mapping[str, Any]) -> None:
    left, bottom = LEFT - 0.45, page.height
    page.text(left, bottom - 0.40, _geometry_line(result["report"]), size=9.5, color=FAINT)
    page.text(left, bottom - 0.18, result.get("key_slice_rule", ""), size=9.5, color=FAINT)


def _geometry_line(report: Mapping[str, Any]) -> str:
    spacing = " × ".join(f"{value:.3g}" for value in report["spacing_mm"])
    words = [
        f"{report['slices']} slices of {report['rows']} × {report['columns']}",
        f"spacing {spacing} mm (slice, row, column)",
    ]
    severe = [f for f in report.get("findings", []) if f.get("severity") != "info"]
    codes = sorted({finding["code"] for finding in severe})
    words.append("geometry: " + (", ".join(codes) if codes else "no findings"))
    return "  ·  ".join(words)


# ------------------------------------------------------------------------------ key slices


def _draw_key_slices(
    page: Page,
    volume: CTVolume,
    keys: list[Mapping[str, Any]],
    box: tuple[slice, slice],
    panel: tuple[float, float],
    side_by_side: bool,
) -> None:
    width, height = panel
    windows = {"lung": LUNG_WINDOW, "mediastinum": MEDIASTINAL_WINDOW}
    for number, key in enumerate(keys):
        plane = volume.hu[key["index"]][box]
        for line, (name, window) in enumerate(windows.items()):
            column, shift = (2 * number + line, 0) if side_by_side else (number, line)
            left, top = LEFT + column * (width + GAP), 1.55 + shift * (height + GAP)
            axes = page.axes(left, top, width, height)
            axes.set_facecolor("black")
            show_plane(axes, plane, window, aspect=volume.spacing[1] / volume.spacing[2])
            mark_sides(axes)
            if line == 0:
                _caption(axes, number + 1, key)
            if side_by_side:
                _window_note(axes, name, window)
            elif number == 0:
                axes.set_ylabel(f"{name}\nC {window[0]:.0f}  W {window[1]:.0f} HU", size=9.5)
                axes.yaxis.label.set_color(FAINT)
            if number == 0:
                _scale_bar(axes, volume.spacing[2])


def _window_note(axes: Axes, name: str, window: tuple[float, float]) -> None:
    axes.text(
        0.98,
        0.02,
        f"{name}  C {window[0]:.0f}  W {window[1]:.0f} HU",
        size=8,
        color="white",
        ha="right",
        va="bottom",
        transform=axes.transAxes,
        bbox={"facecolor": "black", "edgecolor": "none", "alpha": 0.55, "pad": 2},
    )


def _caption(axes: Axes, number: int, key: Mapping[str, Any]) -> None:
    source = key.get("source_index")
    place = "interpolated" if source is None else f"source {source}"
    axes.set_title(
        f"z = {key['z_mm']:.1f} mm   score {key['score']:.3f}\nslice {key['index']}  ·  {place}",
        size=9.5,
        color=INK,
        pad=5,
        linespacing=1.35,
    )
    badge(axes, 0.0, 1.0, number, transform=axes.transAxes, offset=(9, -9))


def _scale_bar(axes: Axes, column_mm: float, length_mm: float = 50.0) -> None:
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    start = left + 0.05 * (right - left)
    height = bottom + 0.05 * (top - bottom)
    axes.plot([start, start + length_mm / column_mm], [height, height], color="white", lw=2)
    axes.annotate(
        f"{length_mm:.0f} mm",
        (start, height),
        xytext=(0, 4),
        textcoords="offset points",
        size=8,
        color="white",
    )
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
