"""What one option of a training run is: how it is called, read, explained, and its default.

Standard library only, as everything that ``ct-video-hf train --help`` reads.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import CTVideoError

__all__ = ["Option", "OptionError", "did_you_mean"]


class OptionError(CTVideoError):
    """An option that is unknown, missing, given twice, or has an impossible value."""


@dataclass(frozen=True)
class Option:
    """One option: how it is called, read, explained, and what holds without it."""

    name: str
    group: str
    help: str
    parse: Callable[[str], Any] = str
    default: Any = None
    choices: tuple[str, ...] | None = None
    metavar: str | None = None
    several: bool = False
    required: bool = False

    def read(self, value: Any) -> Any:
        """A value from the command line, a file or Python, as the option's own type."""
        if value is None:
            if self.required or self.default is not None:
                raise OptionError(f"option {self.name}: a value is needed, found null")
            return None
        if self.several:
            values = value if isinstance(value, list | tuple) else [value]
            # a window is itself a pair, in a file written [centre, width]
            return [self._read_one(self._joined(entry)) for entry in values]
        return self._read_one(value)

    @staticmethod
    def _joined(entry: Any) -> Any:
        return ",".join(map(str, entry)) if isinstance(entry, list | tuple) else entry

    def _read_one(self, value: Any) -> Any:
        if isinstance(value, dict | list | tuple):
            raise OptionError(f"option {self.name} takes one value, found {value!r}")
        text = str(value)
        try:
            parsed = self.parse(text)
        except ValueError as error:
            raise OptionError(f"option {self.name}: {error}") from error
        if self.choices and parsed not in self.choices:
            hint = did_you_mean(text, self.choices)
            raise OptionError(
                f"option {self.name}: choose from {', '.join(self.choices)}, found {text!r}{hint}"
            )
        return parsed


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` for the nearest known name, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
