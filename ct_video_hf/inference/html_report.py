"""A study's prediction as one HTML file: pictures, no script, no request, light and dark."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..dicom.report import most_severe_first
from ..files import replacing
from .page import LUNG_WINDOW, MEDIASTINAL_WINDOW, body_box
from .pictures import check_belongs

if TYPE_CHECKING:
    import jinja2

    from ..dicom import CTVolume

__all__ = ["render_report", "window_plane", "write_html_report"]

_WINDOWS = (("lung", LUNG_WINDOW), ("mediastinum", MEDIASTINAL_WINDOW))
_LONGEST_SIDE = 560  # pixels of a picture
_QUALITY = 90  # of JPEG

# the curve, in the units of its SVG
_CURVE = {"width": 720.0, "height": 220.0, "left": 44.0, "right": 12.0, "top": 12.0, "foot": 34.0}


def write_html_report(
    volume: CTVolume,
    result: Mapping[str, Any],
    path: str | os.PathLike,
    *,
    title: str | None = None,
) -> Path:
    """Write a prediction with its evidence as one HTML file that needs nothing else.

    Parameters
    ----------
    volume : CTVolume
        The scan that was scored. Full resolution looks best.
    result : mapping
        What :func:`ct_video_hf.pipeline` returned for this scan. SOP Instance UIDs in it are not
        shown.
    path : path-like
        The file to write. It replaces an older one only when it is complete.
    title : str, optional
        Words for the head of the page. Do not give a patient's name or number.

    Returns
    -------
    pathlib.Path
        ``path``.

    Raises
    ------
    CTVideoError
        The result belongs to another scan (its slices lie outside of the volume).
    """
    page = render_report(volume, result, title=title)
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8", newline="\n")
    return Path(path)


def render_report(volume: CTVolume, result: Mapping[str, Any], *, title: str | None = None) -> str:
    """The HTML of :func:`write_html_report`."""
    check_belongs(volume, result)
    report = result["report"]
    box = body_box(volume.hu)
    findings = most_severe_first(report["findings"])
    best = max(result["clips"], key=lambda clip: clip["score"])
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            title=title,
            result=result,
            report=report,
            findings=findings,
            warnings=[finding for finding in findings if finding["severity"] != "info"],
            best=best,
            keys=[_key(volume, key, box) for key in result["key_slices"]],
            levels=_levels(volume, result, box),
            curve=_curve(volume, result),
        )
    )


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


# ------------------------------------------------------------------------------ pictures


def window_plane(plane: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """HU to grey values, uint8, of a window (centre, width) in HU."""
    centre, width = window
    grey = (plane.astype(np.float32) - (centre - width / 2)) * (255.0 / width)
    return grey.clip(0, 255).round().astype(np.uint8)


def _jpeg(grey: np.ndarray, height_mm: float, width_mm: float) -> dict[str, Any]:
    """A picture whose pixels are square whatever the plane's spacing, as a data address."""
    scale = _LONGEST_SIDE / max(height_mm, width_mm)
    size = (max(1, round(width_mm * scale)), max(1, round(height_mm * scale)))
    shrinks = size[0] < grey.shape[1]
    shown = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    _, data = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    source = "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
    return {"source": source, "width": size[0], "height": size[1]}


def _key(volume: CTVolume, key: Mapping[str, Any], box: tuple[slice, slice]) -> dict[str, Any]:
    plane = volume.hu[key["index"]][box]
    _, row_mm, column_mm = volume.spacing
    extent = plane.shape[0] * row_mm, plane.shape[1] * column_mm
    pictures = [
        {"name": name, "window": window, **_jpeg(window_plane(plane, window), *extent)}
        for name, window in _WINDOWS
    ]
    return {**key, "pictures": pictures}


def _levels(
    volume: CTVolume, result: Mapping[str, Any], box: tuple[slice, slice]
) -> dict[str, Any]:
    """A coronal plane through the middle, head up, and the heights of the key slices (percent)."""
    rows, columns = box
    first, last, _ = rows.indices(volume.hu.shape[1])
    plane = volume.hu[::-1, (first + last) // 2, columns]
    slice_mm, _, column_mm = volume.spacing
    count = len(volume)
    picture = _jpeg(window_plane(plane, LUNG_WINDOW), count * slice_mm, plane.shape[1] * column_mm)
    marks = [100.0 * (count - key["index"] - 0.5) / count for key in result["key_slices"]]
    return {**picture, "marks": marks}


# ------------------------------------------------------------------------------ the curve


def _curve(volume: CTVolume, result: Mapping[str, Any]) -> dict[str, Any]:
    """Places in the SVG of clips, key slices and ticks; from the feet (left) to the head."""
    z = volume.z_mm
    half = volume.spacing[0] / 2
    low, high = float(z.min()) - half, float(z.max()) + half
    inner = _CURVE["width"] - _CURVE["left"] - _CURVE["right"]
    foot = _CURVE["height"] - _CURVE["foot"]

    def across(z_mm: float) -> float:
        return round(_CURVE["left"] + inner * (z_mm - low) / (high - low), 2)

    def down(score: float) -> float:
        return round(foot - (foot - _CURVE["top"]) * score, 2)

    clips = []
    for clip in result["clips"]:
        ends = sorted(clip["z_mm"])
        clips.append({
            **clip,
            "x1": across(ends[0] - half),
            "x2": across(ends[1] + half),
            "x": across(sum(ends) / 2),
            "y": down(clip["score"]),
        })  # fmt: skip
    return {
        **_CURVE,
        "foot_y": foot,
        "clips": clips,
        "points": " ".join(f"{clip['x']},{clip['y']}" for clip in clips),
        "keys": [across(key["z_mm"]) for key in result["key_slices"]],
        "ticks": [(across(value), f"{value:g}") for value in _ticks(low, high)],
        "scores": [(down(value), f"{value:g}") for value in (0.0, 0.25, 0.5, 0.75, 1.0)],
    }


def _ticks(low: float, high: float) -> list[float]:
    """About six round numbers within a range."""
    rough = (high - low) / 6
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(digit for digit in (1, 2, 5, 10) if digit * power >= rough * 0.999) * power
    return (np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step).tolist()
