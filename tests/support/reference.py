"""Comparison of a read volume with other readers, voxel by voxel and by position in the patient."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ct_video_hf.dicom import AIR_HU, CTVolume


def assert_same_as_pydicom(volume: CTVolume, files: Iterable[Path]) -> None:
    """Every pixel of every file, rescaled by hand, stands where its own header puts it.

    Independent of the reader: pydicom decodes, and each pixel's place comes from equation
    C.7.6.2.1-1 of PS3.3 and the inverse of the volume's affine.
    """
    import pydicom

    inverse = np.linalg.inv(volume.affine)
    seen = np.zeros(volume.hu.shape, bool)
    for file in files:
        dataset = pydicom.dcmread(file)
        values = dataset.pixel_array.astype(np.float64)
        padding = dataset.get("PixelPaddingValue")
        if isinstance(padding, bytes):
            padding = int.from_bytes(padding, "little", signed=True)
        hu = values * float(dataset.get("RescaleSlope", 1)) + float(
            dataset.get("RescaleIntercept", 0)
        )
        hu = np.rint(hu)
        if padding is not None:
            if dataset.PixelRepresentation == 1 and padding > 32767:
                padding -= 65536
            hu[values == padding] = AIR_HU
        _assert_plane(volume, inverse, seen, dataset, hu, Path(file).name)
    assert seen.all(), "voxels that no file accounts for"


def _assert_plane(volume, inverse, seen, dataset, hu, name) -> None:
    across = np.array(dataset.ImageOrientationPatient[:3], float) * dataset.PixelSpacing[1]
    down = np.array(dataset.ImageOrientationPatient[3:], float) * dataset.PixelSpacing[0]
    rows, columns = np.indices(hu.shape)
    points = (
        np.array(dataset.ImagePositionPatient, float)
        + rows[..., None] * down
        + columns[..., None] * across
    )
    index = points @ inverse[:3, :3].T + inverse[:3, 3]
    whole = np.rint(index).astype(int)
    assert np.abs(index - whole).max() < 0.05, f"{name} is off the grid"
    place = tuple(whole.reshape(-1, 3).T)
    np.testing.assert_array_equal(volume.hu[place], hu.ravel(), err_msg=name)
    assert not seen[place].any(), f"{name} falls on another slice"
    seen[place] = True


def simpleitk_volume(files: Iterable[Path]):
    """The files as SimpleITK stacks them: an image of HU."""
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    return reader.Execute()


def lps_affine(image) -> np.ndarray:
    """The affine of a SimpleITK image for its array's index (k, j, i)."""
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, :3] = direction[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return affine
