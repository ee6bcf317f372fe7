"""Code blocks of the README and of model cards, taken apart into what a reader would type."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A fenced block: the section it stands in, its language and its text."""

    section: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Lines of a bash block as typed, continued ones joined, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def blocks(text: str) -> list[Block]:
    """Every fenced block of a Markdown text, in order.

    Raises
    ------
    ValueError
        A fence that is indented, has no language, or is never closed.
    """
    found, section, inside = [], "", None
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            if inside is None and re.fullmatch("```[a-z]+", line):
                inside = (line[3:], [])
            elif inside is not None and line == "```":
                found.append(Block(section, inside[0], "\n".join(inside[1]) + "\n"))
                inside = None
            else:
                raise ValueError(f"a fence that opens or closes nothing: {line!r}")
        elif inside is not None:
            inside[1].append(line)
        elif line.startswith("#"):
            section = line.lstrip("# ")
    if inside is not None:
        raise ValueError(f"a block under {section!r} is never closed")
    return found
