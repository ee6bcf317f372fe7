"""The page, built with Gradio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from .limits import DemoLimits
from .pages import (
    about,
    batch_table,
    failure,
    head,
    nothing_yet,
    result_page,
    use_note,
    waiting,
)
from .routes import PREFIX
from .store import Store
from .work import Job, Scorer

__all__ = ["build_page", "look"]

_POLICIES = [
    ("Strict: refuse doubtful geometry", "strict"),
    ("Warn: go on where a volume still makes sense", "warn"),
    ("Repair: resample where that is geometry", "repair"),
]
_STATIC = Path(__file__).parent / "static"
_SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
#: Seconds between sweeps of uploads that were never read, and their age.
_UPLOADS_SWEEP = (300, 1800)


def look() -> dict[str, Any]:
    """Theme, styles and the viewer's code, as ``launch`` takes them, all of this package."""
    script = (_STATIC / "viewer.js").read_text(encoding="utf-8")
    theme = gr.themes.Base(
        primary_hue="cyan", neutral_hue="slate", font=_SYSTEM_FONTS, font_mono=["monospace"]
    )
    return {
        "theme": theme,
        "css": (_STATIC / "style.css").read_text(encoding="utf-8"),
        "head": f"<script>{script}</script>",
    }


def build_page(
    scorer: Scorer, store: Store, limits: DemoLimits, examples: Sequence[dict[str, str]]
) -> gr.Blocks:
    """The page for one model.

    Parameters
    ----------
    scorer : Scorer
    store : Store
    limits : DemoLimits
    examples : sequence of dict
        ``path``, ``title``, ``words``, ``licence`` of each example scan.
    """
    predict = scorer.predict
    label = predict.labels[predict.label]
    with gr.Blocks(
        title="Chest CT prediction, not for clinical use",
        analytics_enabled=False,
        delete_cache=_UPLOADS_SWEEP,
    ) as page:
        gr.HTML(use_note(), elem_id="ctv-use")
        gr.HTML(head(predict.loaded.describe(), label))
        with gr.Tab("One scan"):
            _one_scan(scorer, examples)
        with gr.Tab("Several scans"):
            _several_scans(scorer, limits)
        with gr.Tab("About"):
            gr.HTML(about(limits, examples))
        page.unload(_forgetter(store))
    return page


def _forgetter(store: Store) -> Any:
    def forget(request: gr.Request) -> None:
        store.forget(request.session_hash)

    return forget


def _one_scan(scorer: Scorer, examples: Sequence[dict[str, str]]) -> None:
    upload = gr.File(
        label="A zip of a DICOM folder, DICOM files, or NIfTI",
        file_count="multiple",
        height=150,
        elem_id="ctv-upload",
    )
    with gr.Row(equal_height=True):
        policy = gr.Dropdown(_POLICIES, value="strict", label="Doubtful geometry", scale=3)
        button = gr.Button("Read and score", variant="primary", scale=2, elem_id="ctv-run")
    shown = gr.HTML(nothing_yet(), elem_id="ctv-result")

    def score(paths: list[str] | None, policy: str, request: gr.Request) -> Iterator[tuple]:
        yield from _follow_one(scorer.one(paths or [], policy, request.session_hash))

    # the upload box is emptied: its files are gone, and their names need not stay in sight
    how = {"outputs": [shown, upload], "concurrency_limit": 2, "concurrency_id": "scan"}
    how |= {"show_progress": "hidden", "api_visibility": "private"}
    button.click(score, [upload, policy], **how)
    if examples:
        with gr.Row():
            for example in examples:
                chosen = gr.Button(f"Example: {example['title']}", size="sm")
                chosen.click(_example(scorer, example["path"]), [policy], **how)


def _example(scorer: Scorer, path: str) -> Any:
    def score(policy: str, request: gr.Request) -> Iterator[tuple]:
        yield from _follow_one(scorer.example(path, policy, request.session_hash))

    return score


def _follow_one(job: Job) -> Iterator[tuple]:
    with job:
        for now in job.looks():
            yield waiting(now.stage, now.done, now.total), None
    if job.error is not None:
        yield failure(str(job.error), getattr(job.error, "findings", [])), None
    else:
        yield result_page(f"{PREFIX}/{job.result.token}", job.result.result), None


def _several_scans(scorer: Scorer, limits: DemoLimits) -> None:
    upload = gr.File(
        label=f"Up to {limits.scans} scans, each a zip or a NIfTI file; the table has one row each",
        file_count="multiple",
        height=150,
        elem_id="ctv-batch-upload",
    )
    with gr.Row(equal_height=True):
        policy = gr.Dropdown(_POLICIES, value="strict", label="Doubtful geometry", scale=3)
        button = gr.Button(
            "Read and score all", variant="primary", scale=2, elem_id="ctv-batch-run"
        )
    gr.HTML(
        '<div class="ctv-soft">Scans are numbered in the order of the list above; names of files, '
        "which may be names of people, appear nowhere.</div>"
    )
    shown = gr.HTML("", elem_id="ctv-batch-result")

    def score(paths: list[str] | None, policy: str, request: gr.Request) -> Iterator[str]:
        rows: list[dict[str, Any]] = []
        total = len(paths or [])
        with scorer.many(paths or [], policy, request.session_hash, rows) as job:
            for now in job.looks():
                table = batch_table(list(rows), total, None) if rows else ""
                yield table + waiting(now.stage, now.done, now.total)
        if job.error is not None:
            yield failure(str(job.error))
        else:
            yield batch_table(rows, total, f"{PREFIX}/{job.result.token}/get/table.csv")

    button.click(
        score,
        [upload, policy],
        shown,
        concurrency_limit=2,
        concurrency_id="scan",
        show_progress="hidden",
        api_visibility="private",
    )
