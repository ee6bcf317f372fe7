"""``ct-video-hf probe``: a linear head on cached features, as a whole model folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

__all__ = ["add_arguments", "run"]

_EPILOG = """\
Fits the head on the train split in seconds, chooses its L2 penalty by study AUROC on the validation
split, scores it on the test split and writes an ordinary model folder: its predictions are those of
the network with that head.

  ct-video-hf features MODEL SET --out set.safetensors
  ct-video-hf probe MODEL set.safetensors SET --output DIR
  ct-video-hf probe MODEL set.safetensors SET --output DIR --keep-head --aggregation attention

The second one leaves the classifier of a finished MODEL as it is, and learns how much each clip of
a study counts (gated attention, arXiv 1802.04712).

Not for clinical use.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("model", metavar="MODEL", help="the model folder or Hub id whose features "
                        "FEATURES holds")  # fmt: skip
    parser.add_argument("features", metavar="FEATURES", type=Path,
                        help="what ct-video-hf features wrote")  # fmt: skip
    parser.add_argument("data", metavar="SET", help="the prepared set that they are of")
    parser.add_argument("--output", metavar="DIR", required=True, help="folder for the model")
    parser.add_argument("--revision", help="branch, tag or commit of MODEL on the Hub")
    parser.add_argument("--labels", nargs="+", metavar="NAME",
                        help="which labels of a set with several (default: all)")  # fmt: skip
    parser.add_argument("--keep-head", action="store_true", help="keep the model's classifier: fit "
                        "only learned attention and the calibration")  # fmt: skip
    parser.add_argument("--class-weights", default="none", metavar="none|balanced|W0,W1",
                        help="weights of negative and positive clips (default: none)")  # fmt: skip
    parser.add_argument(
        "--min-positive-slices",
        type=int,
        default=4,
        metavar="N",
        help="a clip with this many positive slices is positive (default: 4)",
    )
    parser.add_argument("--aggregation", default="max",
                        choices=("max", "mean_top_k", "noisy_or", "attention"),
                        help="clip scores to a study score; attention is learned from the train "
                        "studies (default: max)")  # fmt: skip
    parser.add_argument("--top-k", type=int, default=3, metavar="K",
                        help="clips that mean_top_k averages (default: 3)")  # fmt: skip
    parser.add_argument("--study-label", choices=("study", "clips"), default="study",
                        help="a study is positive by its own label, or when a clip is "
                        "(default: study)")  # fmt: skip
    parser.add_argument("--resamples", type=int, default=2000, metavar="N",
                        help="bootstrap resamples (default: 2000)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N",
                        help="of the resamples and of learned attention (default: 0)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    """Fit, score and save; prints the metrics and where the model is."""
    from ..training.option_list import OPTIONS
    from ..training.options import OptionError

    try:
        class_weights = OPTIONS["class_weights"].read(args.class_weights)
    except OptionError as error:
        args.wrong_use(str(error))
    from ..evaluation import format_metrics
    from ..hub.probe import fit_probe
    from ..inference import load_model
    from ..training.features import read_features

    metrics = fit_probe(
        load_model(args.model, revision=args.revision),
        read_features(args.features),
        args.data,
        args.output,
        labels=args.labels,
        aggregation=args.aggregation,
        top_k=args.top_k,
        study_label=args.study_label,
        min_positive_slices=args.min_positive_slices,
        class_weights=class_weights,
        resamples=args.resamples,
        seed=args.seed,
        keep_head=args.keep_head,
        command=["ct-video-hf", "probe", args.model, str(args.features), args.data],
    )
    if args.json:
        print(json.dumps({"model": args.output, "metrics": metrics}, indent=2, allow_nan=False))
        return 0
    if metrics:
        print(format_metrics(metrics))
    print(f"\nmodel folder: {args.output}")
    return 0
