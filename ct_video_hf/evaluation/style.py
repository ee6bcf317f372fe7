"""How the project's figures look: sizes, colours, light and dark; drawn without a display."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..errors import CTVideoError
from ..files import replacing

__all__ = [
    "BLUE",
    "ORANGE",
    "in_both_themes",
    "new_axes",
    "new_figure",
    "save_figure",
    "text_colour",
    "theme",
]

# Okabe and Ito's colours, told apart with every common kind of colour blindness, and in print by
# their lightness: blue is dark, orange is light.
BLUE, ORANGE = "#0072B2", "#E69F00"
_NOT_CLINICAL = "Research only, not for clinical use"
_TEXT = {"light": "#000000", "dark": "#E6EDF3"}
_BACK = {"light": "#FFFFFF", "dark": "#0D1117"}
_GRID = {"light": "#E0E0E0", "dark": "#30363D"}


@contextmanager
def theme(name: str) -> Iterator[None]:
    """Draw figures for a ``light`` page (and print) or for a ``dark`` one."""
    if name not in _TEXT:
        raise CTVideoError(f"theme is light or dark, found {name!r}")
    text, back, grid = _TEXT[name], _BACK[name], _GRID[name]
    settings = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), text
    )
    settings |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "legend.facecolor"), back)
    with matplotlib.rc_context(settings | {"grid.color": grid}):
        yield


def in_both_themes(draw: Callable, *args, path, **kwargs) -> list[Path]:
    """``draw(*args, path, **kwargs)`` for light pages, and as ``NAME_dark`` for dark ones."""
    path = Path(path)
    written = []
    for name, target in (("light", path), ("dark", path.with_stem(f"{path.stem}_dark"))):
        with theme(name):
            written.append(draw(*args, target, **kwargs))
    return written


def text_colour() -> str:
    """The colour of text and lines in the theme in force."""
    return matplotlib.rcParams["text.color"]


def new_figure(width: float = 4.6, height: float = 4.2) -> Figure:
    """An empty figure of that size in inches, drawn without a display."""
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_axes(figure: Figure, xlabel: str, ylabel: str, place: tuple[int, int, int] = (1, 1, 1)):
    """Axes in the project's style; ``place`` as in ``Figure.add_subplot``."""
    axes = figure.add_subplot(*place)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return axes


def save_figure(figure: Figure, path) -> Path:
    """Write the figure under a temporary name, marked as not for clinical use, and rename it."""
    figure.text(0.995, 0.005, _NOT_CLINICAL, ha="right", va="bottom", fontsize=6, alpha=0.65)
    figure.get_layout_engine().set(rect=(0, 0.03, 1, 0.97))
    with replacing(path) as partial:
        figure.savefig(partial)
    return Path(path)
