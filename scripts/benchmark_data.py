"""Time the road from scans to clips: the published way beside ours.

Four parts, each in a run of its own: ``prepare`` (a series of 300 x 512 x 512 to a set), ``input``
(a clip of 32 x 256 x 256 to network input), ``open`` (a set of 7,279 studies) and ``memory`` (of
preparing 10 and 1,000 studies). The published way is that of the paper's code (arXiv 2304.00546),
re-made from its description: pydicom slice by slice in float64, cv2 INTER_AREA, float32 in HDF5;
clips windowed, rotated with cubic splines by scipy and cropped. Ways take turns, so that whatever
else the machine does touches all of them; medians count; files come from the system's cache.

    python scripts/benchmark_data.py [prepare input open memory] [--repeats 5] [--json]

Needs h5py, scipy and psutil: ``pip install ct-video-hf[benchmark]``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))

from _input_speed import time_input
from _preparing_speed import time_preparing
from _set_scale import measure_memory, time_opening

PARTS: dict[str, Callable[..., dict]] = {
    "prepare": time_preparing,
    "input": time_input,
    "open": time_opening,
    "memory": measure_memory,
}


def show(part: str, result: dict) -> None:
    """One part's figures and goals."""
    print(f"\n{part}")
    for name, values in result.items():
        if name in ("goals", "all_seconds"):
            continue
        if not isinstance(values, dict):
            print(f"  {name:28} {values}")
            continue
        for way, value in values.items():
            print(f"  {way:28} {name.replace('_', ' '):16} {value}")
    for goal in result["goals"]:
        mark = "reached" if goal["met"] else "MISSED "
        print(f"  {mark}  {goal['found']} {goal['what']} (goal {goal['goal']:g})")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Not for clinical use."
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (all)")
    parser.add_argument("--repeats", type=int, default=5, help="turns that are timed (5)")
    parser.add_argument("--studies", type=int, default=24, help="that are prepared in a turn (24)")
    parser.add_argument("--slices", type=int, default=300, help="of such a study (300)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    unknown = sorted(set(args.parts) - set(PARTS))
    if unknown or args.repeats < 1:
        parser.error(f"parts are {', '.join(PARTS)}, not {', '.join(unknown)}; repeats at least 1")
    logging.basicConfig(level=logging.ERROR)
    results = {}
    sizes = {"prepare": {"studies": args.studies, "slices": args.slices}}
    for part in args.parts or PARTS:
        results[part] = PARTS[part](args.repeats, **sizes.get(part, {}))
        if not args.json:
            show(part, results[part])
    if args.json:
        about = {"python": platform.python_version(), "cores": os.cpu_count()}
        print(json.dumps({"environment": about, "results": results}, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
