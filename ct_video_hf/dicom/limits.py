"""Upper bounds on what the reader takes in, so that absurd or hostile input ends in a message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from .errors import CTReadError

__all__ = ["Limits"]

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True)
class Limits:
    """Bounds, each far above a real chest CT (5,000 slices of 1024 x 1024 pass).

    Attributes
    ----------
    max_files : int
        Files in a folder tree, or members of a zip archive.
    max_file_bytes : int
        One file; of a zip member or a deflated file, after expanding.
    max_total_bytes : int
        All files that are looked at; in a zip archive, after expanding.
    max_header_bytes : int
        Everything before the pixel data of one file.
    max_rows, max_columns, max_frames : int
        What one file may announce.
    max_zip_ratio : int
        Expanded over compressed size, for a member and for the archive. Small amounts pass in any
        case: see ``zip_ratio_floor``.
    zip_ratio_floor : int
        Expanded bytes below which the ratio does not matter (empty slices compress a thousandfold).
    max_voxels : int
        Of a volume.
    """

    max_files: int = 50_000
    max_file_bytes: int = 4 * _GIB
    max_total_bytes: int = 64 * _GIB
    max_header_bytes: int = 64 * _MIB
    max_rows: int = 4096
    max_columns: int = 4096
    max_frames: int = 10_000
    max_zip_ratio: int = 200
    zip_ratio_floor: int = 64 * _MIB
    max_voxels: int = 5_000 * 1024 * 1024

    def check(self, name: str, found: int, what: str) -> None:
        """Refuse a value above a limit.

        Parameters
        ----------
        name : str
            The limit's name.
        found : int
            The value that was found.
        what : str
            What has it, for the message: "IM0001.dcm: the number of rows".

        Raises
        ------
        CTReadError
            With code ``too_large``.
        """
        limit = getattr(self, name)
        if found > limit:
            shown = _size(found) if name.endswith("_bytes") else f"{found:,}"
            most = _size(limit) if name.endswith("_bytes") else f"{limit:,}"
            raise CTReadError(
                f"{what} is {shown}, above the limit of {most} ({name}). If that is right, allow "
                f"it with limits=Limits({name}={found})",
                code="too_large",
            )

    def check_volume(self, shape: Sequence[int], where: str) -> None:
        """Refuse a volume (slice, row, column) of more than ``max_voxels``. Raises CTReadError."""
        extent = " x ".join(str(int(length)) for length in shape)
        self.check("max_voxels", prod(int(length) for length in shape), f"{where}: {extent} voxels")


def _size(count: int) -> str:
    for unit, name in ((_GIB, "GiB"), (_MIB, "MiB"), (_KIB, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
