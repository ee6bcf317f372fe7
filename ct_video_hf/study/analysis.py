"""From the predictions of finished cells to the study's estimates and tests."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from ..errors import CTVideoError
from ..evaluation.bootstrap import Interval
from ..evaluation.comparisons import Comparison, PairedStudies, holm
from ..evaluation.predictions import aggregate, read_predictions
from .config import StudyConfig
from .grid import Cell, grid_cells, needs
from .state import StudyState

__all__ = ["MEAN", "Difference", "Estimate", "StudyResults", "analyse"]

#: The row of the mean over all 3D networks.
MEAN = "mean of the 3D networks"


@dataclass(frozen=True)
class Estimate:
    """AUROC of one place of the grid, over its seeds.

    Attributes
    ----------
    dataset, model, pretraining : str
        ``model`` may be :data:`MEAN`.
    fraction : float
    interval : Interval or None
        None where no run is finished.
    runs, planned : int
        Finished and planned runs behind it.
    train_studies : float or None
        Mean number of training studies.
    status : str
        In words, where something is missing.
    """

    dataset: str
    model: str
    pretraining: str
    fraction: float
    interval: Interval | None
    runs: int
    planned: int
    train_studies: float | None = None
    status: str = ""


@dataclass(frozen=True)
class Difference:
    """AUROC of arm ``a`` minus arm ``b``; ``p_adjusted`` is Holm's over the models of its table."""

    dataset: str
    model: str
    a: str
    b: str
    fraction: float
    comparison: Comparison | None
    runs: int
    p_adjusted: float | None = None
    status: str = ""


@dataclass
class StudyResults:
    """All estimates of a study and what they rest on."""

    config: StudyConfig
    estimates: list[Estimate] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    rates: list[dict[str, Any]] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    statuses: Counter = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    origin: dict[str, Any] = field(default_factory=dict)

    def estimate(self, dataset: str, model: str, arm: str, fraction: float) -> Estimate | None:
        """The estimate of a place, or None where the design has none."""
        for entry in self.estimates:
            place = (entry.dataset, entry.model, entry.pretraining, entry.fraction)
            if place == (dataset, model, arm, fraction):
                return entry
        return None


def _studies(state: StudyState, cell: Cell) -> pd.DataFrame:
    """Study scores of a finished cell by the rule of its run."""
    folder = state.folder(cell)
    said = folder.record()["arguments"]
    return aggregate(
        read_predictions(folder.run / "predictions.parquet"),
        said["aggregation"],
        top_k=said["top_k"],
        label_from=said["study_label"],
    )


def _facts(studies: pd.DataFrame) -> str:
    known = studies[studies["label"] >= 0].sort_values("study_id")
    text = known[["study_id", "label", "patient_hash"]].to_csv(index=False)
    return hashlib.sha256(text.encode()).hexdigest()


class _Scored:
    """Finished cells of one data set, in groups that were scored on the same studies."""

    def __init__(self, state: StudyState, cells: list[Cell]) -> None:
        tables = {cell.name: _studies(state, cell) for cell in cells}
        self.group_of = {name: _facts(table) for name, table in tables.items()}
        self.groups = {
            facts: PairedStudies(
                {name: table for name, table in tables.items() if self.group_of[name] == facts},
                resamples=state.config.resamples,
            )
            for facts in sorted(set(self.group_of.values()))
        }

    def together(self, names: list[str]) -> PairedStudies | None:
        """The studies that all of these runs were scored on; None where they differ."""
        facts = {self.group_of[name] for name in names}
        return self.groups[facts.pop()] if len(facts) == 1 else None


