"""The output folder of a run: made ours at the start, its options kept for a resume."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from ..errors import CTVideoError
from ..evaluation import write_json
from .checkpoints import discard_partial
from .options import OPTIONS

__all__ = ["CONFIG_NAME", "METRICS_NAME", "OPTIONS_NAME", "RunResult", "claim_output", "read_json"]

logger = logging.getLogger(__name__)

CONFIG_NAME = "training_config.json"
METRICS_NAME = "metrics.json"
OPTIONS_NAME = "run_options.json"
#: Options that may differ when a run is resumed: they do not change its result.
_FREE_ON_RESUME = (
    "resume",
    "output",
    "data",
    "workers",
    "eval_batch_size",
    "keep_checkpoints",
    "disable_tqdm",
    "push_to_hub",
    "license",
    "hub_strategy",
    "hub_private_repo",
    "hub_revision",
    "hub_always_push",
)


@dataclass(frozen=True)
class RunResult:
    """A finished run: the model folder, the content of its metrics.json and config, and the push.

    ``push`` is what :meth:`.pushes.PushesToHub.push_finished` tells, with ``error`` if it failed.
    """

    folder: Path
    metrics: dict | None
    config: dict
    push: dict | None = None


def claim_output(output: Path, options: dict, extras: dict) -> RunResult | None:
    """Make the folder ours; the result itself when this very run is finished already."""
    state = PartialState()
    said = {"options": options, "extras": extras}
    with state.main_process_first():
        config_file, options_file = output / CONFIG_NAME, output / OPTIONS_NAME
        if options["resume"] and config_file.is_file():
            logger.warning("the run in %s is finished, nothing to resume", output.name)
            metrics = output / METRICS_NAME
            return RunResult(
                output, read_json(metrics) if metrics.is_file() else None, read_json(config_file)
            )
        if options["resume"] and options_file.is_file():
            _same_options(read_json(options_file), json.loads(json.dumps(said)))
            if state.is_main_process:
                discard_partial(output)
        elif state.is_main_process and _is_used(output):
            raise CTVideoError(
                f"the output folder {output.name} is not empty; choose another one"
                + (", or --resume to go on with its run" if options_file.is_file() else "")
            )
        if state.is_main_process:
            write_json(said, options_file)
    return None


def _is_used(output: Path) -> bool:
    """Whether a folder holds more than the options of a run that failed before its first step."""
    return output.exists() and any(path.name != OPTIONS_NAME for path in output.iterdir())


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _same_options(before: dict, now: dict) -> None:
    added = {name: option.default for name, option in OPTIONS.items()}  # since it was begun
    flat_before = {**added, **before["options"], **before["extras"]}
    flat_now = {**now["options"], **now["extras"]}
    changed = [
        f"{name} {flat_before.get(name)!r} -> {flat_now.get(name)!r}"
        for name in sorted(flat_before.keys() | flat_now.keys())
        if name not in _FREE_ON_RESUME and flat_before.get(name) != flat_now.get(name)
    ]
    if changed:
        raise CTVideoError(
            "a resumed run keeps its options, these have changed: " + "; ".join(changed)
        )
