"""Several scans at once: lists, folders of studies, and what becomes of those that fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CTVideoError
from .studies import find_studies

if TYPE_CHECKING:
    from .many import Outcome

__all__ = ["ON_ERROR", "Batch"]

#: What a scan of several that cannot be predicted becomes.
ON_ERROR = ("row", "raise")


@dataclass(frozen=True)
class Batch:
    """Scans and what they are called; None is the name of a scan that is in memory already."""

    scans: list[Any]
    names: list[str | None]

    @classmethod
    def of(cls, given: Any) -> Batch | None:
        """The scans of a list, or of a folder of studies; None for a single scan.

        A folder in a list may hold several studies as well. A folder that holds just one study is
        a single scan. See :func:`.studies.find_studies` for the rule.

        Raises
        ------
        CTVideoError
            For an empty list.
        """
        if isinstance(given, list | tuple):
            if not given:
                raise CTVideoError("The list of scans is empty.")
            pairs = [pair for scan in given for pair in _under(scan)]
        else:
            pairs = list(_under(given))
            if len(pairs) == 1:
                return None
        return cls([scan for _, scan in pairs], [name for name, _ in pairs])

    def results(
        self, predict: Callable[..., Iterator[Outcome]], on_error: str, **options: Any
    ) -> list[dict[str, Any]]:
        """One result a scan, in order, each with ``study``, its name.

        Parameters
        ----------
        predict : callable
            :meth:`.pipeline.CTVideoPipeline.predict_many`, to which ``options`` go.
        on_error : {"row", "raise"}
            "row": a scan that fails is a dictionary with ``study``, ``error`` and ``error_type``.
        """
        if on_error not in ON_ERROR:
            raise CTVideoError(f"on_error is {on_error!r}; allowed: {', '.join(ON_ERROR)}.")
        results = []
        for name, outcome in zip(self.names, predict(self.scans, **options), strict=True):
            if outcome.error is not None and on_error == "raise":
                raise outcome.error
            results.append(outcome.row(name))
        return results


def _under(scan: Any) -> Iterator[tuple[str | None, Any]]:
    """Name and scan of everything that ``scan`` stands for."""
    if not isinstance(scan, str | os.PathLike):
        yield None, scan
        return
    path = Path(scan)
    studies = find_studies(path) if path.is_dir() else []
    if len(studies) > 1:
        yield from ((study.name, study.path) for study in studies)
    else:
        yield path.resolve().name, scan
