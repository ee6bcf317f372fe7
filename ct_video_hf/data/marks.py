"""Labels of single slices by SOP Instance UID: what the table says, before the scan is read.

Which place a slice has in the volume is known only once the scan is read, so the labels travel to
the worker by name and are brought to the slices there. A kind of marks answers
``resolve(slice_ids, z_mm)`` with one label a slice, ``remarks`` with what to tell about it, and
``said()`` with what decides it; that is all the room asks of a further kind
(:class:`.lidc.rules.OutlineMarks` is one).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .errors import CTDataError

__all__ = ["UNKNOWN", "Marks", "SliceMarks"]

#: The label of a slice of which nothing is known.
UNKNOWN = -1

_ADVICE = (
    "the labels were made for another series, files of the scan are missing, or slices were left "
    "out while reading (a stricter policy tells which)"
)


class Marks(Protocol):
    """What :class:`.labels.StudyEntry` holds of single slices."""

    @property
    def label(self) -> int:
        """Place of the label that is meant among the label names of the table."""

    def resolve(
        self, slice_ids: Sequence[str | None], z_mm: Sequence[float] | np.ndarray
    ) -> np.ndarray:
        """int8 (slices,): 1, 0 or -1 (unknown) for the slices with these ids and heights."""

    def remarks(
        self, slice_ids: Sequence[str | None], z_mm: Sequence[float] | np.ndarray
    ) -> list[str]:
        """What the set shall say of how the labels fit this volume; no identifiers."""

    def said(self) -> str:
        """A digest of everything that decides what :meth:`resolve` answers."""


@dataclass(frozen=True)
class SliceMarks:
    """A label for each named slice; small and picklable, 1.79 million names take about 25 MB.

    Attributes
    ----------
    ids : str
        The names (SOP Instance UIDs), joined by newlines. Build it with :meth:`from_mapping`.
    values : bytes
        One int8 a name: 1, 0 or -1.
    others : int or None
        Label of slices that are not named: 0, -1 (unknown), or None to refuse them.
    absent : {"refuse", "ignore"}
        What to do about names that do not occur in the volume.
    label : int
        Place of the label among the label names of the table.
    """

    ids: str = field(repr=False)
    values: bytes
    others: int | None = UNKNOWN
    absent: str = "refuse"
    label: int = 0

    def __post_init__(self) -> None:
        if self.others not in (None, 0, UNKNOWN):
            raise CTDataError(f"others is {self.others!r}; 0, -1 (unknown) or None is expected")
        if self.absent not in ("refuse", "ignore"):
            raise CTDataError(f"absent is {self.absent!r}; known are refuse, ignore")

    @classmethod
    def from_mapping(
        cls,
        labels: Mapping[str, int],
        *,
        others: int | None = UNKNOWN,
        absent: str = "refuse",
        label: int = 0,
    ) -> SliceMarks:
        """Marks from name -> 1, 0 or -1.

        Raises
        ------
        CTDataError
            When nothing is named, a name is empty or holds a newline, or a label is another.
        """
        wrong = sorted({value for value in labels.values() if value not in (1, 0, UNKNOWN)})
        if wrong:
            raise CTDataError(f"slice labels {wrong}: 1, 0 or -1 (unknown) are expected")
        _check_names(labels)
        values = np.fromiter(labels.values(), np.int8, len(labels)).tobytes()
        return cls("\n".join(labels), values, others, absent, label)

    def __len__(self) -> int:
        return len(self.values)

    def resolve(
        self, slice_ids: Sequence[str | None], z_mm: Sequence[float] | np.ndarray = ()
    ) -> np.ndarray:
        """The label of each slice of a volume.

        Parameters
        ----------
        slice_ids : sequence of (str or None)
            Of :class:`ct_video_hf.dicom.CTVolume`; a slice without one was put between measured
            slices, and its label is unknown.
        z_mm : sequence of float
            Likewise; these marks go by name and do not need it.

        Returns
        -------
        numpy.ndarray
            int8 (slices,)

        Raises
        ------
        CTDataError
            When named slices are not in the volume, or the volume has slices without a label
            where all need one. UIDs are counted, never shown.
        """
        known = dict(zip(self.ids.split("\n"), np.frombuffer(self.values, np.int8), strict=True))
        found = set(slice_ids)
        absent = sum(name not in found for name in known)
        if absent and (self.absent == "refuse" or absent == len(known)):
            raise CTDataError(
                f"{absent} of {len(known)} slices with a label are not among the "
                f"{len(slice_ids)} slices of the volume: {_ADVICE}"
            )
        unnamed = sum(name is not None and name not in known for name in slice_ids)
        if unnamed and self.others is None:
            raise CTDataError(
                f"{unnamed} of {len(slice_ids)} slices of the volume have no label: the labels are "
                "incomplete, or the folder holds files of another series"
            )
        others = UNKNOWN if self.others is None else self.others
        given = [UNKNOWN if name is None else known.get(name, others) for name in slice_ids]
        return np.array(given, np.int8)

    def remarks(
        self, slice_ids: Sequence[str | None], z_mm: Sequence[float] | np.ndarray = ()
    ) -> list[str]:
        """Nothing: what does not fit is refused."""
        return []

    def said(self) -> str:
        """A digest of names and labels."""
        rule = f"{self.others}\0{self.absent}\0{self.label}\0"
        return hashlib.sha256(rule.encode() + self.ids.encode() + self.values).hexdigest()[:32]


def _check_names(names: Iterable[str]) -> None:
    names = list(names)
    if not names:
        raise CTDataError("no slice is named; leave marks out where nothing is known of slices")
    if any(not name or "\n" in name or "\t" in name for name in names):
        raise CTDataError("a slice's name is empty, or holds a newline or a tab")