def analyse(config: StudyConfig) -> StudyResults:
    """Estimates of every place of the grid and tests of every contrast, from finished cells.

    Only predictions tables and records are read; no network runs.
    """
    cells = grid_cells(config)
    state = StudyState(config, cells)
    results = StudyResults(config)
    results.statuses = Counter(state.status(cell) for cell in cells)
    results.failures = [
        failure for cell in cells if (failure := state.folder(cell).failed()) is not None
    ]
    results.rates = [_rates(state, cell) for cell in cells if state.tried(cell)]
    begun = {e.name: e for cell in cells for e in needs(config, cell) if e.role == "source"}
    results.sources = [_source(state, cell) for cell in begun.values()]
    for data in (entry for entry in config.data if entry.evaluate):
        grid = [cell for cell in cells if cell.role == "grid" and cell.dataset == data.name]
        finished = [cell for cell in grid if state.folder(cell).finished]
        scored = _Scored(state, finished)
        if len(scored.groups) > 1:
            results.notes.append(
                f"{data.name}: the runs were scored on {len(scored.groups)} different sets of "
                "studies or labels (clip lengths and label rules can differ by network); means "
                "and differences are only taken within one of them."
            )
        _estimate(results, state, data.name, grid, scored)
        _compare(results, state, data.name, grid, scored)
    _origin(results, state)
    if not results.estimates:
        raise CTVideoError(f"the study {config.name} has no grid")
    return results


def _rates(state: StudyState, cell: Cell) -> dict[str, Any]:
    tried = {}
    for entry in state.tried(cell):
        folder = state.folder(entry)
        best = folder.record()["best_metric"] if folder.finished else None
        tried[entry.learning_rate] = best["value"] if best else state.status(entry)
    try:
        chosen = state.best_rate(cell)
    except CTVideoError:
        chosen = None
    return {"cell": cell, "tried": tried, "chosen": chosen}


def _source(state: StudyState, cell: Cell) -> dict[str, Any]:
    """How well a run that others begin with had learned its own task."""
    folder = state.folder(cell)
    best = folder.record()["best_metric"] if folder.finished else None
    return {"cell": cell, "best": best, "status": state.status(cell)}


def _place(cells: list[Cell], model: str, arm: str, fraction: float) -> list[Cell]:
    return [c for c in cells if (c.model, c.pretraining, c.fraction) == (model, arm, fraction)]


def _words(state: StudyState, cells: list[Cell]) -> str:
    counts = Counter(state.status(cell) for cell in cells)
    if set(counts) == {"finished"}:
        return ""
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))


def _estimate(results, state, dataset: str, grid: list[Cell], scored: _Scored) -> None:
    config = state.config
    for fraction in config.fractions:
        for model in config.models:
            for arm in model.arms:
                cells = _place(grid, model.name, arm, fraction)
                if cells:
                    results.estimates.append(
                        _one_estimate(state, dataset, model.name, arm, fraction, cells, scored)
                    )
        for arm in (entry.name for entry in config.arms):
            mean = _mean_estimate(state, dataset, arm, fraction, grid, scored)
            if mean is not None:
                results.estimates.append(mean)


def _one_estimate(state, dataset, model, arm, fraction, cells, scored) -> Estimate:
    done = [cell.name for cell in cells if cell.name in scored.group_of]
    interval = None
    if done:
        paired = scored.together(done)
        interval = paired.auroc(done) if paired else None
    records = [state.folder(cell).record() for cell in cells if cell.name in done]
    studies = [record["train_studies"] for record in records]
    return Estimate(
        dataset,
        model,
        arm,
        fraction,
        interval,
        runs=len(done),
        planned=len(cells),
        train_studies=sum(studies) / len(studies) if studies else None,
        status=_words(state, cells),
    )


def _mean_estimate(state, dataset, arm, fraction, grid, scored) -> Estimate | None:
    """Mean over the 3D networks that have this arm; only when all of their runs are finished."""
    models = [m.name for m in state.config.models if m.kind == "3d" and arm in m.arms]
    places = [_place(grid, model, arm, fraction) for model in models]
    places = [cells for cells in places if cells]
    if len(places) < 2:
        return None
    cells = [cell for place in places for cell in place]
    done = [cell.name for cell in cells if cell.name in scored.group_of]
    status = _words(state, cells)
    interval = None
    if len(done) == len(cells):
        paired = scored.together(done)
        if paired is None:
            status = "scored on different studies"
        else:
            interval = paired.auroc(*[[cell.name for cell in place] for place in places])
    studies = [state.folder(c).record()["train_studies"] for c in cells if c.name in done]
    return Estimate(
        dataset,
        MEAN,
        arm,
        fraction,
        interval,
        runs=len(done),
        planned=len(cells),
        train_studies=sum(studies) / len(studies) if studies else None,
        status=status,
    )


