"""The cells of a study: one training run each, with what it waits for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .config import Arm, StudyConfig

__all__ = ["Cell", "grid_cells", "levels", "needs"]

#: In the place of a learning rate that the search finds.
BEST = "best"


@dataclass(frozen=True, order=True)
class Cell:
    """One training run.

    Attributes
    ----------
    dataset, model, pretraining : str
        Names in the study's design.
    fraction : float
        Share of the training patients.
    seed : int
    learning_rate : float or "best"
        ``"best"``: the rate that did best in the search.
    role : {"grid", "search", "source"}
        What the run is for: a result of the grid, a rate to be tried, or a beginning for others.
        A source that is a cell of the grid as well is one run, and a grid cell.
    """

    dataset: str
    model: str
    pretraining: str
    fraction: float
    seed: int
    learning_rate: float | str
    role: str = "grid"

    @property
    def name(self) -> str:
        """Name of the cell, of its folder, and for ``study run --cell``."""
        rate = self.learning_rate
        rate = rate if isinstance(rate, str) else f"{rate:g}"
        run = f"fraction{self.fraction:g}_seed{self.seed}_lr{rate}"
        return f"{self.dataset}/{self.model}/{self.pretraining}/{run}"

    def to_dict(self) -> dict:
        """JSON-able."""
        return {
            "model": self.model,
            "pretraining": self.pretraining,
            "dataset": self.dataset,
            "fraction": self.fraction,
            "seed": self.seed,
            "learning_rate": self.learning_rate,
            "role": self.role,
            "name": self.name,
        }


def _source_of(arm: Arm, dataset: str) -> str | None:
    source = arm.source.get(dataset, arm.source.get("*"))
    return None if source == dataset else source


def _applies(config: StudyConfig, arm: Arm, dataset: str) -> bool:
    """Whether an arm means anything on a data set: one that starts elsewhere needs an elsewhere."""
    return not arm.source or _source_of(arm, dataset) is not None


def _rate(config: StudyConfig) -> float | str:
    return BEST if config.search and len(config.learning_rates) > 1 else config.learning_rates[0]


def needs(config: StudyConfig, cell: Cell) -> list[Cell]:
    """The cells that have to be finished before ``cell`` can start."""
    before = []
    arm = config.arm(cell.pretraining)
    source = _source_of(arm, cell.dataset) if arm.source else None
    if source is not None:
        start = Cell(
            dataset=source,
            model=cell.model,
            pretraining=arm.start,
            fraction=1.0,
            seed=config.seeds[0],
            learning_rate=_rate(config),
            role="source",
        )
        before.append(start)
    if cell.learning_rate == BEST:
        before += [
            replace(
                cell,
                fraction=config.search.fraction,
                seed=config.search.seed,
                learning_rate=rate,
                role="search",
            )
            for rate in config.learning_rates
        ]
    return before


def grid_cells(config: StudyConfig) -> list[Cell]:
    """Every cell of a study, each before those that wait for it; none twice.

    The grid is data sets x models x arms x fractions x seeds. The runs that it waits for (rates to
    be tried, beginnings on other data sets) are added.
    """
    wanted = [
        Cell(data.name, model.name, arm, fraction, seed, _rate(config))
        for data in config.data
        if data.evaluate
        for model in config.models
        for arm in model.arms
        if _applies(config, config.arm(arm), data.name)
        for fraction in config.fractions
        for seed in config.seeds
    ]
    in_grid = {cell.name: cell for cell in wanted}
    ordered: dict[str, Cell] = {}

    def add(cell: Cell) -> None:
        if cell.name in ordered:
            return
        for earlier in needs(config, cell):
            add(earlier)
        ordered[cell.name] = in_grid.get(cell.name, cell)

    for cell in wanted:
        add(cell)
    return list(ordered.values())


def levels(config: StudyConfig, cells: Iterable[Cell]) -> list[list[Cell]]:
    """The cells in waves: those of a wave need only what earlier waves hold."""
    depth: dict[str, int] = {}
    waves: list[list[Cell]] = []
    for cell in cells:  # in an order in which each comes after what it needs
        own = 1 + max((depth[earlier.name] for earlier in needs(config, cell)), default=-1)
        depth[cell.name] = own
        while len(waves) <= own:
            waves.append([])
        waves[own].append(cell)
    return waves
