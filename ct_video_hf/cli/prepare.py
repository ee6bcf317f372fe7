"""``ct-video-hf prepare``: turn scans into a prepared set."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .prepare_options import FRACTIONS, SPLIT_SEED, add_options

if TYPE_CHECKING:
    from ..data.prepare_options import PrepareOptions, PrepareSummary

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``prepare``."""
    add_options(parser, NAMES)


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
    drawn = (args.fractions, args.split_seed) != (FRACTIONS, SPLIT_SEED)
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
    from ..data.prepare_options import PrepareOptions

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
