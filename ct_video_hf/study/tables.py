"""The tables of a study, once as rows of words, and in the forms that papers and people want."""

from __future__ import annotations

from dataclasses import dataclass

from .analysis import MEAN, Difference, Estimate, StudyResults

__all__ = [
    "Table",
    "auroc_table",
    "difference_table",
    "latex",
    "markdown",
    "rates_table",
    "sources_table",
]

_NOT_RUN = "not run"


@dataclass(frozen=True)
class Table:
    """A table in words.

    Attributes
    ----------
    name : str
        Of its files.
    title : str
    columns : tuple of str
    rows : tuple of tuple of str
    strong : frozenset of int
        Rows that stand out: means over networks.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()


def _three(value: float) -> str:
    return "undefined" if value != value else f"{value:.3f}"


def _cell(entry: Estimate | None) -> str:
    if entry is None:
        return "–"
    if entry.interval is None:
        return _NOT_RUN if not entry.runs else f"incomplete ({entry.status})"
    shown = _three(entry.interval.value)
    if entry.interval.low == entry.interval.low:
        shown += f" ({entry.interval.low:.3f} to {entry.interval.high:.3f})"
    if entry.runs < entry.planned:
        shown += f", {entry.runs} of {entry.planned} runs"
    return shown


def auroc_table(results: StudyResults, dataset: str, fraction: float) -> Table:
    """Study AUROC with intervals: a row a network, a column an arm."""
    config = results.config
    names = [model.name for model in config.models if model.kind == "3d"]
    if any(e.model == MEAN and e.dataset == dataset for e in results.estimates):
        names.append(MEAN)
    names += [model.name for model in config.models if model.kind == "2d"]
    flat = {model.name for model in config.models if model.kind == "2d"}
    rows = []
    for name in names:
        cells = [_cell(results.estimate(dataset, name, a.name, fraction)) for a in config.arms]
        rows.append((f"{name} (2D)" if name in flat else name, *cells))
    data = config.dataset(dataset)
    studies = {
        round(e.train_studies)
        for e in results.estimates
        if e.dataset == dataset and e.fraction == fraction and e.train_studies
    }
    count = f", {min(studies):,} training studies" if len(studies) == 1 else ""
    return Table(
        name=f"{dataset}_auroc_{fraction:g}",
        title=f"{data.title}: study AUROC at {fraction:.0%} of the training patients{count}",
        columns=("network", *(arm.title for arm in config.arms)),
        rows=tuple(rows),
        strong=frozenset(row for row, name in enumerate(names) if name == MEAN),
    )


def _p(value: float | None) -> str:
    if value is None:
        return ""
    if value != value:
        return "nothing varies"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _difference_row(entry: Difference) -> tuple[str, ...]:
    share = f"{entry.fraction:.0%}"
    found = entry.comparison
    if found is None:
        words = _NOT_RUN if not entry.runs else entry.status
        return (entry.model, share, words, "", "", "", str(entry.runs))
    return (
        entry.model,
        share,
        f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})",
        _p(found.p),
        _p(entry.p_adjusted),
        found.test,
        str(entry.runs),
    )


def difference_table(results: StudyResults, dataset: str, a: str, b: str) -> Table:
    """The tested differences of one contrast on one data set."""
    config = results.config
    entries = [d for d in results.differences if (d.dataset, d.a, d.b) == (dataset, a, b)]
    return Table(
        name=f"{dataset}_{a}_minus_{b}",
        title=f"{config.dataset(dataset).title}: study AUROC, {config.arm(a).title} minus "
        f"{config.arm(b).title}",
        columns=("network", "data", "difference (95 % interval)", "p", "p (Holm)", "test",
                 "paired runs"),
        rows=tuple(_difference_row(entry) for entry in entries),
        strong=frozenset(row for row, entry in enumerate(entries) if entry.model == MEAN),
    )  # fmt: skip


def rates_table(results: StudyResults) -> Table | None:
    """What the learning-rate search found; None where there was none."""
    if not results.rates:
        return None
    rates = results.config.learning_rates
    seen, rows = set(), []
    for entry in results.rates:
        cell = entry["cell"]
        place = (cell.dataset, cell.model, cell.pretraining)
        if place in seen:
            continue
        seen.add(place)
        tried = [entry["tried"][rate] for rate in rates]
        shown = [value if isinstance(value, str) else _three(value) for value in tried]
        chosen = entry["chosen"]
        rows.append((*place, *shown, "none yet" if chosen is None else f"{chosen:g}"))
    return Table(
        name="learning_rates",
        title="Learning-rate search: validation value of each rate on "
        f"{results.config.search.fraction:.0%} of the training patients",
        columns=("data set", "network", "pretraining", *(f"{rate:g}" for rate in rates), "chosen"),
        rows=tuple(rows),
    )


def sources_table(results: StudyResults) -> Table | None:
    """How far the runs that others begin with had learned; None where none begin so."""
    if not results.sources:
        return None
    rows = []
    for entry in results.sources:
        cell, best = entry["cell"], entry["best"]
        found = entry["status"] if best is None else f"{best['name']} {_three(best['value'])}"
        title = results.config.dataset(cell.dataset).title
        rows.append((title, cell.model, cell.pretraining, str(cell.seed), found))
    return Table(
        name="beginnings",
        title="Runs on other data that arms begin with: the value that picked their checkpoint, on "
        "their own validation studies",
        columns=("data set", "network", "begun from", "seed", "validation"),
        rows=tuple(rows),
    )


def markdown(table: Table) -> str:
    """The table for a Markdown page."""
    lines = [
        "| " + " | ".join(table.columns) + " |",
        "| " + " | ".join("---" for _ in table.columns) + " |",
    ]
    for number, row in enumerate(table.rows):
        cells = [f"**{cell}**" if number in table.strong and cell else cell for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "–": "--", "<": "$<$"}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def latex(table: Table) -> str:
    """The table for a paper, with booktabs."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escaped(table.title)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        " & ".join(map(_escaped, table.columns)) + r" \\",
        r"\midrule",
    ]
    for number, row in enumerate(table.rows):
        cells = map(_escaped, row)
        if number in table.strong:
            cells = (rf"\textbf{{{cell}}}" if cell else "" for cell in cells)
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"
