"""A picture of a volume: its three middle planes in a lung window, with mm and sides marked."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .volume import CTVolume

__all__ = ["save_picture"]

#: Centre and width in HU of the lung window.
LUNG_WINDOW = (-600.0, 1500.0)


def save_picture(volume: CTVolume, path: str | os.PathLike[str]) -> Path:
    """Write the middle axial, coronal and sagittal plane as one PNG.

    Planes are shown as radiologists see them: the patient's right on the left side, the head on
    top. Lengths are to scale; the axes are in mm from the volume's first voxel, for the slices z.

    Parameters
    ----------
    volume : CTVolume
    path : path
        Ends in ``.png``; replaced when it exists.

    Returns
    -------
    pathlib.Path
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(volume)
    widths = [panel["width"] for panel in panels]
    tallest = max(panel["height"] for panel in panels)
    figure_width = 15.0
    height = np.clip(figure_width * tallest / sum(widths), 3.0, 9.0) + 1.6
    figure = Figure(figsize=(figure_width, height), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3, width_ratios=widths)
    for axis, panel in zip(axes, panels, strict=True):
        _draw(axis, panel)
    spacing = " x ".join(f"{length:.3g}" for length in volume.spacing)
    shape = " x ".join(map(str, volume.hu.shape))
    figure.suptitle(
        f"{shape} voxels of {spacing} mm (slice, row, column)", color="white", fontsize=12
    )
    figure.supxlabel(
        f"Lung window, centre {LUNG_WINDOW[0]:g} HU, width {LUNG_WINDOW[1]:g} HU. "
        "Not for clinical use.",
        color="0.7",
        fontsize=9,
    )
    return _write(figure, Path(path))


def _panels(volume: CTVolume) -> list[dict]:
    slices, rows, columns = volume.hu.shape
    dz, dy, dx = volume.spacing
    z = volume.z_mm
    depth, across, up = rows * dy, columns * dx, slices * dz
    bottom, top = z[0] - dz / 2, z[0] - dz / 2 + up
    return [
        {
            "plane": volume.hu[slices // 2],
            "title": f"axial, slice {slices // 2} at z {z[slices // 2]:.1f} mm",
            "extent": (0, across, depth, 0),
            "width": across,
            "height": depth,
            "marks": "RLAP",
        },
        {
            "plane": volume.hu[::-1, rows // 2],
            "title": f"coronal, row {rows // 2}",
            "extent": (0, across, bottom, top),
            "width": across,
            "height": up,
            "marks": "RLSI",
        },
        {
            "plane": volume.hu[::-1, :, columns // 2],
            "title": f"sagittal, column {columns // 2}",
            "extent": (0, depth, bottom, top),
            "width": depth,
            "height": up,
            "marks": "APSI",
        },
    ]


def _draw(axis, panel: dict) -> None:
    centre, width = LUNG_WINDOW
    axis.imshow(
        panel["plane"],
        cmap="gray",
        vmin=centre - width / 2,
        vmax=centre + width / 2,
        extent=panel["extent"],
        interpolation="nearest",
        aspect="equal",
    )
    axis.set_title(panel["title"], color="white", fontsize=11)
    axis.tick_params(colors="0.7", labelsize=8)
    axis.set_xlabel("mm", color="0.7", fontsize=8)
    for spine in axis.spines.values():
        spine.set_color("0.4")
    places = ((0.01, 0.5), (0.99, 0.5), (0.5, 0.99), (0.5, 0.01))
    aligned = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for mark, place, (horizontal, vertical) in zip(panel["marks"], places, aligned, strict=True):
        axis.text(
            *place, mark, transform=axis.transAxes, color="#ffd54a", fontsize=13, weight="bold",
            ha=horizontal, va=vertical,
            bbox={"facecolor": "black", "edgecolor": "none", "alpha": 0.5, "pad": 1.5},
        )  # fmt: skip


def _write(figure, path: Path) -> Path:
    handle, temporary = tempfile.mkstemp(suffix=".png", prefix=".", dir=path.parent)
    os.close(handle)
    try:
        figure.savefig(temporary, dpi=110, facecolor=figure.get_facecolor())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path
