"""``ct-video-hf inspect``: geometry and findings of a scan, or the counts of a prepared set."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import textwrap
from pathlib import Path

_EPILOG = """\
examples:
  ct-video-hf inspect study_folder
  ct-video-hf inspect study.zip --policy repair --picture study.png
  ct-video-hf inspect study_folder --list-series
  ct-video-hf inspect prepared_set --json
  ct-video-hf inspect prepared_set --report set.html --picture clips.png

policies:
  strict   refuse a scan whose geometry is in doubt (default)
  warn     read it as it is, where a volume still makes sense, and say what is wrong
  repair   also bring it onto a uniform grid where that is geometry and not invention

Exit code 1 means that the scan cannot be read under the policy. Not for clinical use.
"""

#: Findings shown as text; --json shows them all.
_SHOWN = 12
_WIDTH = 98


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``inspect``."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "scan", help="a DICOM folder, file or zip, a NIfTI file, or the folder of a prepared set"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document to stdout")
    parser.add_argument(
        "--policy",
        choices=("strict", "warn", "repair"),
        default="strict",
        help="what to do about findings (default: strict)",
    )
    parser.add_argument(
        "--series",
        metavar="X",
        help="the series to read: '#n' of --list-series, a series number, or its UID",
    )
    parser.add_argument("--list-series", action="store_true", help="list the series and stop")
    parser.add_argument(
        "--picture",
        metavar="OUT.png",
        type=_png,
        help="write the three middle planes in a lung window; of a set, a contact sheet of clips",
    )
    parser.add_argument(
        "--report",
        metavar="OUT.html",
        type=_html,
        help="of a prepared set: counts, labels, histograms and clips as one HTML file",
    )


def _png(name: str) -> str:
    return _output(name, ".png")


def _html(name: str) -> str:
    return _output(name, ".html")


def _output(name: str, ending: str) -> str:
    if not name.lower().endswith(ending):
        raise argparse.ArgumentTypeError(f"{Path(name).name} does not end in {ending}")
    if not Path(name).absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder for {Path(name).name}")
    return name


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 when the scan can be read.

    With ``--json`` every failure is a JSON document too; one of the scan names its findings.
    """
    from ..errors import CTVideoError

    try:
        return _run(args)
    except (CTVideoError, OSError, ValueError) as error:
        if not args.json or args.traceback:
            raise
        _print_json(
            {
                "error": str(error),
                "code": getattr(error, "code", type(error).__name__),
                "policy": args.policy,
                "findings": getattr(error, "findings", []),
            }
        )
        return 1


def _run(args: argparse.Namespace) -> int:
    path = Path(args.scan)
    if _is_prepared_set(path):
        return _inspect_set(path, args)
    if args.report:
        args.wrong_use("--report is for prepared sets; --picture shows a scan")
    if not args.verbose:  # findings are printed below, once
        logging.getLogger("ct_video_hf.dicom").setLevel(logging.ERROR)
    from ..dicom import CTReadError

    try:
        return _list_series(args) if args.list_series else _inspect_scan(args)
    except CTReadError as error:
        if not args.json:
            _print_findings(error.findings)
        raise


def _is_prepared_set(path: Path) -> bool:
    """Whether a folder holds a set, whole or not; such files may lie beside DICOM files, too."""
    named = ("manifest.json", "parameters.json")
    return (path / "studies").is_dir() and any((path / name).is_file() for name in named)


def _inspect_scan(args: argparse.Namespace) -> int:
    from ..dicom import read_ct

    volume = read_ct(
        args.scan,
        args.policy,
        series=args.series,
        progress=not (args.json or args.quiet) and sys.stderr.isatty(),
    )
    picture = None
    if args.picture:
        from ..dicom.picture import save_picture

        picture = save_picture(volume, args.picture)
    if args.json:
        _print_json(volume.report.to_dict())
        return 0
    _print_report(volume)
    if picture:
        print(f"picture      {picture}")
    return 0


