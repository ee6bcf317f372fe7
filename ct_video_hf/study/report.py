"""The report of a study: Markdown, CSV, LaTeX and one HTML page, all from the predictions."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

from ..evaluation.report import write_json
from ..evaluation.style import theme
from ..files import replacing, write_csv
from .analysis import MEAN, StudyResults, analyse
from .config import StudyConfig
from .figures import plot_data_curves, plot_differences
from .tables import (
    Table,
    auroc_table,
    difference_table,
    latex,
    markdown,
    rates_table,
    sources_table,
)

__all__ = ["write_report"]


def _tables(results: StudyResults) -> list[Table]:
    config = results.config
    tables = []
    for data in (entry for entry in config.data if entry.evaluate):
        tables += [auroc_table(results, data.name, fraction) for fraction in config.fractions]
        tables += [
            difference_table(results, data.name, a, b)
            for a, b in config.contrasts
            if any((d.dataset, d.a, d.b) == (data.name, a, b) for d in results.differences)
        ]
    return tables + [t for t in (sources_table(results), rates_table(results)) if t is not None]


def _findings(results: StudyResults) -> list[str]:
    """The differences of the means over networks (or of the only network) in sentences."""
    config = results.config
    several = sum(model.kind == "3d" for model in config.models) > 1
    sentences = []
    for entry in results.differences:
        found = entry.comparison
        if found is None or (entry.model == MEAN) != several:
            continue
        excludes = found.low > 0 or found.high < 0
        a, b = (config.arm(arm).title for arm in (entry.a, entry.b))
        sentences.append(
            f"{config.dataset(entry.dataset).title}, {entry.fraction:.0%} of the training "
            f"patients, {entry.model}: {a} minus {b} is {found.value:+.3f} (95 % interval "
            f"{found.low:+.3f} to {found.high:+.3f}, which {'excludes' if excludes else 'includes'}"
            " 0)."
        )
    return sentences


def _context(results: StudyResults, tables: list[Table], command: str) -> dict[str, Any]:
    config = results.config
    return {
        "title": config.title,
        "description": config.description,
        "command": command,
        "statuses": dict(sorted(results.statuses.items())),
        "cells": sum(results.statuses.values()),
        "findings": _findings(results),
        "tables": tables,
        "notes": results.notes,
        "failures": [
            {"cell": failure["cell"], "why": (failure["last_lines"] or ["no output"])[-1]}
            for failure in results.failures
        ],
        "counts": {config.dataset(name).title: counts for name, counts in results.counts.items()},
        "resamples": config.resamples,
        "seeds": config.seeds,
        "search": config.search,
        "origin": results.origin,
    }


def write_report(config: StudyConfig, out=None, *, command: str = "") -> dict[str, Any]:
    """Write the report of what is finished so far; cells that are not run are shown as not run.

    Parameters
    ----------
    config : StudyConfig
    out : path, optional
        Folder of the report; ``report`` in the study's folder without it.
    command : str
        How the report was asked for, printed in it.

    Returns
    -------
    dict
        JSON-able: paths written (``markdown``, ``html``, ``tables``, ``figures``), ``findings``,
        ``cells`` by status. ``results.json`` in the folder holds every number.
    """
    import jinja2

    out = Path(out) if out is not None else config.folder / "report"
    results = analyse(config)
    tables = _tables(results)
    with theme("light"):
        figures = {
            "auroc_by_studies.png": plot_data_curves(results, out / "figures/auroc_by_studies.png"),
            "differences.png": plot_differences(results, out / "figures/differences.png"),
        }
    figures = {name: path for name, path in figures.items() if path is not None}
    shutil.rmtree(out / "tables", ignore_errors=True)
    for table in tables:
        rows = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
        write_csv(out / "tables" / f"{table.name}.csv", table.columns, rows)
        _write(out / "tables" / f"{table.name}.tex", latex(table))
    write_json(_numbers(results), out / "results.json")
    context = _context(results, tables, command)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages = {"markdown": out / "report.md", "html": out / "report.html"}
    drawn = {"markdown": {name: f"figures/{name}" for name in figures}}
    drawn["html"] = {name: _inline(path) for name, path in figures.items()}
    for kind, path in pages.items():
        page = environment.get_template(f"report.{path.suffix[1:]}.jinja")
        _write(path, page.render(**context, figures=drawn[kind], as_markdown=markdown))
    return {
        **{kind: str(path) for kind, path in pages.items()},
        "tables": [str(out / "tables" / f"{table.name}.csv") for table in tables],
        "figures": [str(path) for path in figures.values()],
        "findings": context["findings"],
        "cells": context["statuses"],
    }


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def _inline(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _number(value: float | None) -> float | None:
    return None if value is None or value != value else value


def _numbers(results: StudyResults) -> dict[str, Any]:
    """Every estimate and difference as numbers."""
    estimates = [
        {
            **{key: getattr(e, key) for key in ("dataset", "model", "pretraining", "fraction")},
            **({} if e.interval is None else {
                "auroc": _number(e.interval.value), "low": _number(e.interval.low),
                "high": _number(e.interval.high)}),
            "runs": e.runs, "planned": e.planned, "train_studies": e.train_studies,
            "status": e.status,
        }
        for e in results.estimates
    ]  # fmt: skip
    differences = [
        {
            **{key: getattr(d, key) for key in ("dataset", "model", "a", "b", "fraction")},
            **({} if d.comparison is None else {
                "difference": _number(d.comparison.value), "low": _number(d.comparison.low),
                "high": _number(d.comparison.high), "p": _number(d.comparison.p),
                "p_holm": _number(d.p_adjusted), "test": d.comparison.test}),
            "runs": d.runs, "status": d.status,
        }
        for d in results.differences
    ]  # fmt: skip
    return {
        "study": results.config.name,
        "cells": dict(results.statuses),
        "estimates": estimates,
        "differences": differences,
        "origin": results.origin,
    }
