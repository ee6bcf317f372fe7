"""``ct-video-hf predict``: study probabilities of scans on disk."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["add_arguments", "run"]

_EPILOG = """\
PATH is one scan (a folder of slices, a zip, a NIfTI file) or a folder of studies: a folder with
slice files directly in it is one study; otherwise each zip, NIfTI file and series folder in it is
one, and series folders side by side with the same StudyInstanceUID are one study together. Studies
are named by their path relative to PATH.

A study that cannot be read becomes a row with its error and the others go on; the exit code is
then 1. The study score comes from the clip scores by the rule that the model was validated with,
which the output names. It is not calibrated.

Not for clinical use.
"""


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("model", metavar="MODEL", help="model folder or Hub id (user/model)")
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="scan, or folder of")
    parser.add_argument("--out", type=Path, metavar="CSV", help="write one row a study")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write one PNG a study")
    parser.add_argument(
        "--policy",
        choices=("strict", "warn", "repair"),
        default="strict",
        help="what to do with scans of doubtful geometry (default: %(default)s)",
    )
    parser.add_argument("--revision", help="branch, tag or commit of MODEL on the Hub")
    parser.add_argument("--label", help="label that the study score is about")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="arithmetic of the network (default: %(default)s)",
    )
    parser.add_argument(
        "--stride", type=_positive, metavar="N", help="slices between clips (default: the model's)"
    )
    parser.add_argument(
        "--batch-size", type=_positive, default=4, metavar="N", help="clips at a time (%(default)s)"
    )
    parser.add_argument(
        "--include-ids",
        action="store_true",
        help="give the SOP Instance UIDs of the key slices (identifiers) in the JSON",
    )


def run(args: argparse.Namespace) -> int:
    """Predict; 0 when every study could be read, 1 otherwise."""
    from tqdm.auto import tqdm

    from ..inference import find_studies, pipeline, prediction_row, write_predictions

    studies = find_studies(args.paths)
    predict = pipeline(
        args.model,
        revision=args.revision,
        device=args.device,
        dtype=args.dtype,
        policy=args.policy,
        batch_size=args.batch_size,
        stride=args.stride,
        label=args.label,
    )
    answers, rows, failed = [], [], 0
    outcomes = predict.predict_many(
        [study.path for study in studies],
        include_ids=args.include_ids,
        progress=not args.quiet,
        keep_volumes=args.pictures is not None,
    )
    for study, outcome in zip(studies, outcomes, strict=True):
        rows.append(prediction_row(study.name, outcome.result, outcome.error))
        if outcome.error is not None:
            failed += 1
            answers.append({"study": study.name, "error": str(outcome.error)})
            tqdm.write(f"{study.name}: error: {outcome.error}", file=sys.stderr)
            continue
        answers.append({"study": study.name, **outcome.result})
        if args.pictures is not None:
            _picture(args.pictures, study.name, outcome)
    if args.out is not None:
        write_predictions(rows, args.out)
    _answer(args, answers, rows)
    return 1 if failed else 0


def _picture(folder: Path, name: str, outcome: Any) -> None:
    from ..inference import study_figure

    study_figure(outcome.volume, outcome.result, folder / f"{name.replace('/', '_')}.png")


def _answer(
    args: argparse.Namespace, answers: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> None:
    if args.json:
        if len(answers) > 1:
            print(json.dumps({"studies": answers}, indent=2))
        elif "error" not in answers[0]:
            print(json.dumps(answers[0], indent=2))
        return
    for answer, row in zip(answers, rows, strict=True):
        if "error" in answer:
            continue
        place = f"z {row['best_clip_z_low_mm']:.1f} to {row['best_clip_z_high_mm']:.1f} mm"
        print(f"{row['study']}  {row['label']}  {row['probability']:.4f}  highest clip {place}")
    if args.out is not None:
        print(f"table: {args.out}")
    if args.pictures is not None:
        print(f"pictures: {args.pictures}")
    scored = [answer for answer in answers if "error" not in answer]
    rule = f"Study score: {scored[0]['aggregation']}. " if scored else ""
    print(f"{rule}Not calibrated. Not for clinical use.")
