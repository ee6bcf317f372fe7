"""What a study will cost: cells, parameters, hours and storage, from a short measured probe."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..training.options import resolve
from .config import StudyConfig, StudyData
from .grid import Cell, grid_cells, levels

__all__ = ["Probe", "count_clips", "format_plan", "plan_study", "probe_models"]

#: Checkpoints that a run keeps at once, each with two optimizer moments beside the weights.
_CHECKPOINTS, _COPIES = 2, 3


@dataclass(frozen=True)
class Probe:
    """Measured on this machine for one network on one data set's clips.

    Attributes
    ----------
    parameters : int
    step_s, forward_s : float
        Seconds for one clip in training (forward, backward, optimizer) and in evaluation.
    """

    parameters: int
    step_s: float
    forward_s: float


def _options(config: StudyConfig, data: StudyData, model: str) -> dict[str, Any]:
    """Effective options of the runs of a model on a data set, with ``max_steps`` where given."""
    said = {**config.training, **data.training, **config.model(model).training}
    said |= {"data": "-", "output": "-", "backbone": model}
    options, extras = resolve(("the design", said))
    return options | {"max_steps": int(extras.get("max_steps", -1))}


def count_clips(config: StudyConfig) -> dict[str, dict[str, int]]:
    """Training and scored clips of each data set: counted where the set is there, else expected.

    Returns
    -------
    dict
        data set -> ``train_clips``, ``scored_clips`` (validation and test); empty where neither the
        set nor ``expected`` says.
    """
    from ..data import summarize_set

    counts = {}
    for data in config.data:
        if (data.set / "manifest.json").is_file():
            options = _options(config, data, config.models[0].name)
            rule = {"num_frames": options["num_frames"] or 32, "stride": options["stride"]}
            splits = summarize_set(data.set, **rule)["splits"]
            counts[data.name] = {
                "train_clips": splits.get("train", {}).get("clips", 0),
                "scored_clips": sum(
                    splits.get(name, {}).get("clips", 0) for name in ("validation", "test")
                ),
            }
        else:
            counts[data.name] = dict(data.expected)
    return counts


def _seconds(work, repeats: int) -> float:
    work()  # the first call allocates
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def probe_models(config: StudyConfig, *, repeats: int = 2) -> dict[tuple[str, str], Probe]:
    """Time one clip of every network on every data set, on random input and weights.

    Returns
    -------
    dict
        (model, data set) -> :class:`Probe`. Clips have the sizes of the design.
    """
    import torch

    from ..evaluation.score import default_device
    from ..models import create_model
    from ..training.inputs import model_overrides

    device = default_device()
    found: dict[tuple, Probe] = {}
    probes: dict[tuple[str, str], Probe] = {}
    for data in config.data:
        for entry in config.models:
            options = _options(config, data, entry.name)
            sizes = {**model_overrides(options), "weights": None}
            key = (entry.name, *sorted(map(str, sizes.items())), options["precision"])
            if key not in found:
                model = create_model(entry.name, num_labels=1, **sizes).to(device)
                found[key] = _probe(model, options["precision"], device, repeats)
                del model
                if device.type == "cuda":
                    torch.cuda.empty_cache()
            probes[entry.name, data.name] = found[key]
    return probes


def _probe(model, precision: str, device, repeats: int) -> Probe:
    import torch

    config = model.config
    shape = (1, config.num_frames, config.num_channels, config.image_size, config.image_size)
    pixels = torch.rand(shape, device=device)
    labels = torch.ones(1, 1, device=device)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def autocast():
        return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)

    def step():
        with autocast():
            loss = model(pixel_values=pixels, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        float(loss.detach())

    def score():
        with torch.inference_mode(), autocast():
            float(model(pixel_values=pixels).logits.sum())

    model.train()
    step_s = _seconds(step, repeats)
    model.eval()
    return Probe(sum(p.numel() for p in model.parameters()), step_s, _seconds(score, repeats))


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
        role, model and data set, ``waves``, ``models`` (parameters, seconds a clip), ``hours``,
        ``storage_gb`` (kept at the end; ``scratch_gb`` besides while a cell runs), and
        ``assumptions`` in words.
    """
    cells = grid_cells(config)
    probes = probe_models(config) if probe else {}
    clips = count_clips(config) if probe else {}
    entries = [
        cell.to_dict() | {"hours": _hours(config, cell, probes, clips) if probe else None}
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
        "hours": sum(known) if len(known) == len(entries) else None,
        "storage_gb": None,
        "scratch_gb": None,
    }
    if probe:
        largest = {
            name: max(value.parameters for (model, _), value in probes.items() if model == name)
            for name in {cell.model for cell in cells}
        }
        plan["models"] = {
            f"{model} on {data}": {
                "parameters": value.parameters,
                "training_s_a_clip": round(value.step_s, 4),
                "scoring_s_a_clip": round(value.forward_s, 4),
            }
            for (model, data), value in probes.items()
        }
        kept = [cell for cell in cells if config.keep_weights == "all" or cell.role == "source"]
        plan["storage_gb"] = round(sum(4e-9 * largest[cell.model] for cell in kept), 2)
        plan["scratch_gb"] = round(4e-9 * max(largest.values()) * _CHECKPOINTS * _COPIES, 2)
        plan["assumptions"] = (
            "one clip at a time on this machine; every run lasts all of its epochs (early stopping "
            "ends most of them sooner); loading is hidden behind the network"
        )
    return plan


def _hours(
    config: StudyConfig, cell: Cell, probes: dict[tuple[str, str], Probe], clips: dict
) -> float | None:
    counts = clips[cell.dataset]
    if not {"train_clips", "scored_clips"} <= counts.keys():
        return None
    probe = probes[cell.model, cell.dataset]
    options = _options(config, config.dataset(cell.dataset), cell.model)
    epoch = counts["train_clips"] * cell.fraction
    drawn = epoch * options["epochs"]
    if options["max_steps"] > 0:
        drawn = options["max_steps"] * options["batch_size"] * options["accumulate"]
    # half of what is scored is validation, once an epoch, as far as nothing else is known
    validations = drawn / max(epoch, 1)
    trained = drawn * probe.step_s
    scored = counts["scored_clips"] * (0.5 * validations + 1) * probe.forward_s
    return (trained + scored) / 3600


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
        lines += [
            "",
            f"{'network':<40} {'parameters':>12} {'train s/clip':>13} {'score s/clip':>13}",
        ]
        for name, entry in plan["models"].items():
            lines.append(
                f"{name:<40} {entry['parameters']:>12,} {entry['training_s_a_clip']:>13.3f} "
                f"{entry['scoring_s_a_clip']:>13.3f}"
            )
        hours = "unknown (a set is not there, and expected: is not given)"
        if plan["hours"] is not None:
            hours = f"{plan['hours']:.1f} on this machine, one cell after the other, at most"
        lines += [
            "",
            f"hours: {hours}",
            f"storage: {plan['storage_gb']} GB of weights kept, {plan['scratch_gb']} GB of "
            "checkpoints for each running cell",
            f"assumed: {plan['assumptions']}",
        ]
    return "\n".join(lines)
