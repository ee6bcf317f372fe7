"""Findings and the geometry report: what reading a scan came across, free of identifiers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Finding", "GeometryReport", "Policy", "most_severe_first"]

Policy = Literal["strict", "warn", "repair"]
_SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One thing about a scan that a reader of its predictions should know.

    Attributes
    ----------
    code : str
        A stable word: ``missing_slice``, ``duplicate_position``, ``uneven_spacing``, ...
    severity : {"info", "warning", "error"}
        What it means for the volume under the policy in force.
    message : str
        One sentence: what, where, expected and found, and what was done or can be done.
    files : list of str
        Names (without folders) of the files concerned.
    position_mm, expected_mm, found_mm : float, optional
        Along the slice normal.
    """

    code: str
    severity: Literal["info", "warning", "error"]
    message: str
    files: list[str] = field(default_factory=list)
    position_mm: float | None = None
    expected_mm: float | None = None
    found_mm: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; fields without a value are left out."""
        return {key: value for key, value in asdict(self).items() if value not in (None, [])}


def most_severe_first(findings: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Findings as dictionaries, errors first; equal ones stay in order."""
    return sorted(findings, key=lambda finding: _SEVERITIES.index(finding["severity"]))


@dataclass
class GeometryReport:
    """Geometry of a read scan and everything found while reading it; holds no identifier.

    ``slices``, ``rows``, ``columns`` and ``spacing_mm`` are those of the scan on patient axes,
    after any repair and before any change of in-plane size (``read_ct(..., in_plane=N)``): they do
    not depend on what the volume was read for. The grid of the volume itself is in ``CTVolume.hu``,
    ``affine`` and ``spacing``. ``orientation`` is that of the scanned planes ("axial"; NIfTI does
    not tell, so there it is that of the volume's). ``hu_min`` and ``hu_max`` are those of the whole
    volume after padding was set to air and before any change of in-plane size.
    ``transfer_syntaxes`` are UIDs of PS3.6 A.
    """

    slices: int
    rows: int
    columns: int
    spacing_mm: tuple[float, float, float]  # slice, row, column
    orientation: str
    modality: str | None
    transfer_syntaxes: list[str]
    hu_min: int
    hu_max: int
    policy: Policy
    findings: list[Finding] = field(default_factory=list)
    source: Literal["dicom", "nifti", "array"] = "dicom"
    manufacturer: str | None = None
    kernel: str | None = None
    kvp: float | None = None
    slice_thickness_mm: float | None = None
    oblique_degrees: float = 0.0  # largest angle between the grid and the patient's axes
    affine_error_mm: float = 0.0  # largest distance between a slice's position and the affine's

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that ``json.dumps`` takes; the keys are stable."""
        result = asdict(self)
        result["spacing_mm"] = list(self.spacing_mm)
        result["findings"] = [finding.to_dict() for finding in self.findings]
        return result

    def codes(self) -> set[str]:
        """The codes of all findings."""
        return {finding.code for finding in self.findings}
