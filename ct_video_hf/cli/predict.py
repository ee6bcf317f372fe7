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
which the output names. It is calibrated where the model folder has a calibration, which the output
says as well.

--out FILE.csv is a table, one row a study. --out FILE.json holds {"studies": [...]}, for each what
ct_video_hf.pipeline returns: study and label probabilities, every clip with its slices, score and
millimetres, key slices, geometry report, model, timings; "study" is its name, and one that failed
has "error" and "error_type" instead. Both appear only when they are complete.

Started by "accelerate launch -m ct_video_hf predict ...", each process takes its part of the
studies, on a GPU of its own where there is one for each; the first writes all of them in order.

Not for clinical use.
"""


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return value


def _results(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in (".csv", ".json"):
        raise argparse.ArgumentTypeError(f"{text} ends in neither .csv nor .json")
    return path


def _overlays(text: str) -> list[str]:
    kinds = text.split(",")
    for kind in kinds:
        if kind not in ("png", "nifti"):
            raise argparse.ArgumentTypeError(f"{kind!r} is none of png, nifti")
    return kinds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("model", metavar="MODEL", help="model folder or Hub id (user/model)")
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", type=Path, help="a scan, or a folder of studies"
    )
    parser.add_argument(
        "--out",
        type=_results,
        action="append",
        default=[],
        metavar="FILE",
        help="write a table (FILE.csv) or all results (FILE.json); may be given again, for both",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write one PNG a study")
    parser.add_argument(
        "--html", type=Path, metavar="DIR", help="write one self-contained HTML report a study"
    )
    parser.add_argument(
        "--saliency",
        type=Path,
        metavar="DIR",
        help="write where each score comes from: the brightest slices as PNG, and a map over the "
        "scan as NIfTI",
    )
    parser.add_argument(
        "--overlay",
        type=_overlays,
        metavar="KINDS",
        help="what --saliency writes, by commas (default: png,nifti)",
    )
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
        "--backend",
        choices=("auto", "eager", "fast", "onnxruntime", "openvino"),
        default="auto",
        help="what computes the network: PyTorch as it is (eager), or its operations recorded and "
        "fused for a CPU (fast, the same to rounding, checked on the first clip); onnxruntime and "
        "openvino run what ct-video-hf export wrote; auto takes fast where it gains, and what an "
        "exported model needs (default: %(default)s)",
    )
    parser.add_argument(
        "--stride", type=_positive, metavar="N", help="slices between clips (default: the model's)"
    )
    parser.add_argument(
        "--batch-size", type=_positive, default=4, metavar="N", help="clips at a time (%(default)s)"
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="MODEL",
        help="one more model of the same labels, for an ensemble: each scan is read once, and the "
        "probabilities are averaged; may be given again",
    )
    parser.add_argument(
        "--tta",
        choices=("flips",),
        help="test-time augmentation: mean of the logits as it is and mirrored left to right; the "
        "maps of --saliency are means of both, too",
    )
    parser.add_argument(
        "--include-ids",
        action="store_true",
        help="give the SOP Instance UIDs of the key slices (identifiers) in the JSON",
    )


def run(args: argparse.Namespace) -> int:
    """Predict; 0 when every study could be read, 1 otherwise."""
    from ..files import check_writable
    from ..inference import find_studies, pipeline
    from ..inference.ensemble import CTVideoEnsemble
    from ..inference.evidence import way_of
    from ..inference.processes import Processes

    if args.overlay and args.saliency is None:
        args.wrong_use("--overlay says what --saliency DIR writes, which is not given")
    if args.also and args.saliency is not None:
        args.wrong_use("--saliency is about one model; leave --also out")
    studies = find_studies(args.paths)
    folders = [path.parent for path in args.out]
    for folder in (*folders, args.pictures, args.html, args.saliency):
        if folder is not None:
            check_writable(folder)
    processes = Processes()
    mine = processes.mine(studies)
    options = dict(
        device=args.device or processes.device,
        dtype=args.dtype,
        policy=args.policy,
        batch_size=args.batch_size,
        stride=args.stride,
        label=args.label,
        backend=args.backend,
        tta=args.tta,
    )
    predict = pipeline(args.model, revision=args.revision, **options)
    if args.also:
        others = [pipeline(model, **options) for model in args.also]
        predict = CTVideoEnsemble([predict, *others])
    if args.saliency is not None:
        way_of(predict.model)  # refuses a network of an unknown kind before the work
    answers, rows = [], []
    outcomes = predict.predict_many(
        [study.path for study in mine],
        include_ids=args.include_ids,
        progress=not args.quiet and processes.first,
        keep_volumes=any((args.pictures, args.html, args.saliency)),
    )
    try:
        for study in mine:
            outcome = next(outcomes)
            _take(args, study.name, outcome, answers, rows)
            if args.saliency is not None and outcome.error is None:
                answers[-1]["saliency"] = _saliency(args, predict, study, outcome.volume)
            del outcome  # and its volume; zip would hold it while the next one is computed
    except KeyboardInterrupt:
        return _stopped(args, answers, rows, len(mine), processes.rank)
    found = processes.merged(list(zip(answers, rows, strict=True)))
    processes.close()
    if not processes.first:
        return 0
    answers, rows = ([pair[part] for pair in found] for part in (0, 1))
    for path in args.out:
        _write(path, answers, rows)
    _answer(args, answers, rows)
    return 1 if any("error" in answer for answer in answers) else 0


def _take(args: argparse.Namespace, name: str, outcome: Any, answers: list, rows: list) -> None:
    """Add a study's outcome to the answers and the table, and draw its picture."""
    from tqdm.auto import tqdm

    from ..inference import prediction_row

    rows.append(prediction_row(name, outcome.result, outcome.error))
    answers.append(outcome.row(name))
    if outcome.error is not None:
        tqdm.write(f"{name}: error: {outcome.error}", file=sys.stderr)
        return
    if args.pictures is not None:
        _picture(args.pictures, name, outcome)
    if args.html is not None:
        _report(args.html, name, outcome)


