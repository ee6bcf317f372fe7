"""The error of the scan reader."""

from __future__ import annotations

from ..errors import CTVideoError

__all__ = ["CTReadError"]


class CTReadError(CTVideoError):
    """A scan that cannot be read as asked.

    Parameters
    ----------
    message : str
        What is wrong, where (file name, position in mm), expected and found, and what to do.
        Never holds a patient's name, id, birth date or accession number.
    code : str
        A stable word such as ``"missing_slice"`` or ``"no_decoder"``.
    findings : list of dict
        Everything found before reading stopped, as in the report.
    """

    def __init__(self, message: str, *, code: str, findings: list[dict] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.findings = findings or []

    def __reduce__(self):  # keeps the keyword arguments when a worker process raises it
        return (_rebuild, (str(self), self.code, self.findings))


def _rebuild(message: str, code: str, findings: list[dict]) -> CTReadError:
    return CTReadError(message, code=code, findings=findings)
