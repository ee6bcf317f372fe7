"""``ct-video-hf study``: plan, run and report a grid of training runs."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..study import StudyConfig, StudyState

__all__ = ["add_arguments", "run"]

_EPILOG = """\
DESIGN is a YAML or JSON file, or the name of a design that comes with the package: paper (the whole
grid of arXiv 2304.00546) or mini (the same design on generated data, for a laptop).

  ct-video-hf study plan mini                 cells, parameters, hours, storage
  ct-video-hf study run mini --jobs 2         runs what is not finished; stop and start at will
  ct-video-hf study status mini
  ct-video-hf study report mini               Markdown, CSV, LaTeX and one HTML page
  ct-video-hf study run my.yaml --engine slurm --sbatch=--gres=gpu:1
  ct-video-hf study run my.yaml --engine ray --address auto --gpus 1

Every cell is an ordinary `ct-video-hf train` in a process of its own. A finished cell is never run
again; a failed one is kept apart until --retry-failed. Not for clinical use.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("action", choices=("plan", "run", "status", "report"), metavar="ACTION",
                        help="plan, run, status or report")  # fmt: skip
    parser.add_argument("design", metavar="DESIGN", help="file, or paper or mini")
    parser.add_argument("--folder", metavar="DIR", help="where the study lives (default: what the "
                        "design says)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the answer as JSON on stdout")
    plan = parser.add_argument_group("plan")
    plan.add_argument("--no-probe", action="store_true",
                      help="count only: no timing, no hours, no storage")  # fmt: skip
    running = parser.add_argument_group("run")
    running.add_argument("--engine", choices=("local", "ray", "slurm"), default="local",
                         help="who runs the cells (default: local); slurm writes array scripts and "
                         "queues nothing")  # fmt: skip
    running.add_argument("--jobs", type=int, default=1, metavar="N",
                         help="local: cells at a time (default: 1)")  # fmt: skip
    running.add_argument("--cell", metavar="NAME", help="run this one cell only")
    running.add_argument("--retry-failed", action="store_true", help="try failed cells again")
    running.add_argument("--workers", type=int, default=1, metavar="N",
                         help="processes that prepare missing sets (default: 1)")  # fmt: skip
    running.add_argument("--address", help="ray: address of the cluster")
    running.add_argument("--gpus", type=float, default=0, metavar="N", help="ray: GPUs a cell")
    running.add_argument("--cpus", type=float, default=1, metavar="N", help="ray: CPUs a cell")
    running.add_argument("--sbatch", action="append", default=[], metavar="OPTION",
                         help="slurm: a further option of sbatch, as --sbatch=--time=24:00:00; "
                         "may be given several times")  # fmt: skip
    running.add_argument("--at-once", type=int, metavar="N", help="slurm: most cells at a time")
    report = parser.add_argument_group("report")
    report.add_argument("--out", metavar="DIR", help="where the report goes (default: report in "
                        "the study's folder)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    from ..study import read_study

    config = read_study(args.design, folder=args.folder)
    action = {"plan": _plan, "run": _run, "status": _status, "report": _report}[args.action]
    return action(args, config)


def _plan(args: argparse.Namespace, config: StudyConfig) -> int:
    from ..study.plan import format_plan, plan_study

    plan = plan_study(config, probe=not args.no_probe)
    print(json.dumps(plan, indent=2, allow_nan=False) if args.json else format_plan(plan))
    return 0


def _state(config: StudyConfig) -> StudyState:
    from ..study import StudyState, grid_cells

    return StudyState(config, grid_cells(config))


def _run(args: argparse.Namespace, config: StudyConfig) -> int:
    from ..study.engines import run_local, run_ray, write_slurm
    from ..study.execute import execute, prepare_sets

    state = _state(config)
    prepare_sets(state, workers=args.workers, progress=not args.quiet)
    if args.cell is not None:
        cell = state.cell(args.cell)
        if args.retry_failed:
            state.folder(cell).failure.unlink(missing_ok=True)
        done = execute(state, cell)
        failure = state.folder(cell).failed()
        if failure:
            print("\n".join(failure["last_lines"]), file=sys.stderr)
        return 0 if done else 1
    common = {"retry_failed": args.retry_failed}
    if args.engine == "slurm":
        scripts = write_slurm(
            state, args.design, sbatch=args.sbatch, at_once=args.at_once, **common
        )
        answer = {"scripts": [str(path) for path in scripts]}
        words = f"{len(scripts) - 1} array scripts written; queue them with: bash {scripts[-1]}"
    else:
        common["progress"] = not args.quiet
        if args.engine == "ray":
            counts = run_ray(state, address=args.address, gpus=args.gpus, cpus=args.cpus, **common)
        else:
            counts = run_local(state, jobs=args.jobs, **common)
        answer = {"cells": counts, "status": _counts(state)}
        words = _sentence(counts, args)
    print(json.dumps(answer, indent=2) if args.json else words)
    return 1 if answer.get("status", {}).get("failed") else 0


def _sentence(counts: dict[str, int], args: argparse.Namespace) -> str:
    words = f"{counts['finished']} cells finished, {counts['failed']} failed"
    if counts["not_started"]:
        words += f", {counts['not_started']} not started (they wait for others)"
    design = shlex.quote(args.design)
    if counts["failed"]:
        words += f"\nwhy: ct-video-hf study status {design}; again: --retry-failed"
    return words + f"\nthe report: ct-video-hf study report {design}"


def _counts(state: StudyState) -> dict[str, int]:
    counts: dict[str, int] = {}
    for cell in state.cells:
        status = state.status(cell)
        counts[status] = counts.get(status, 0) + 1
    return counts


def _status(args: argparse.Namespace, config: StudyConfig) -> int:
    state = _state(config)
    rows = []
    for cell in state.cells:
        folder = state.folder(cell)
        status = state.status(cell)
        row = {"name": cell.name, "role": cell.role, "status": status, "value": None, "why": ""}
        if status == "finished":
            best = folder.record()["best_metric"]
            row["value"] = best["value"] if best else None
        elif status == "failed":
            row["why"] = (folder.failed()["last_lines"] or ["no output"])[-1]
        rows.append(row)
    if args.json:
        print(json.dumps({"cells": rows, "status": _counts(state)}, indent=2, allow_nan=False))
        return 0
    width = max(len(row["name"]) for row in rows)
    print(f"{'cell':<{width}}  {'role':<7} {'status':<9} validation")
    for row in rows:
        value = "" if row["value"] is None else f"{row['value']:.3f}"
        line = f"{row['name']:<{width}}  {row['role']:<7} {row['status']:<9} {value}  {row['why']}"
        print(line.rstrip())
    print(", ".join(f"{count} {status}" for status, count in sorted(_counts(state).items())))
    return 0


def _report(args: argparse.Namespace, config: StudyConfig) -> int:
    from ..study import write_report
    from ..training.record import public_command

    words = ["ct-video-hf", "study", "report", args.design]
    answer = write_report(config, args.out, command=public_command(words))
    if args.json:
        print(json.dumps(answer, indent=2, allow_nan=False))
        return 0
    for sentence in answer["findings"]:
        print(f"- {sentence}")
    print(f"\n{answer['html']}\n{answer['markdown']}")
    return 0