def _list_series(args: argparse.Namespace) -> int:
    from ..dicom import find_series

    found = find_series(args.scan)
    if args.json:
        _print_json({"series": [series.to_dict() for series in found]})
        return 0
    for series in found:
        print(f"{'*' if series.chosen else ' '} {series.describe()}")
    print("* is read unless --series names another")
    return 0


def _inspect_set(path: Path, args: argparse.Namespace) -> int:
    from ..data import summarize_set

    summary, written = _picture_set(path, args) if args.report or args.picture else (None, [])
    summary = summary or summarize_set(path)
    if args.json:
        _print_json(summary)
        return 0
    _print_summary(summary)
    for file in written:
        print(file)
    return 0


def _picture_set(path: Path, args: argparse.Namespace) -> tuple[dict, list[str]]:
    """The counts of a set, and a line for each file that was written."""
    from ..data.overview import describe_set, save_contact_sheet
    from ..data.overview_page import save_page

    overview = describe_set(path)
    written = []
    if args.report:
        written.append(f"report       {save_page(overview, args.report)}")
    if args.picture:
        written.append(f"picture      {save_contact_sheet(overview, args.picture)}")
    return overview.summary, written


def _print_summary(summary: dict) -> None:
    """A table of the splits, then everything else."""
    splits = summary.get("splits", {})
    if splits:
        names = list(next(iter(splits.values())))
        width = max(map(len, names)) + 2
        print(" " * width + "".join(f"{split:>14}" for split in splits))
        for name in names:
            cells = (_cell(counts[name]) for counts in splits.values())
            print(f"{name.replace('_', ' '):{width}}" + "".join(f"{cell:>14}" for cell in cells))
    source = summary.get("provenance", {})
    told = {("source" if name == "name" else name): value for name, value in source.items()}
    for name, value in (summary | told).items():
        if name in ("splits", "provenance") or value == "":
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{key} {entry}" for key, entry in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value)) or "none"
        head = f"{name.replace('_', ' '):16} "
        print(textwrap.fill(f"{head}{value}", _WIDTH, subsequent_indent=" " * len(head)))


def _cell(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _print_json(document: dict) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def _print_report(volume) -> None:
    from ..dicom.syntax import describe_syntax

    report = volume.report
    spacing = " x ".join(f"{length:.4g}" for length in report.spacing_mm)
    z = volume.z_mm
    scanner = [
        report.manufacturer,
        report.kernel and f"kernel {report.kernel}",
        report.kvp and f"{report.kvp:g} kV",
        report.slice_thickness_mm and f"slices {report.slice_thickness_mm:g} mm thick",
    ]
    lines = [
        ("volume", f"{report.slices} slices of {report.rows} x {report.columns}"),
        ("spacing", f"{spacing} mm (slice, row, column)"),
        ("orientation", f"{report.orientation}, {report.oblique_degrees:.2f} degrees oblique"),
        ("z", f"{z[0]:.2f} to {z[-1]:.2f} mm, feet to head"),
        ("values", f"{report.hu_min} to {report.hu_max} HU"),
        ("modality", report.modality or "not named"),
        ("scanner", ", ".join(filter(None, scanner)) or "not named"),
        ("source", report.source),
        ("encoding", ", ".join(map(describe_syntax, report.transfer_syntaxes))),
        ("policy", report.policy),
    ]
    for name, text in lines:
        if text:
            print(f"{name:12} {text}")
    _print_findings([finding.to_dict() for finding in report.findings])
    print("Not for clinical use.")


def _print_findings(findings: list[dict]) -> None:
    if not findings:
        print("findings     none")
        return
    from ..dicom.report import most_severe_first

    print("findings")
    for finding in most_severe_first(findings)[:_SHOWN]:
        head = f"  {finding['severity']:8} {finding['code']}: "
        print(
            textwrap.fill(
                finding["message"],
                _WIDTH,
                initial_indent=head,
                subsequent_indent=" " * 11,
                break_on_hyphens=False,
            )
        )
    if len(findings) > _SHOWN:
        print(f"  and {len(findings) - _SHOWN} more; --json shows all")
