"""The pieces of HTML that the demo shows; every word from a scan or a model is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..dicom.report import most_severe_first
from .limits import DemoLimits

__all__ = [
    "about",
    "batch_table",
    "failure",
    "head",
    "nothing_yet",
    "result_page",
    "use_note",
    "waiting",
]

_MOST_FINDINGS = 40
_BATCH_COLUMNS = ("probability", "slices", "highest clip, z mm", "findings")
_SHORT = 12  # characters of a commit where there is little room


def use_note() -> str:
    """The line that stays in sight."""
    return (
        '<div class="ctv-use" role="note">Not for clinical use. <span>Research software, no '
        "medical device. Do not upload scans that you may not share with this machine.</span></div>"
    )


def head(model: Mapping[str, Any], label: str) -> str:
    """Title, and which model answers what."""
    commit, at = model["commit"], ""
    if commit:
        at = f', commit <code title="{escape(commit)}">{escape(commit[:_SHORT])}</code>,'
    return (
        '<div class="ctv-head"><h1>Whole-study prediction on chest CT</h1><p>'
        f"{escape(str(model['name']))} ({escape(str(model['backbone']))}){at} scores a scan for "
        f"“{escape(label)}”, clip by clip along the body.</p></div>"
    )


def nothing_yet() -> str:
    """What stands where a result will be."""
    return (
        '<div class="ctv-card ctv-none">The scan, its score and where it comes from appear '
        "here.</div>"
    )


def waiting(stage: str, done: int, total: int) -> str:
    """A bar with words, read out by screen readers when the stage changes."""
    share = f'value="{done}" max="{total}"' if total else ""
    count = f" {done} of {total}" if total else ""
    return (
        f'<div class="ctv-card ctv-wait"><p><span role="status">{escape(stage)}</span>'
        f'<span class="ctv-soft">{count}</span></p>'
        f'<progress {share} aria-label="{escape(stage)}"></progress></div>'
    )


def failure(words: str, findings: Sequence[Mapping[str, Any]] = ()) -> str:
    """Why there is no result, and what was found on the way."""
    listed = _findings(findings)
    return (
        '<div class="ctv-card ctv-error" role="alert"><h2>This scan was not scored</h2>'
        f"<p>{escape(words)}</p>{listed}"
        '<p class="ctv-soft">The upload has been deleted.</p></div>'
    )


def result_page(base: str, result: Mapping[str, Any]) -> str:
    """The viewer with score, downloads, warnings and geometry beside it.

    Parameters
    ----------
    base : str
        Address of what is kept of this scan, without a slash at its end.
    result : mapping
    """
    return (
        f'<ct-viewer src="{escape(base)}">{_score(result)}{_links(base)}'
        f"{_warnings(result)}{_geometry(result)}{_computed(result)}</ct-viewer>"
    )


def _score(result: Mapping[str, Any]) -> str:
    percent = 100 * result["study_probability"]
    kind = "calibrated probability" if result["calibrated"] else "score (not calibrated)"
    others = result["study_probabilities"]
    rows = ""
    if len(others) > 1:
        told = result.get("labels", {})
        rows = "".join(
            f"<dt>{escape(name)}</dt><dd>{value:.3f}"
            f"{', calibrated' if told.get(name, {}).get('calibrated') else ', not calibrated'}</dd>"
            for name, value in others.items()
        )
        rows = f"<dl>{rows}</dl>"
    points = "".join(
        f"<li>{escape(point['words'])}: {'at or above' if point['positive'] else 'below'}</li>"
        for point in result.get("operating_points", [])
    )
    return (
        '<section class="ctv-card ctv-score" aria-label="Result">'
        f'<div class="ctv-value">{result["study_probability"]:.3f}</div>'
        f"<div>{kind} for “{escape(result['label'])}”</div>"
        f'<div class="ctv-meter"><i style="width:{percent:.2f}%"></i></div>'
        f'<div class="ctv-soft">{escape(result["aggregation"])}, {len(result["clips"])} clips; '
        f"calibration: {escape(result['calibration'])}.</div>{rows}"
        f"{f'<ul>{points}</ul>' if points else ''}</section>"
    )


def _links(base: str) -> str:
    return (
        '<nav class="ctv-links" aria-label="Downloads">'
        f'<a href="{escape(base)}/get/report.html" download>Report (HTML)</a>'
        f'<a href="{escape(base)}/get/result.json" download>Result (JSON)</a></nav>'
    )


def _warnings(result: Mapping[str, Any]) -> str:
    found = result["report"]["findings"]
    severe = [finding for finding in found if finding["severity"] != "info"]
    title = "Warnings about the scan" if severe else "Found while reading"
    if not found:
        return (
            '<section class="ctv-card"><h2>Geometry</h2><div class="ctv-soft">Nothing unusual was '
            "found.</div></section>"
        )
    return f'<section class="ctv-card"><h2>{title}</h2>{_findings(found)}</section>'


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    if not findings:
        return ""
    order = most_severe_first(findings)
    items = "".join(
        f'<li><span class="ctv-tag {finding["severity"]}">{escape(finding["code"])}</span> '
        f"{escape(finding['message'])}</li>"
        for finding in order[:_MOST_FINDINGS]
    )
    if len(order) > _MOST_FINDINGS:
        items += f"<li>and {len(order) - _MOST_FINDINGS} more, see the JSON</li>"
    return f"<ul>{items}</ul>"


def _geometry(result: Mapping[str, Any]) -> str:
    report = result["report"]
    spacing = " × ".join(f"{value:.4g}" for value in report["spacing_mm"])
    facts = [
        ("size", f"{report['slices']} × {report['rows']} × {report['columns']}"),
        ("spacing", f"{spacing} mm"),
        ("planes", report["orientation"]),
        ("HU", f"{report['hu_min']} to {report['hu_max']}"),
        ("read from", f"{report['source']}, policy {report['policy']}"),
    ]
    if report.get("manufacturer"):
        facts.append(("scanner", report["manufacturer"]))
    if report.get("kernel"):
        facts.append(("kernel", report["kernel"]))
    return _facts("The scan", facts)


def _computed(result: Mapping[str, Any]) -> str:
    seconds = result["timings_s"]
    facts = [
        *_model_facts(result["model"]),
        ("arithmetic", result["precision"]),
        ("reading", f"{seconds['read']:.1f} s"),
        ("network", f"{seconds['setup'] + seconds['forward']:.1f} s"),
        ("total", f"{seconds['total']:.1f} s"),
    ]
    return _facts("How it was computed", facts)


def _model_facts(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Its id and commit: the same two give the same scores again."""
    return [("model", model["name"]), ("commit", model["commit"] or "none, a folder")]


