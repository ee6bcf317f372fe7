"""``ct-video-hf evaluate``: score a model on a split of a prepared set."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

__all__ = ["add_arguments", "run"]

_EPILOG = """\
Metrics of clips are called clip/..., of studies study/...; intervals are 95 % percentile
intervals of a bootstrap over patients. What is not said is taken from the model folder's
training_config.json, so that a model is scored by the rules that it was trained with.

  ct-video-hf evaluate MODEL SET --out results
  ct-video-hf evaluate --predictions results/predictions.parquet --aggregation noisy_or

Not for clinical use.
"""
#: Rules that a training run records and an evaluation follows: option -> value without a record.
_RULES = {"aggregation": "max", "top_k": 3, "study_label": "study", "min_positive_slices": 4}


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
    rules = parser.add_argument_group("rules")
    rules.add_argument("--aggregation", choices=("max", "mean_top_k", "noisy_or"),
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
    running = parser.add_argument_group("running")
    running.add_argument("--batch-size", type=int, default=8, metavar="N",
                         help="clips at once (default: 8)")  # fmt: skip
    running.add_argument("--workers", type=int, default=0, metavar="N",
                         help="processes that load data (default: 0)")  # fmt: skip
    running.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: an accelerator, "
                         "else cpu)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON on stdout")
    parser.set_defaults(wrong_use=parser.error)


def run(args: argparse.Namespace) -> int:
    """Score, write what was asked for, print the metrics."""
    if args.predictions is None and (args.model is None or args.data is None):
        args.wrong_use("MODEL and SET are needed, or --predictions FILE")
    if args.predictions is not None and args.model is not None:
        args.wrong_use("give MODEL and SET, or --predictions FILE, not both")
    from ..evaluation import evaluate_predictions, format_metrics, read_predictions

    rules = _rules(args)
    if args.predictions is None:
        table = _score(args, rules)
    else:
        table = read_predictions(args.predictions)
    how = {
        "aggregation": rules["aggregation"],
        "top_k": rules["top_k"],
        "label_from": rules["study_label"],
    }
    report = evaluate_predictions(table, resamples=args.resamples, seed=args.seed, **how)
    if args.out is not None:
        _write(Path(args.out), table, report, how, args)
    if args.json:
        print(json.dumps(report, indent=2, allow_nan=False))
    else:
        print(format_metrics(report))
        print(f"\nstudy score: {report['aggregation']} over clips; {report['interval']}")
        if args.out is not None:
            print(f"written to {args.out}")
    return 0


def _rules(args: argparse.Namespace) -> dict[str, Any]:
    """Each rule from the command line, else from the model's training, else its default."""
    recorded = {}
    record = Path(args.model or "") / "training_config.json"
    if args.model is not None and record.is_file():
        recorded = json.loads(record.read_text(encoding="utf-8")).get("arguments", {})
    rules = {}
    for name, default in _RULES.items():
        said = getattr(args, name)
        rules[name] = recorded.get(name, default) if said is None else said
    return rules


def _score(args: argparse.Namespace, rules: dict[str, Any]):
    import torch
    from transformers import AutoModelForVideoClassification

    from ..data import load_ct_dataset
    from ..evaluation.score import default_device, score_clips
    from ..models import CTVideoProcessor
    from ..training.inputs import clip_dataset

    studies = load_ct_dataset(args.data, split=args.split)
    processor = CTVideoProcessor.from_pretrained(args.model)
    model = AutoModelForVideoClassification.from_pretrained(args.model)
    dataset = clip_dataset(
        studies, processor, train=False, min_positive_slices=rules["min_positive_slices"]
    )
    return score_clips(
        model,
        dataset,
        batch_size=args.batch_size,
        workers=args.workers,
        device=torch.device(args.device) if args.device else default_device(),
        progress=not args.quiet,
    )


def _write(out: Path, table, report: dict, how: dict, args: argparse.Namespace) -> None:
    from ..evaluation import write_json, write_predictions
    from ..evaluation.figures import plot_roc, plot_scores

    write_predictions(table, out)
    plot_roc(table, out / "figures" / "roc.png", resamples=args.resamples, seed=args.seed, **how)
    plot_scores(table, out / "figures" / "scores.png", **how)
    write_json(report, out / "metrics.json")
