"""The page, built with Gradio."""

from __future__ import annotations

import json
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
from .routes import PREFIX, STATIC, VIEWER
from .work import Job, Scorer

__all__ = ["build_page", "look"]

_POLICIES = [
    ("Refuse the scan", "strict"),
    ("Go on with a warning where a volume still makes sense", "warn"),
    ("Repair what resampling can repair", "repair"),
]
_NOT_TAKEN = "Too many others are waiting, or the server has stopped. Try again in a few minutes."
_SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]


def look() -> dict[str, Any]:
    """Theme, styles and the viewer's address, as ``launch`` takes them, all of this package."""
    theme = gr.themes.Base(
        primary_hue="cyan", neutral_hue="slate", font=_SYSTEM_FONTS, font_mono=["monospace"]
    )
    return {
        "theme": theme,
        "css": (STATIC / "style.css").read_text(encoding="utf-8"),
        "head": f'<script type="module" src="{VIEWER}"></script>',
    }


def build_page(scorer: Scorer, limits: DemoLimits, examples: Sequence[dict[str, str]]) -> gr.Blocks:
    """The page for one model.

    Parameters
    ----------
    scorer : Scorer
    limits : DemoLimits
    examples : sequence of dict
        ``path``, ``title``, ``words``, ``licence`` of each example scan.
    """
    predict = scorer.predict
    label = predict.labels[predict.label]
    with gr.Blocks(
        title="Chest CT prediction, not for clinical use",
        analytics_enabled=False,
    ) as page:
        gr.HTML(use_note(), elem_id="ctv-use")
        gr.HTML(head(predict.loaded.describe(), label))
        with gr.Tab("One scan"):
            _one_scan(scorer, examples)
        with gr.Tab("Several scans"):
            _several_scans(scorer, limits)
        with gr.Tab("About"):
            gr.HTML(about(predict.loaded.describe(), limits, examples))
        page.unload(_forgetter(scorer))
    return page


def _forgetter(scorer: Scorer) -> Any:
    def forget(request: gr.Request) -> None:
        scorer.forget(request.session_hash)

    return forget


def _upload(scorer: Scorer, label: str, name: str) -> gr.File:
    """A box for files, which are remembered with the page that they belong to."""
    box = gr.File(label=label, file_count="multiple", height=150, elem_id=name)

    def arrived(paths: list[str] | None, request: gr.Request) -> None:
        scorer.store.arrived(request.session_hash, paths or [])

    box.upload(arrived, box, None, queue=False, show_progress="hidden", api_visibility="private")
    return box


def _when_clicked(button: gr.Button, score: Any, inputs: list, outputs: list) -> None:
    """Run in the queue, saying at once that it waits; when the queue is full, that."""
    how = {"concurrency_limit": 2, "concurrency_id": "scan"}
    how |= {"show_progress": "hidden", "api_visibility": "private"}
    shown = outputs[0]
    button.click(None, None, shown, js=_says(waiting("Waiting for a free place", 0, 0)))
    scored = button.click(score, inputs, outputs, **how)
    scored.failure(None, None, shown, js=_says(failure(_NOT_TAKEN)))


def _says(html: str) -> str:
    """JavaScript that puts ``html`` in place without asking the server."""
    return f"() => {json.dumps(html)}"


def _one_scan(scorer: Scorer, examples: Sequence[dict[str, str]]) -> None:
    upload = _upload(scorer, "A zip of a DICOM folder, DICOM files, or NIfTI", "ctv-upload")
    button, policy = _start("Read and score", "ctv-run")
    tries = []
    if examples:
        with gr.Row(elem_classes="ctv-tries"):
            tries = [gr.Button(f"Example: {one['title']}", size="sm") for one in examples]
    shown = gr.HTML(nothing_yet(), elem_id="ctv-result")

    def score(paths: list[str] | None, policy: str, request: gr.Request) -> Iterator[tuple]:
        yield from _follow_one(scorer.one(paths or [], policy, request.session_hash))

    # the upload box is emptied: its files are gone, and their names need not stay in sight
    _when_clicked(button, score, [upload, policy], [shown, upload])
    for chosen, example in zip(tries, examples, strict=True):
        example_score = _example(scorer, Path(example["path"]))
        _when_clicked(chosen, example_score, [policy], [shown, upload])


def _start(words: str, name: str) -> tuple[gr.Button, gr.Radio]:
    button = gr.Button(words, variant="primary", elem_id=name)
    with gr.Accordion("Options", open=False):
        policy = gr.Radio(_POLICIES, value="strict", label="Where the geometry is doubtful")
    return button, policy


def _example(scorer: Scorer, path: Path) -> Any:
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
    label = f"Up to {limits.scans} scans, each a zip or a NIfTI file"
    upload = _upload(scorer, label, "ctv-batch-upload")
    button, policy = _start("Read and score all", "ctv-batch-run")
    gr.HTML(
        '<div class="ctv-soft">The table has one row a scan, numbered in the order of the list '
        "above; names of files, which may be names of people, appear nowhere.</div>"
    )
    shown = gr.HTML("", elem_id="ctv-batch-result")

    def score(paths: list[str] | None, policy: str, request: gr.Request) -> Iterator[tuple]:
        rows: list[dict[str, Any]] = []
        total = len(paths or [])
        with scorer.many(paths or [], policy, request.session_hash, rows) as job:
            for now in job.looks():
                table = batch_table(list(rows), total, None) if rows else ""
                yield table + waiting(now.stage, now.done, now.total), None
        if job.error is not None:
            yield failure(str(job.error)), None
        else:
            yield batch_table(rows, total, f"{PREFIX}/{job.result.token}/get/table.csv"), None

    _when_clicked(button, score, [upload, policy], [shown, upload])