def _facts(title: str, facts: Sequence[tuple[str, Any]]) -> str:
    rows = "".join(f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in facts)
    return f'<section class="ctv-card"><h2>{title}</h2><dl>{rows}</dl></section>'


def batch_table(rows: Sequence[Mapping[str, Any]], total: int, link: str | None) -> str:
    """Rows so far, one a scan, and the table's address when it is whole."""
    body = "".join(_batch_row(row) for row in rows)
    words = f"{len(rows)} of {total} scans" if link is None else f"{total} scans"
    shown = (
        f'<nav class="ctv-links"><a href="{escape(link)}" download>Table (CSV)</a></nav>'
        if link
        else ""
    )
    names = "".join(f'<th scope="col">{name}</th>' for name in ("scan", *_BATCH_COLUMNS))
    return (
        f'<div class="ctv-card"><h2 role="status">{words}</h2><div class="ctv-table"><table>'
        f"<thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div></div>{shown}"
    )


def _batch_row(row: Mapping[str, Any]) -> str:
    name = f'<tr><th scope="row">{escape(row["study"])}</th>'
    if row.get("error"):
        return (
            f'{name}<td colspan="{len(_BATCH_COLUMNS)}"><span class="ctv-tag error">not scored'
            f"</span> {escape(row['error'])}</td></tr>"
        )
    kind = "" if row["calibrated"] else " (not calibrated)"
    place = f"{row['best_clip_z_low_mm']:.1f} to {row['best_clip_z_high_mm']:.1f}"
    cells = (f"{row['probability']:.3f}{kind}", row["slices"], place, row["findings"] or "none")
    # on a phone each row is a card, and the names of columns stand in it
    return name + "".join(
        f'<td data-column="{column}">{escape(str(cell))}</td>'
        for column, cell in zip(_BATCH_COLUMNS, cells, strict=True)
    ) + "</tr>"  # fmt: skip


def about(
    model: Mapping[str, Any], limits: DemoLimits, examples: Sequence[Mapping[str, str]]
) -> str:
    """What happens to uploads, what the figures mean, the model, where the examples come from."""
    sources = "".join(
        f"<li>{escape(example['title'])}: {escape(example['words'])} "
        f"{escape(example['licence'])}.</li>"
        for example in examples
    )
    shown = f"<h2>Examples</h2><ul>{sources}</ul>" if examples else ""
    minutes = f"{limits.keep_seconds / 60:g}"
    return (
        '<div class="ctv-card"><h2>What happens to a scan</h2><ul><li>Uploaded files are deleted '
        "as soon as they have been read; what is never read goes within an hour.</li><li>The "
        "volume stays on this machine while you look at it: until the page is closed, another scan "
        f"follows, or {minutes} minutes have passed. Its address cannot be guessed.</li><li>Names, "
        "numbers and dates in the headers are neither shown nor kept, and nothing is logged. What "
        "is burned into the pictures stays in the pictures.</li><li>"
        f"{escape(limits.words())}</li></ul></div>"
        '<div class="ctv-card"><h2>What is shown</h2><ul><li>Each clip is a run of slices that '
        "the network saw together; the study's score comes from the clips by the rule named "
        "beside it.</li><li>Relevance tells where the network finds what speaks for its score: the "
        "bar beside the slice and the area under the curve along the body, the colours within the "
        "plane. It explains this network, not a disease: a bright place may be bright for a wrong "
        "reason.</li><li>The patient's right is on the "
        "left; slices count from the feet, from 0.</li></ul>"
        f"{shown}</div>{_facts('The model', _model_facts(model))}"
    )
