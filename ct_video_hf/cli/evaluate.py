"""``ct-video-hf evaluate``: score a model on a split of a prepared set."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..evaluation import Calibration, LabelCalibrations

    Held = Calibration | LabelCalibrations

__all__ = ["add_arguments", "run"]

_EPILOG = """\
Metrics of clips are called clip/..., of studies study/...; intervals are 95 % percentile
intervals of a bootstrap over patients. Rules that are not given are those that the model was
trained with (config.json and training_config.json hold them).

  ct-video-hf evaluate MODEL SET --out results
  ct-video-hf evaluate --predictions results/predictions.parquet --aggregation noisy_or

Not for clinical use.
"""
#: Rules that are neither given nor known of a model.
_DEFAULTS = {"aggregation": "max", "top_k": 3, "study_label": "study", "min_positive_slices": 4}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("model", nargs="?", metavar="MODEL", help="model folder or Hub id")
    parser.add_argument("data", nargs="?", metavar="SET", help="prepared set")
    parser.add_argument("--predictions", metavar="FILE", help="instead of MODEL and SET: score "
                        "again from a predictions table")  # fmt: skip
    parser.add_argument("--split", default="test", help="split to score (default: test)")
    parser.add_argument("--out", metavar="DIR", help="write metrics.json, the predictions and "
                        "figures into this folder")  # fmt: skip
    parser.add_argument("--revision", help="branch, tag or commit of MODEL on the Hub")
    rules = parser.add_argument_group("rules")
    rules.add_argument("--aggregation", choices=("max", "mean_top_k", "noisy_or", "attention"),
                       help="clip scores to a study score")  # fmt: skip
    rules.add_argument("--top-k", type=int, metavar="K", help="clips that mean_top_k averages")
    rules.add_argument("--study-label", choices=("study", "clips"),
                       help="a study is positive by its own label, or when a clip is")  # fmt: skip
    rules.add_argument("--min-positive-slices", type=int, metavar="N",
                       help="a clip with this many positive slices is positive")  # fmt: skip
    rules.add_argument("--resamples", type=int, default=2000, metavar="N",
                       help="bootstrap resamples (default: 2000)")  # fmt: skip
    rules.add_argument("--seed", type=int, default=0, metavar="N",
                       help="of the resamples (default: 0)")  # fmt: skip
    rules.add_argument("--calibrate", choices=("temperature", "isotonic"),
                       help="fit a calibration on these studies (use --split validation) and keep "
                       "it in the folder MODEL, where prediction uses it")  # fmt: skip
    running = parser.add_argument_group("running")
    running.add_argument("--batch-size", type=int, default=8, metavar="N",
                         help="clips at once (default: 8)")  # fmt: skip
    running.add_argument("--workers", type=int, default=0, metavar="N",
                         help="processes that load data (default: 0)")  # fmt: skip
    running.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: an accelerator, "
                         "else cpu)")  # fmt: skip
    running.add_argument("--precision", choices=("fp32", "bf16"), default="fp32",
                         help="bf16: score as `predict --dtype bfloat16` does, and in float32 "
                         "beside it, and tell what 16 bits change (default: fp32)")  # fmt: skip
    running.add_argument("--backend", choices=("auto", "eager", "fast"), default="auto",
                         help="of --precision bf16, as of `predict` (default: auto)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    """Score, write what was asked for, print the metrics."""
    if args.predictions is None and (args.model is None or args.data is None):
        args.wrong_use("MODEL and SET are needed, or --predictions FILE")
    if args.predictions is not None and args.model is not None:
        args.wrong_use("give MODEL and SET, or --predictions FILE, not both")
    if args.calibrate and (args.model is None or not Path(args.model).is_dir()):
        args.wrong_use("--calibrate needs MODEL to be a folder, which it writes into")
    from ..evaluation import (
        compare_arithmetic,
        evaluate_predictions,
        format_metrics,
        read_calibration,
        read_predictions,
    )
    from ..files import check_writable

    if args.out is not None:
        check_writable(args.out)
    exact = None
    if args.predictions is None:
        table, rules, left_out, held, exact = _score(args)
    else:
        table, rules, left_out = read_predictions(args.predictions), _rules(args, {}), None
        held = read_calibration(Path(args.predictions).parent)
    how = {
        "aggregation": rules["aggregation"],
        "top_k": rules["top_k"],
        "label_from": rules["study_label"],
    }
    calibration = _calibration(args, table, how, held)
    shown = None if args.calibrate else calibration  # on what it was fitted on it would flatter
    draws = {"resamples": args.resamples, "seed": args.seed}
    report = evaluate_predictions(table, left_out=left_out, calibration=shown, **draws, **how)
    if exact is not None:
        truth, computed_by = exact
        found = compare_arithmetic(truth, table, **draws, **how)
        report["arithmetic"] = found | {"computed_by": computed_by}
    if args.out is not None:
        from ..evaluation.evidence import write_report

        write_report(Path(args.out), table, report, shown, **draws, **how)
    if args.json:
        print(json.dumps(report, indent=2, allow_nan=False))
    else:
        print(format_metrics(report))
        if args.out is not None:
            print(f"written to {args.out}")
    return 0


def _rules(args: argparse.Namespace, of_model: Mapping[str, Any]) -> dict[str, Any]:
    """Each rule as given on the command line, else as the model has it, else its default."""
    given = {name: getattr(args, name) for name in _DEFAULTS}
    return _DEFAULTS | {
        name: value
        for source in (of_model, given)
        for name, value in source.items()
        if value is not None
    }


def _score(args: argparse.Namespace) -> tuple:
    """Table, rules to score it by, what it leaves out, the model's calibration, exact table.

    The last is the table in float32, and what computed the other one, where 16 bits were asked
    for, else None.
    """
    import torch

    from ..data import load_ct_dataset
    from ..errors import CTVideoError
    from ..evaluation.score import default_device, score_clips
    from ..evaluation.tables import left_out
    from ..inference import CTVideoPipeline, attention_for, load_model
    from ..training.inputs import clip_dataset

    studies = load_ct_dataset(args.data, split=args.split)
    loaded = load_model(args.model, revision=args.revision)
    recorded = loaded.training.get("arguments", {})
    of_model = {name: recorded.get(name) for name in ("study_label", "min_positive_slices")}
    of_model |= dict(zip(("aggregation", "top_k"), loaded.aggregation, strict=True))
    rules = _rules(args, of_model)
    attention_for(loaded, rules["aggregation"])
    dataset = clip_dataset(
        studies,
        loaded.processor,
        train=False,
        min_positive_slices=rules["min_positive_slices"],
        labels=_labels_of(loaded, args.data, studies),
    )
    device = torch.device(args.device) if args.device else default_device()
    common = {"batch_size": args.batch_size, "workers": args.workers, "progress": not args.quiet}
    common["attention"] = loaded.attention  # whatever the rule: the table serves any
    table = score_clips(loaded.model, dataset, device=device, **common)
    exact = None
    if args.precision == "bf16" and dataset.index.labels.shape[1] > 1:
        raise CTVideoError("--precision bf16 compares models of one label")
    if args.precision == "bf16":
        narrow = CTVideoPipeline(loaded, device=device, dtype="bfloat16", backend=args.backend)
        other = score_clips(None, dataset, scorer=narrow.clip_values, **common)
        exact, table = (table, f"{narrow.backend.name}, {narrow.backend.precision}"), other
    return table, rules, left_out(dataset), loaded.calibration, exact


def _labels_of(loaded, data: str, studies):
    """The model's labels among those of the set, by their names; None where both have one."""
    from ..data.label_choice import choose_labels
    from ..errors import CTVideoError

    config = loaded.model.config
    names = [str(config.id2label[place]) for place in range(config.num_labels)]
    found = choose_labels(data, studies)
    if config.num_labels == 1 and len(found) <= 1:
        return None
    if not set(names) <= set(found.names):
        raise CTVideoError(
            f"{loaded.name} scores {', '.join(names)}; the set has the labels "
            f"{', '.join(found.names) or 'none'}"
        )
    return choose_labels(data, studies, names)


def _calibration(
    args: argparse.Namespace, table: DataFrame, how: dict, held: Held | None
) -> Held | None:
    """The one to fit now, or the model's where it was fitted by the same rules on other studies."""
    from ..evaluation import calibrate_table
    from ..evaluation.calibration_labels import holds_for

    if args.calibrate:
        calibration = calibrate_table(table, args.calibrate, **how)
        calibration.write(args.model)
        print(f"calibration written to {args.model}: {calibration.words()}", file=sys.stderr)
        return calibration
    return held if held is not None and holds_for(held, table, how) else None
