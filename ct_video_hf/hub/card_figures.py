"""The pictures that a card shows, each for light pages and, where it was drawn, for dark ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FIGURES", "CardFigure", "find_figures", "pictures_in"]

#: Name in the folder ``figures``, as training and evaluation draw it -> what it shows.
FIGURES = {
    "roc": "ROC curve on the test studies",
    "pr": "Precision and recall on the test studies",
    "reliability": "Reliability of the study scores",
    "scores": "Study scores by label",
    "labels": "Study AUROC of each label",
    "learning_curve": "Learning curve",
}


@dataclass(frozen=True)
class CardFigure:
    """A picture of a model folder.

    Attributes
    ----------
    path : str
        Within the folder.
    words : str
        What it shows.
    dark : str or None
        Path of the same picture for dark pages.
    """

    path: str
    words: str
    dark: str | None = None


def find_figures(folder: Path) -> list[CardFigure]:
    """The pictures of a model folder that its card shows, in the card's order."""
    found = []
    for name, words in FIGURES.items():
        light, dark = f"figures/{name}.png", f"figures/{name}_dark.png"
        if (folder / light).is_file():
            found.append(CardFigure(light, words, dark if (folder / dark).is_file() else None))
    return found


def pictures_in(card: str) -> list[str]:
    """Addresses of all pictures in a card's text: Markdown's, and those of ``<picture>``."""
    return re.findall(r"!\[[^\]]*\]\(([^)]+)\)", card) + re.findall(
        r"<(?:img|source)\b[^>]*?\b(?:src|srcset)=\"([^\"]+)\"", card
    )