def _write(path: Path, answers: list[dict[str, Any]], rows: list[dict[str, Any]]) -> Path:
    from ..evaluation import write_json
    from ..inference import write_predictions

    if path.suffix.lower() == ".json":
        return write_json({"studies": answers}, path)
    return write_predictions(rows, path)


def _stopped(args: argparse.Namespace, answers: list, rows: list, wanted: int, rank: int) -> int:
    """Keep what is finished under another name, so that nobody takes it for the whole."""
    kept = []
    for path in args.out if rows else ():
        partial = path.with_name(f"{path.stem}.partial{rank or ''}{path.suffix}")
        kept.append(str(_write(partial, answers, rows)))
    where = f"; they are in {' and '.join(kept)}" if kept else ""
    print(f"stopped after {len(rows)} of {wanted} studies{where}", file=sys.stderr)
    return 130


def _picture(folder: Path, name: str, outcome: Any) -> None:
    from ..inference import study_figure

    study_figure(outcome.volume, outcome.result, folder / f"{name.replace('/', '_')}.png")


def _report(folder: Path, name: str, outcome: Any) -> None:
    from ..inference import write_html_report

    path = folder / f"{name.replace('/', '_')}.html"
    write_html_report(outcome.volume, outcome.result, path)


def _saliency(args: argparse.Namespace, predict: Any, study: Any, volume: Any) -> dict[str, Any]:
    from ..inference.saliency_files import OVERLAYS, write_saliency

    kinds = args.overlay or OVERLAYS
    found = predict.saliency(volume)
    return write_saliency(found, volume, args.saliency, study.name, kinds, scan=study.path)


def _answer(
    args: argparse.Namespace, answers: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> None:
    if args.json:
        print(json.dumps(answers[0] if len(answers) == 1 else {"studies": answers}, indent=2))
        return
    for answer, row in zip(answers, rows, strict=True):
        if "error" in answer:
            continue
        place = f"z {row['best_clip_z_low_mm']:.1f} to {row['best_clip_z_high_mm']:.1f} mm"
        print(f"{row['study']}  {row['label']}  {row['probability']:.4f}  highest clip {place}")
    for path in args.out:
        print(f"{'results' if path.suffix.lower() == '.json' else 'table'}: {path}")
    if args.pictures is not None:
        print(f"pictures: {args.pictures}")
    if args.html is not None:
        print(f"reports: {args.html}")
    if args.saliency is not None:
        print(f"maps of where the scores come from: {args.saliency}")
    scored = [answer for answer in answers if "error" not in answer]
    if scored:
        first = scored[0]
        words = f"calibrated ({first['calibration']})"
        if not first["calibrated"]:
            words = f"not calibrated ({first['calibration']})"
        print(f"Study score: {first['aggregation']}, {words}. Not for clinical use.")
