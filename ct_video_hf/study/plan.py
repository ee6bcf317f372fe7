"""What a study will cost: cells, parameters, hours and storage, from a short measured probe."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from .clips import RunClips, count_clips, run_options, unmade_set
from .config import StudyConfig
from .grid import Cell, grid_cells, levels, needs
from .probe import Probe, probe_models, probe_start

__all__ = ["format_plan", "plan_study"]

#: Checkpoints that a run keeps at once, each with two optimizer moments beside the weights.
_CHECKPOINTS, _COPIES = 2, 3


def plan_study(config: StudyConfig, *, probe: bool = True) -> dict[str, Any]:
    """The plan of a study, JSON-able.

    Parameters
    ----------
    probe : bool
        Time every network for a moment; without it there are no hours and no storage.

    Returns
    -------
    dict
        ``cells`` (see :meth:`.grid.Cell.to_dict`, each with ``hours`` where known), ``counts`` by
        role, model and data set, ``waves``, ``models`` (parameters, seconds a clip), ``clips`` of
        the runs of each model on each data set and how they are known, ``hours``,
        ``unknown_clips`` (data sets of which nothing is known, so that there are no hours),
        ``storage_gb`` (weights kept at the end; ``scratch_gb`` besides while a cell runs,
        ``sets_gb`` for the sets that the design will make), and ``assumptions`` in words.
    """
    cells = grid_cells(config)
    pairs = list(dict.fromkeys((cell.model, cell.dataset) for cell in cells))
    probes = probe_models(config, pairs) if probe else {}
    clips = count_clips(config, pairs) if probe else {}
    start_s = probe_start() if probe else 0.0
    entries = [
        cell.to_dict() | {"hours": _hours(config, cell, probes, clips, start_s) if probe else None}
        for cell in cells
    ]
    known = [entry["hours"] for entry in entries if entry["hours"] is not None]
    plan: dict[str, Any] = {
        "name": config.name,
        "folder": str(config.folder),
        "cells": entries,
        "counts": {
            key: dict(Counter(entry[key] for entry in entries))
            for key in ("role", "model", "dataset")
        },
        "waves": [len(wave) for wave in levels(config, cells)],
        "models": {},
        "clips": {},
        "hours": sum(known) if len(known) == len(entries) else None,
        "unknown_clips": [],
        "storage_gb": None,
        "scratch_gb": None,
        "sets_gb": None,
    }
    if probe:
        plan |= _measured(config, cells, probes, clips)
    return plan


def _measured(
    config: StudyConfig,
    cells: list[Cell],
    probes: dict[tuple[str, str], Probe],
    clips: dict[tuple[str, str], RunClips],
) -> dict[str, Any]:
    """What the plan says once networks were timed and clips counted."""
    largest = {
        name: max(value.parameters for (model, _), value in probes.items() if model == name)
        for name in {cell.model for cell in cells}
    }
    begun = {
        entry.name for cell in cells for entry in needs(config, cell) if entry.role != "search"
    }
    keep = {"all": {cell.name for cell in cells}, "needed": begun, "none": set()}
    kept = [cell for cell in cells if cell.name in keep[config.keep_weights]]
    used = {cell.dataset for cell in cells}
    unmade = [unmade_set(data) for data in config.data if data.name in used]
    return {
        "models": {
            f"{model} on {data}": {
                "parameters": value.parameters,
                "training_s_a_clip": round(value.step_s, 4),
                "scoring_s_a_clip": round(value.forward_s, 4),
                "clips_at_once": value.batch,
            }
            for (model, data), value in probes.items()
        },
        "clips": {
            f"{model} on {data}": {
                "train": round(value.train),
                "validation": round(value.validation),
                "test": round(value.test),
                "how": value.how,
            }
            for (model, data), value in clips.items()
        },
        "unknown_clips": sorted(
            {data for pair in probes.keys() - clips.keys() for data in pair[1:]}
        ),
        "storage_gb": round(sum(4e-9 * largest[cell.model] for cell in kept), 2),
        "scratch_gb": round(4e-9 * max(largest.values()) * _CHECKPOINTS * _COPIES, 2),
        "sets_gb": round(sum(1e-9 * entry.bytes for entry in unmade if entry is not None), 2),
        "assumptions": _assumptions(clips),
    }


def _assumptions(clips: dict[tuple[str, str], RunClips]) -> str:
    said = [
        "every run lasts all of its steps (early stopping ends most of them sooner)",
        "loading is hidden behind the network",
        "preparing sets, figures and the report take no time",
    ]
    for how, words in (
        ("worked out", "clips of {} as the design's sizes and slice counts give them, no study "
         "rejected"),
        ("expected", "clips of {} as the design expects them, half of those scored in validation"),
    ):  # fmt: skip
        names = sorted({data for (_, data), value in clips.items() if value.how == how})
        said += [words.format(", ".join(names))] if names else []
    return "; ".join(said)


def _hours(
    config: StudyConfig,
    cell: Cell,
    probes: dict[tuple[str, str], Probe],
    clips: dict[tuple[str, str], RunClips],
    start_s: float,
) -> float | None:
    pair = (cell.model, cell.dataset)
    if pair not in clips:
        return None
    probe, count = probes[pair], clips[pair]
    options = run_options(config, config.dataset(cell.dataset), cell.model)
    batch = options["batch_size"] * options["accumulate"]
    epoch = max(1, math.ceil(count.train * cell.fraction / batch))  # steps
    steps = int(options["max_steps"])
    if steps <= 0:
        steps = math.ceil(options["epochs"] * epoch)
    trained = steps * batch * probe.step_s
    validated = count.validation * (_validations(options, steps, epoch) + 1)  # the best once more
    scored = (validated + count.test) * probe.forward_s
    return (trained + scored + start_s) / 3600


def _validations(options: dict[str, Any], steps: int, epoch: int) -> int:
    """How often a run of so many steps validates; ``epoch`` is the steps of one."""
    if options["eval_strategy"] == "no":
        return 0
    if options["eval_strategy"] == "epoch":
        return math.ceil(steps / epoch)
    every = float(options["eval_steps"] or options["logging_steps"])
    return steps // max(1, math.ceil(every * steps) if every < 1 else int(every))


def format_plan(plan: dict[str, Any]) -> str:
    """The plan as a page of text."""
    roles = plan["counts"]["role"]
    lines = [
        f"study {plan['name']}: {len(plan['cells'])} cells "
        f"({', '.join(f'{count} {role}' for role, count in roles.items())}) "
        f"in {len(plan['waves'])} waves of {', '.join(map(str, plan['waves']))}",
        f"folder: {plan['folder']}",
        "",
    ]
    for axis in ("model", "dataset"):
        lines.append(
            f"cells by {axis}: "
            + ", ".join(f"{name} {count}" for name, count in plan["counts"][axis].items())
        )
    if plan["models"]:
        lines += ["", *_model_lines(plan), "", *_cost_lines(plan)]
    return "\n".join(lines)


def _model_lines(plan: dict[str, Any]) -> list[str]:
    lines = [
        f"{'network':<36} {'parameters':>12} {'train s/clip':>13} {'score s/clip':>13} "
        f"{'clips: train':>13} {'validation':>11} {'test':>7}"
    ]
    for name, entry in plan["models"].items():
        clips = plan["clips"].get(name, dict.fromkeys(("train", "validation", "test"), "unknown"))
        lines.append(
            f"{name:<36} {entry['parameters']:>12,} {entry['training_s_a_clip']:>13.4f} "
            f"{entry['scoring_s_a_clip']:>13.4f} {clips['train']:>13} {clips['validation']:>11} "
            f"{clips['test']:>7}"
        )
    return lines


def _cost_lines(plan: dict[str, Any]) -> list[str]:
    hours = f"unknown: of {', '.join(plan['unknown_clips'])} neither the set is there nor expected:"
    if plan["hours"] is not None:
        hours = f"{plan['hours']:.1f} on this machine, one cell after the other"
    storage = (
        f"storage: {plan['storage_gb']} GB of weights kept, {plan['scratch_gb']} GB of checkpoints "
        "for each running cell"
    )
    if plan["sets_gb"]:
        storage += f", {plan['sets_gb']} GB of scans and sets that are to be made"
    return [f"hours: {hours}", storage, f"assumed: {plan['assumptions']}"]
