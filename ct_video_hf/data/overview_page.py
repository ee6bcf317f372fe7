"""The overview of a prepared set as one HTML file: no script, no request, light and dark."""

from __future__ import annotations

import base64
import os
import re
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replacing
from .overview import Overview, SheetClip, png

__all__ = ["render_page", "save_page"]

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --card: #ffffff; --ink: #1c2530;
  --soft: #5d6873;
  --rule: #dfe3e8; --bar: #3d6f9e; --hit: #b36b00; --hit-soft: #f6e6cb; }
@media (prefers-color-scheme: dark) { :root { --paper: #12161b; --card: #1a2027; --ink: #e6eaee;
  --soft: #98a4b0; --rule: #2d353e; --bar: #7fb0dc; --hit: #f0b04a; --hit-soft: #4a3a1c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 44px 28px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 17px; margin: 44px 0 14px; }
h3 { font-size: 14px; margin: 0 0 10px; font-weight: 600; }
p { margin: 0 0 8px; max-width: 74ch; } .soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin-top: 24px; }
.tile, .chart, .clip { background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px; }
.tile { padding: 14px 16px; } .tile b { display: block; font-size: 25px; line-height: 1.25;
  font-variant-numeric: tabular-nums; } .tile span { color: var(--soft); font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } th { font-weight: 600; font-size: 13px; color: var(--soft); }
th, td { text-align: right; padding: 7px 12px; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; }
td:first-child, th:first-child { padding-left: 2px; }
.share { display: inline-block; width: 92px; height: 8px; border-radius: 4px; overflow: hidden;
  background: var(--rule); vertical-align: middle; margin-left: 10px; }
.share i { display: block; height: 100%; background: var(--hit); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 14px; }
.chart { padding: 16px 18px 10px; } svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11px; font-variant-numeric: tabular-nums; }
svg rect { fill: var(--bar); } svg line { stroke: var(--rule); }
.sheet { display: grid; gap: 10px; } .clip { padding: 10px 12px 12px; }
.clip header { display: flex; justify-content: space-between; gap: 12px; font-size: 13px;
  margin-bottom: 8px; color: var(--soft); } .clip strong { color: var(--ink); font-weight: 600; }
.frames { display: grid; grid-template-columns: repeat(6, 1fr); gap: 6px; }
figure { margin: 0; } img { display: block; width: 100%; height: auto; border-radius: 4px;
  background: #000; } figcaption { font-size: 11px; color: var(--soft); text-align: center;
  margin-top: 3px; border-top: 3px solid transparent; padding-top: 2px; }
.hit figcaption { border-top-color: var(--hit); color: var(--hit); font-weight: 600; }
.tag { background: var(--hit-soft); color: var(--hit); border-radius: 5px; padding: 1px 7px; }
footer { margin-top: 48px; padding-top: 14px; border-top: 1px solid var(--rule); font-size: 13px;
  color: var(--soft); }
