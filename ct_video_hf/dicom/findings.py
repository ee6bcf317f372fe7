"""Which finding means what under which policy, and the collector that applies it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from .errors import CTReadError
from .report import Finding, Policy

__all__ = ["RULES", "Collector", "Rule", "check_policy", "name_files"]

logger = logging.getLogger(__name__)

#: Files named in one message; a finding's ``files`` holds them all.
NAMED = 5


@dataclass(frozen=True)
class Rule:
    """What a finding does under each policy: "info" and "warning" go on, "error" refuses."""

    strict: str
    warn: str
    repair: str


_NOTE = Rule("info", "info", "info")
_WARN = Rule("warning", "warning", "warning")
_REFUSE = Rule("error", "error", "error")
_CHOICE = Rule("error", "warning", "warning")

#: code -> rule. The meanings, and what each policy does, stand in ``geometry``'s docstring, which
#: a test keeps in step with this table.
RULES: dict[str, Rule] = {
    # files
    "not_dicom_ignored": _NOTE,
    "not_ct_dropped": _NOTE,
    "unreadable_file": _CHOICE,
    # series
    "several_studies": _REFUSE,
    "several_series": _WARN,
    "non_axial_series": _NOTE,
    "localizer_dropped": _WARN,
    "not_axial": _REFUSE,
    # frames that do not belong to the stack
    "no_position": _CHOICE,
    "no_orientation": _CHOICE,
    "no_pixel_spacing": _CHOICE,
    "mixed_orientation": _CHOICE,
    "mixed_matrix": _CHOICE,
    "varying_pixel_spacing": _CHOICE,
    "duplicate_position": _CHOICE,
    "several_acquisitions": _CHOICE,
    # the stack
    "single_slice": _REFUSE,
    "too_few_slices": _WARN,
    "missing_slice": _CHOICE,
    "uneven_spacing": _CHOICE,
    "gantry_tilt": _CHOICE,
    "shifted_slice": _CHOICE,
    "affine_mismatch": _REFUSE,
    "approximate_affine": Rule("-", "warning", "-"),
    "overlap": _NOTE,
    "interslice_gap": _NOTE,
    "oblique": _NOTE,
    # values
    "duplicate_uid": _WARN,
    "missing_modality": _NOTE,
    "missing_rescale": _WARN,
    "not_hu": _WARN,
    "implausible_hu": _WARN,
    "undeclared_padding": _NOTE,
    "clipped_values": _WARN,
    "pixel_padding": _NOTE,
    "padding_in_tissue": _WARN,
    "monochrome1": _NOTE,
    "monochrome1_inverted": _WARN,
    "lossy_compression": _WARN,
    # NIfTI only
    "no_nifti_orientation": _CHOICE,
    "nifti_forms_disagree": _CHOICE,
}


#: Every code, in alphabetical order.
FINDING_CODES = tuple(sorted(RULES))


def check_policy(policy: str) -> None:
    """Raise CTReadError unless ``policy`` is strict, warn or repair."""
    if policy not in get_args(Policy):
        raise CTReadError(
            f"policy {policy!r} is unknown; choose one of {', '.join(get_args(Policy))}",
            code="bad_policy",
        )


def name_files(names: Iterable[str]) -> str:
    """The names for a message: the first few, then how many more."""
    names = list(names)
    text = ", ".join(names[:NAMED])
    return text if len(names) <= NAMED else f"{text} and {len(names) - NAMED} more"


class Collector:
    """Gathers findings and turns them into an error where the policy says so.

    Findings are gathered per stage, so that an error carries everything found up to and including
    its own stage instead of only the first thing.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy: Policy = policy
        self.findings: list[Finding] = []
        self._beyond_policy: set[int] = set()  # ids of findings that no policy accepts

    def add(
        self,
        code: str,
        message: str,
        files: Iterable[str] = (),
        *,
        severity: str | None = None,
        position_mm: float | None = None,
        expected_mm: float | None = None,
        found_mm: float | None = None,
    ) -> Finding:
        """Record a finding; its severity comes from :data:`RULES` unless given."""
        finding = Finding(
            code=code,
            severity=severity or getattr(RULES[code], self.policy),
            message=message,
            files=list(files),
            position_mm=_rounded(position_mm),
            expected_mm=_rounded(expected_mm),
            found_mm=_rounded(found_mm),
        )
        self.findings.append(finding)
        if severity == "error":
            self._beyond_policy.add(id(finding))
        if finding.severity == "warning":
            logger.warning("%s: %s", code, message)
        else:
            logger.info("%s: %s", code, message)
        return finding

    def refuses(self, code: str) -> bool:
        """Whether the policy in force refuses a scan with this finding."""
        return getattr(RULES[code], self.policy) == "error"

    def fail(self, code: str, message: str, files: Iterable[str] = (), **where: float) -> None:
        """Record an error that no policy accepts and raise it."""
        self.add(code, message, files, severity="error", **where)
        self.stop_on_errors()

    def stop_on_errors(self) -> None:
        """Raise CTReadError for the first error-level finding, with all findings attached."""
        errors = [finding for finding in self.findings if finding.severity == "error"]
        if not errors:
            return
        message = errors[0].message
        if len(errors) > 1:
            others = sorted({finding.code for finding in errors[1:]})
            message += f" ({len(errors) - 1} more: {', '.join(others)})"
        told = errors[0]
        accepted = RULES[told.code].warn != "error" and id(told) not in self._beyond_policy
        if self.policy == "strict" and accepted:
            message += (
                ". Policy 'warn' goes on where that still makes a volume, 'repair' mends what "
                "geometry can mend"
            )
        raise CTReadError(message, code=errors[0].code, findings=self.to_dicts())

    def to_dicts(self) -> list[dict]:
        """The findings as JSON-able dictionaries."""
        return [finding.to_dict() for finding in self.findings]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)