def _compare(results, state, dataset: str, grid: list[Cell], scored: _Scored) -> None:
    config = state.config
    for a, b in config.contrasts:
        for fraction in config.fractions:
            table = []
            complete: list[tuple[list[str], list[str]]] = []
            three_d = 0
            for model in config.models:
                sides = [_place(grid, model.name, arm, fraction) for arm in (a, b)]
                if not all(sides):
                    continue
                entry, runs = _one_difference(state, dataset, model.name, (a, b), sides, scored)
                table.append(entry)
                if model.kind == "3d":
                    three_d += 1
                    complete += [runs] if runs else []
            adjusted = iter(holm([d.comparison.p for d in table if d.comparison]))
            table = [
                entry if entry.comparison is None else replace(entry, p_adjusted=next(adjusted))
                for entry in table
            ]
            if three_d > 1:
                table.append(_mean_difference(dataset, (a, b), fraction, complete, three_d, scored))
            results.differences += table


def _one_difference(state, dataset, model, arms, sides, scored):
    """The difference of one network over the seeds that both arms have finished."""
    by_seed = [
        {cell.seed: cell.name for cell in cells if cell.name in scored.group_of} for cells in sides
    ]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    fraction = sides[0][0].fraction
    status = _words(state, [cell for side in sides for cell in side])
    runs = tuple([names[seed] for seed in seeds] for names in by_seed)
    comparison = None
    if seeds:
        paired = scored.together([*runs[0], *runs[1]])
        if paired is None:
            status = "scored on different studies"
        else:
            comparison = paired.difference([runs[0]], [runs[1]])
    entry = Difference(dataset, model, *arms, fraction, comparison, runs=len(seeds), status=status)
    whole = comparison is not None and len(seeds) == len(sides[0]) == len(sides[1])
    return entry, (runs if whole else None)


def _mean_difference(dataset, arms, fraction, complete, wanted, scored) -> Difference:
    comparison, status = None, ""
    if len(complete) < wanted:
        status = f"{wanted - len(complete)} of {wanted} networks are not complete"
    else:
        names = [name for runs in complete for side in runs for name in side]
        paired = scored.together(names)
        if paired is None:
            status = "scored on different studies"
        else:
            comparison = paired.difference(
                [runs[0] for runs in complete], [runs[1] for runs in complete]
            )
    return Difference(dataset, MEAN, *arms, fraction, comparison, runs=len(complete), status=status)


def _origin(results: StudyResults, state: StudyState) -> None:
    """Versions, hardware and data behind the finished cells."""
    records = [state.folder(cell).record() for cell in state.cells if state.folder(cell).finished]
    for data in state.config.data:
        for cell in state.cells:
            folder = state.folder(cell)
            if cell.dataset == data.name and cell.fraction == 1.0 and folder.finished:
                counts = folder.record()["data"]["counts"]
                results.counts[data.name] = {
                    f"{role}_{what}": counts[role][what]
                    for role in counts
                    for what in ("studies", "positive_studies", "clips")
                }
                break
    results.origin = {
        "versions": _distinct(records, lambda record: record["versions"]),
        "hardware": _distinct(records, lambda record: record["hardware"]),
        "data": _distinct(
            records,
            lambda record: {
                "set": record["data"]["set"],
                "manifest_sha256": (record["data"]["manifest"] or {}).get("sha256"),
            },
        ),
        "training_hours": round(sum(r["training_seconds"] for r in records) / 3600, 3),
    }


def _distinct(records, pick) -> list[dict]:
    found: list[dict] = []
    for record in records:
        value = pick(record)
        if value not in found:
            found.append(value)
    return found
