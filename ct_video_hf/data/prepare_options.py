"""What is asked of preparing, of which scans, and what a run answers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..dicom.findings import FINDING_CODES
from .errors import CTDataError
from .splits import PAPER_FRACTIONS

__all__ = ["PrepareOptions", "PrepareSummary", "Provenance"]

#: Beyond any scanner's; what is asked for by a slip must not fill the memory.
_LARGEST_SIZE = 4096


@dataclass(frozen=True)
class Provenance:
    """Where the scans come from; printed on the data card.

    Attributes
    ----------
    name, description, licence : str
    citation : str
        What users of the scans are asked to cite; may be empty.
    redistributable : bool
        Whether the licence lets anybody pass on images made from the scans. Where it does not, the
        set is never pushed to a public repo (:func:`.sharing.refuse_public`).
    """

    name: str
    description: str = "Scans of the user."
    licence: str = "Not stated. Find out before you share anything made from this set."
    citation: str = ""
    redistributable: bool = False


@dataclass(frozen=True)
class PrepareOptions:
    """What decides the content of a prepared set.

    Attributes
    ----------
    size : int
        Side of the planes in pixels.
    store_window : (float, float) or None
        Keep 8 bits of this HU window (centre, width) instead of HU: half the disk and a quicker
        input, but a set for that one window. None keeps HU, which serve every window.
    policy : {"strict", "warn", "repair"}
        Of :func:`ct_video_hf.read_ct`.
    reject : tuple of str
        Codes of findings (:mod:`ct_video_hf.dicom.geometry`) with which a study is left out
        though the policy lets it pass; ``implausible_hu`` for volumes that were rescaled twice or
        not at all.
    slice_ids : bool
        Keep SOP Instance UIDs in the set. They are identifiers: leave this off for anything that
        is shared.
    hash_study_ids : bool or None
        Replace study names by salted hashes; the key stays in ``private/``. None: only where names
        identify, because there is no labels table (folder names may be names of patients) or the
        source says so.
    fractions, split_seed
        Of :func:`.splits.split_patients`; splits in the table win.
    salt : str or None
        Salt of the hashes, so that several sets share them; None draws one and keeps it in
        ``private/salt``.
    """

    size: int = 256
    store_window: tuple[float, float] | None = None
    policy: str = "strict"
    reject: tuple[str, ...] = ()
    slice_ids: bool = False
    hash_study_ids: bool | None = None
    fractions: tuple[float, float, float] = PAPER_FRACTIONS
    split_seed: int = 2
    salt: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 16 <= self.size <= _LARGEST_SIZE:
            raise CTDataError(f"size is {self.size}; planes have 16 to {_LARGEST_SIZE} pixels")
        if self.policy not in ("strict", "warn", "repair"):
            raise CTDataError(f"policy is {self.policy!r}; known are strict, warn, repair")
        if self.store_window is not None:
            values = tuple(float(value) for value in self.store_window)
            if len(values) != 2 or not all(map(math.isfinite, values)) or values[1] <= 0:
                raise CTDataError(
                    f"store_window is {self.store_window!r}; centre and width in HU, the width "
                    "above 0"
                )
            object.__setattr__(self, "store_window", values)
        unknown = sorted(set(self.reject) - set(FINDING_CODES))
        if unknown:
            raise CTDataError(
                f"there is no finding {', '.join(unknown)}; known are {', '.join(FINDING_CODES)}"
            )


@dataclass(frozen=True)
class PrepareSummary:
    """What a run did: studies in the set, of which ``kept`` from earlier runs, and rejects.

    ``findings`` counts the studies of the set with each warning of the reader.
    """

    out: Path
    studies: int
    kept: int
    rejected: int
    splits: dict[str, int]
    findings: dict[str, int]
    slices: int
    bytes: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"out": str(self.out), "seconds": round(self.seconds, 3)}