@media print { .clip, .chart, .tile { break-inside: avoid; } }
"""


def render_page(overview: Overview) -> str:
    """The page's HTML; nothing in it names a study or a patient."""
    summary = overview.summary
    name = summary["provenance"]["name"]
    parts = [
        _head(name, summary),
        _tiles(overview),
        "<h2>Splits</h2>",
        _split_table(summary["splits"], bool(summary["label_names"])),
        _clip_rule(summary),
        _labels(overview.labels),
        "<h2>Geometry</h2>",
        '<div class="charts">',
        _chart("Slices in a study", overview.slices, "slices", whole=True),
        _chart("Distance between slices", overview.spacing, "mm"),
        _chart(f"Pixel at {summary['size']} x {summary['size']}", overview.pixel, "mm"),
        "</div>",
        _rejects(overview.rejects),
        _sheet(overview),
        "<footer><p>Not for clinical use. Slices run from feet to head; the patient's right is on "
        "the left. No name, identifier, date or path is on this page; the pictures are those of "
        "the scans.</p></footer></main></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def save_page(overview: Overview, path: str | os.PathLike) -> Path:
    """Write the page."""
    with replacing(path) as partial:
        partial.write_text(render_page(overview), encoding="utf-8", newline="\n")
    return Path(path)


def _head(name: str, summary: dict[str, Any]) -> str:
    source = summary["provenance"]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Prepared set {escape(name)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>Prepared set {escape(name)}</h1><p>{_prose(source['description'])}</p>"
        f'<p class="soft">Licence of the source: {escape(source["licence"])}</p>'
    )


def _prose(text: str) -> str:
    """Text as HTML, what stands in backquotes as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _tiles(overview: Overview) -> str:
    splits = overview.summary["splits"].values()
    values = [
        ("studies", sum(split["studies"] for split in splits)),
        ("patients", sum(split["patients"] for split in splits)),
        ("slices", sum(split["slices"] for split in splits)),
        ("clips", sum(split["clips"] for split in splits)),
    ]
    if overview.summary["label_names"]:
        values.append(("positive clips", sum(split["positive_clips"] for split in splits)))
    values.append(("studies left out", overview.summary["rejected"]))
    tiles = (
        f'<div class="tile"><b>{value:,}</b><span>{name}</span></div>' for name, value in values
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _share(part: int, whole: int) -> str:
    percent = 100 * part / whole if whole else 0.0
    return (
        f'{part:,} <span class="share" role="img" aria-label="{percent:.0f} percent">'
        f'<i style="width:{percent:.1f}%"></i></span>'
    )


def _split_table(splits: dict[str, Any], labelled: bool) -> str:
    heads = ["split", "studies", "patients", "slices", "clips"]
    heads += ["positive studies", "positive slices", "positive clips"] if labelled else []
    rows = []
    for name, counts in splits.items():
        cells = [name] + [f"{counts[key]:,}" for key in ("studies", "patients", "slices", "clips")]
        if labelled:
            cells += [
                _share(counts["positive_studies"], counts["studies"]),
                _share(counts["positive_slices"], counts["slices"]),
                _share(counts["positive_clips"], counts["clips"]),
            ]
        rows.append(cells)
    return _table(heads, rows)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _clip_rule(summary: dict[str, Any]) -> str:
    rule = summary["clip_rule"]
    weak = sum(split["weakly_labelled_clips"] for split in summary["splits"].values())
    text = (
        f"Clips of {rule['num_frames']} slices at stride {rule['stride']}; one with at least "
        f"{rule['min_positive_slices']} positive slices is positive."
    )
    if weak:
        text += f" {weak:,} clips take the label of their study, whose slices are not labelled."
    without = sum(split["studies_without_clips"] for split in summary["splits"].values())
    if without:
        one = "study has" if without == 1 else "studies have"
        text += f" {without:,} {one} no clip: too few slices, or slices of unknown label."
    return f'<p class="soft" style="margin-top:10px">{text}</p>'


def _labels(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "<h2>Labels</h2><p>The set has no labels.</p>"
    cells = []
    for row in rows:
        known = row["positive"] + row["negative"]
        counts = [_share(row["positive"], known), f"{row['negative']:,}", f"{row['unknown']:,}"]
        cells.append([f"{escape(row['label'])}, {row['split']}", *counts])
    heads = ["label, split", "positive studies", "negative studies", "unknown"]
    return "<h2>Labels</h2>" + _table(heads, cells)


def _chart(title: str, values: np.ndarray, unit: str, *, whole: bool = False) -> str:
    """A histogram as SVG, with least, median and most under its title."""
    low, high = float(values.min()), float(values.max())
    digits = 0 if whole else 2
    said = f"{low:.{digits}f} to {high:.{digits}f} {unit}, median {np.median(values):.{digits}f}"
    bins = min(24, max(6, round(np.sqrt(len(values)))))
    if whole and high - low < 24:  # a bar for each number
        bins = int(high - low) + 1
        low, high = low - 0.5, high + 0.5
    elif high - low < 1e-6:
        bins = 5  # an odd number: the bar stands in the middle
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(values, bins, (low, high))
    width, height, foot = 300, 120, 20
    step = width / bins
    bars = "".join(
        f'<rect x="{place * step + 1:.1f}" width="{step - 2:.1f}" rx="1.5" '
        f'y="{height - height * count / counts.max():.1f}" '
        f'height="{height * count / counts.max():.1f}"><title>{edges[place]:.2f} to '
        f"{edges[place + 1]:.2f} {unit}: {count} studies</title></rect>"
        for place, count in enumerate(counts)
        if count
    )
    marks = "".join(
        f'<text x="{place * width / 2:.0f}" y="{height + 15}" text-anchor="{anchor}">'
        f"{_end(low, high, place, whole)}</text>"
        for place, anchor in enumerate(("start", "middle", "end"))
    )
    return (
        f'<div class="chart"><h3>{escape(title)}</h3><p class="soft">{said}</p>'
        f'<svg viewBox="0 0 {width} {height + foot}" role="img" aria-label="{escape(title)}: '
        f'{said}"><line x1="0" x2="{width}" y1="{height}" y2="{height}"/>{bars}{marks}</svg></div>'
    )


def _end(low: float, high: float, place: int, whole: bool) -> str:
    """What stands under the left end, the middle and the right end of a histogram."""
    value = low + place * (high - low) / 2
    if not whole:
        return f"{value:.1f}"
    return f"{(np.ceil(value), round(value), np.floor(value))[place]:.0f}"


def _rejects(codes: dict[str, int]) -> str:
    if not codes:
        return ""
    rows = [[escape(code), f"{count:,}"] for code, count in codes.items()]
    return "<h2>Left out</h2>" + _table(["reason", "studies"], rows)


def _sheet(overview: Overview) -> str:
    centre, width = overview.window
    parts = [
        "<h2>Clips</h2>",
        f'<p class="soft">Window: centre {centre:g} HU, width {width:g} HU. A slice that is marked '
        "positive is underlined.</p>",
    ]
    if not overview.clips:
        return "<h2>Clips</h2><p>No study has a clip.</p>"
    labelled = bool(overview.summary["label_names"])
    for positive, title in ((True, "Positive"), (False, "Negative" if labelled else "Any")):
        clips = [clip for clip in overview.clips if clip.positive is positive]
        if clips:
            cards = "".join(_clip(clip, title) for clip in clips)
            parts.append(
                f'<h3 style="margin-top:22px">{title}</h3><div class="sheet">{cards}</div>'
            )
    return "".join(parts)


def _clip(clip: SheetClip, title: str) -> str:
    frames = "".join(
        f'<figure{" class=hit" if marked else ""}><img alt="slice {number + 1}" width="148" '
        f'height="148" src="data:image/png;base64,{base64.b64encode(png(picture)).decode()}">'
        f"<figcaption>{number + 1}</figcaption></figure>"
        for number, marked, picture in zip(clip.shown, clip.marked, clip.pictures, strict=True)
    )
    tag = (
        f'<span class="tag">{title.lower()}</span>'
        if clip.positive
        else f"<span>{title.lower()}</span>"
    )
    return (
        f'<div class="clip"><header><strong>{escape(clip.caption)}</strong>{tag}</header>'
        f'<div class="frames">{frames}</div></div>'
    )
