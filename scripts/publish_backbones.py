#!/usr/bin/env python3
"""Convert, verify and push the published weights of every backbone to the Hub, as one collection.

    python3 scripts/publish_backbones.py --namespace NAME --dry-run
    python3 scripts/publish_backbones.py --namespace NAME --only slow_r50 swin3d_t:kinetics

Repositories are private unless --public is given. Weights keep their own terms, which each card
states; those without a licence to pass them on are never pushed. A run that was cut off goes on
with the same command. Exit code 1 when a row failed; the others are done all the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Publish, or list what would be published."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--namespace", required=True, metavar="NAME", help="user or organisation")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW",
                        help="names of backbones, or backbone:weights")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="list, download and send nothing")
    parser.add_argument("--public", action="store_true", help="to public repositories")
    parser.add_argument("--work", type=Path, default=Path("published"), metavar="DIR",
                        help="for models on their way and state (default: published)")  # fmt: skip
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="where downloads are kept")
    args = parser.parse_args(argv)

    from ct_video_hf.errors import CTVideoError
    from ct_video_hf.hub.publishing import collect, list_rows, publish_rows

    try:
        rows = list_rows(args.namespace, args.only)
        if not args.dry_run:
            options = {"private": not args.public, "cache_dir": args.cache_dir}
            rows = publish_rows(rows, args.work, tell=_tell, **options)
    except CTVideoError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    failed = sum(row.status == "failed" for row in rows)
    if args.dry_run:
        for row in rows:
            _tell(row)
        print(f"{len(rows)} rows; nothing was downloaded or sent")
        return 0
    counts = {status: sum(row.status == status for row in rows) for status in _STATUS}
    print(", ".join(f"{count} {status}" for status, count in counts.items() if count))
    try:
        slug = collect(rows, args.namespace, private=not args.public)
    except CTVideoError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"collection {slug}")
    return 1 if failed else 0


_STATUS = ("pushed", "there", "not allowed", "failed")


def _tell(row) -> None:
    size = "size unknown" if row.megabytes is None else f"{row.megabytes:.0f} MB"
    print(f"{row.repo:44} {size:>12}  {row.status:11}  {row.note or row.license}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
