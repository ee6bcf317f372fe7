"""Uploaded files: taken over under neutral names, checked, and deleted after reading."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..errors import CTVideoError
from .limits import DemoLimits

__all__ = ["adopt", "adopt_many"]

_ARCHIVES = (".nii.gz", ".nii", ".zip")
_MIB = 1 << 20


def adopt(paths: Sequence[str | os.PathLike], room: Path, limits: DemoLimits) -> Path:
    """Move the files of one scan into ``room``, away from where they arrived.

    Names of files may hold names of people, so they become ``upload.zip``, ``upload.nii.gz`` or
    ``file_0001.dcm`` (counted in the order of their names).

    Parameters
    ----------
    paths : sequence of path
        One zip archive, NIfTI or DICOM file, or any number of DICOM files.
    room : pathlib.Path
        An empty folder.
    limits : DemoLimits

    Returns
    -------
    pathlib.Path
        What :func:`ct_video_hf.read_ct` should read.

    Raises
    ------
    CTVideoError
        Nothing, too much, or a mixture of kinds. Whatever happens, the files are gone from where
        they arrived.
    """
    paths = [Path(path) for path in paths]
    try:
        _check(paths, limits)
        kinds = [_kind(path) for path in paths]
        if len(paths) == 1:
            return _move(paths[0], room / f"upload{kinds[0] or '.dcm'}")
        archives = [kind for kind in kinds if kind]
        if archives:
            raise CTVideoError(
                f"{len(paths)} files were given and {len(archives)} of them are zip or NIfTI. One "
                "scan is one zip, one NIfTI file, or DICOM files alone; several scans go to the "
                "other tab."
            )
        folder = room / "upload"
        folder.mkdir()
        for number, path in enumerate(sorted(paths, key=lambda path: path.name), start=1):
            _move(path, folder / f"file_{number:04d}.dcm")
        return folder
    finally:
        _forget(paths)


def adopt_many(paths: Sequence[str | os.PathLike], room: Path, limits: DemoLimits) -> list[Path]:
    """Move several scans, one file each, into ``room``. Raises as :func:`adopt`."""
    paths = [Path(path) for path in paths]
    try:
        _check(paths, limits)
        if len(paths) > limits.scans:
            raise CTVideoError(
                f"{len(paths)} scans were given; at most {limits.scans} go at a time."
            )
        return [
            _move(path, room / f"scan_{number}{_kind(path) or '.dcm'}")
            for number, path in enumerate(paths, start=1)
        ]
    finally:
        _forget(paths)


def _check(paths: list[Path], limits: DemoLimits) -> None:
    if not paths:
        raise CTVideoError("No file has arrived. Drop a zip, DICOM files or NIfTI first.")
    if len(paths) > limits.files:
        raise CTVideoError(f"{len(paths):,} files were given; at most {limits.files:,} are taken.")
    try:
        total = sum(path.stat().st_size for path in paths)
    except OSError as error:
        raise CTVideoError(
            "An uploaded file is no longer there: uploads are deleted after a while. Upload again."
        ) from error
    if total > limits.upload_bytes:
        raise CTVideoError(
            f"The upload has {total / _MIB:,.0f} MB; at most {limits.upload_bytes / _MIB:,.0f} MB "
            "are taken."
        )


def _kind(path: Path) -> str:
    """The ending of a zip archive or NIfTI file; nothing for DICOM."""
    name = path.name.lower()
    return next((ending for ending in _ARCHIVES if name.endswith(ending)), "")


def _move(path: Path, target: Path) -> Path:
    shutil.move(path, target)
    target.chmod(0o600)
    return target


def _forget(paths: list[Path]) -> None:
    """Nothing stays where it arrived; a folder made for one upload goes, too, when it is empty."""
    for path in paths:
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in paths}:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
