"""A study's saliency map as files: pictures and NIfTI."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dicom.nifti import is_nifti
from .saliency_nifti import lies_on, write_nifti
from .saliency_pictures import saliency_figure

if TYPE_CHECKING:
    from ..dicom import CTVolume
    from .saliency import SaliencyMap

__all__ = ["OVERLAYS", "write_saliency"]

#: What can be written.
OVERLAYS = ("png", "nifti")


def write_saliency(
    saliency: SaliencyMap,
    volume: CTVolume,
    folder: Path,
    name: str,
    overlays: Collection[str] = OVERLAYS,
    *,
    scan: Path | None = None,
    opacity: float = 0.6,
) -> dict[str, Any]:
    """Write ``NAME_saliency.png`` and ``NAME_saliency.nii.gz``.

    Parameters
    ----------
    saliency : SaliencyMap
    volume : CTVolume
        The volume that the map is of.
    folder : path
        Made when it does not exist.
    name : str
        Of the study; slashes become underscores.
    overlays : collection of {"png", "nifti"}
    scan : path, optional
        What the volume was read from. The map of a NIfTI file is written on that file's own axes,
        unless reading had to repair its grid.
    opacity : float
        Of the pictures, 0..1.

    Returns
    -------
    dict
        JSON-able, for results: :meth:`.SaliencyMap.to_dict`, the names of the ``files``, and the
        ``nifti_grid``: "stored" (the axes of the NIfTI file), or "volume".
    """
    stem, folder = name.replace("/", "_"), Path(folder)
    answer = saliency.to_dict() | {"files": []}
    if "png" in overlays:
        path = folder / f"{stem}_saliency.png"
        saliency_figure(volume, saliency, path, opacity=opacity)
        answer["files"].append(path.name)
    if "nifti" in overlays:
        stored = scan is not None and is_nifti(Path(scan)) and lies_on(saliency, scan)
        path = folder / f"{stem}_saliency.nii.gz"
        write_nifti(saliency, path, like=scan if stored else None)
        answer["files"].append(path.name)
        answer["nifti_grid"] = "stored" if stored else "volume"
    return answer
