#!/usr/bin/env python3
"""Pointing game: does a model's saliency map point at the nodules of generated scans?

    python3 scripts/quickstart.py
    python3 scripts/pointing_game.py quickstart_output/slow_tiny quickstart_output/dicom

PHANTOM is a folder that ``ct-video-hf prepare phantom --data-dir`` wrote (here the quickstart's):
its nodules.csv says where each nodule is. Of every positive study of the split the brightest place
of the map is one point; it hits when it lies in a nodule, or within a tolerance of one. Beside the
share of hits stand its 95 % Wilson interval, the share that points drawn evenly from all that the
network sees would hit, and the share that the points of other studies hit. The network is judged
by nodules that it never saw; where it is not sure of a study, its point counts as any other.

A prepared set knows in which slices its positive findings are and not where in the plane, so that
only generated scans can be asked. They say nothing about patients. Not for clinical use.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help="model folder or Hub id")
    parser.add_argument("phantom", metavar="PHANTOM", type=Path, help="folder of generated scans")
    parser.add_argument("--split", default="test", help="studies to ask (default: %(default)s)")
    parser.add_argument("--studies", type=int, help="positive studies at most (default: all)")
    parser.add_argument(
        "--tolerance-mm",
        type=float,
        help="of the second line (default: half a cell of the network's grid in the plane)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    return parser.parse_args()


def _positives(phantom: Path, split: str) -> dict[str, np.ndarray]:
    """Nodules (nodule, 4) of each positive study: slice, row, column, radius in mm."""
    for name in ("labels.csv", "nodules.csv"):
        if not (phantom / name).is_file():
            sys.exit(
                f"{phantom.name} has no {name}: give the folder that "
                "'ct-video-hf prepare phantom --data-dir FOLDER' wrote."
            )
    with (phantom / "labels.csv").open(encoding="utf-8", newline="") as file:
        studies = {row["study"] for row in csv.DictReader(file) if row["split"] == split}
    nodules = defaultdict(list)
    with (phantom / "nodules.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["study"] in studies:
                place = [float(row[name]) for name in ("slice", "row", "column", "radius_mm")]
                nodules[row["study"]].append(place)
    if not nodules:
        sys.exit(f"{phantom.name} has no positive study in split {split!r}.")
    return {study: np.array(nodules[study]) for study in sorted(nodules)}


class Game:
    """Points, nodules and chances of the studies, in mm from the middle of each volume."""

    def __init__(self) -> None:
        self.points: list[np.ndarray] = []
        self.balls: list[np.ndarray] = []
        self.axes: list[list[np.ndarray]] = []
        self.cells_mm: list[float] = []
        self.scores: list[float] = []

    def add(self, volume, found, nodules: np.ndarray) -> None:
        """Take in a study: its volume, its map and its nodules."""
        spacing = np.array(volume.spacing)
        middle = (np.array(found.shape) - 1) / 2
        best = found.most_suspicious(1)
        index = [best[0][name] for name in ("index", "row", "column")] if best else [np.nan] * 3
        self.points.append((np.array(index) - middle) * spacing)
        centres = (nodules[:, :3] - middle) * spacing
        self.balls.append(np.column_stack([centres, nodules[:, 3]]))
        seen = [np.flatnonzero(w.any(1)) for w in (found.row_weights, found.column_weights)]
        places = [np.arange(len(found)), *seen]
        self.axes.append([(p - m) * s for p, m, s in zip(places, middle, spacing, strict=True)])
        peaks = found.row_weights.argmax(0)[found.row_weights.any(0)]
        cell = np.ptp(peaks) / (len(peaks) - 1) if len(peaks) > 1 else len(seen[0])
        self.cells_mm.append(float(cell * spacing[1]))
        self.scores.append(max(clip["score"] for clip in found.clips))

    def play(self, tolerance_mm: float):
        """The pointing game with a tolerance."""
        from ct_video_hf.evaluation.pointing import pointing_game, share_within

        chances = [
            share_within(axes, balls, tolerance_mm)
            for axes, balls in zip(self.axes, self.balls, strict=True)
        ]
        return pointing_game(np.array(self.points), self.balls, np.array(chances), tolerance_mm)


def _line(result) -> str:
    within = f"within {result.tolerance_mm:.1f} mm of one" if result.tolerance_mm else "in a nodule"
    return (
        f"  {within:<22} {result.hits:3} of {result.studies}  {result.accuracy:.3f} "
        f"({result.low:.3f} to {result.high:.3f})   chance {result.chance:.4f}   "
        f"points of other studies {result.swapped:.3f}"
    )


def main() -> int:
    """Play and print."""
    args = _arguments()
    from tqdm.auto import tqdm

    import ct_video_hf

    positives = _positives(args.phantom, args.split)
    predict = ct_video_hf.pipeline(args.model)
    game = Game()
    for study in tqdm(list(positives)[: args.studies], unit="study"):
        volume = ct_video_hf.read_ct(args.phantom / study)
        found = predict.saliency(volume)
        game.add(volume, found, positives[study])
    tolerance = args.tolerance_mm
    if tolerance is None:
        tolerance = float(np.median(game.cells_mm)) / 2
    results = [game.play(0.0), game.play(tolerance)]
    distances = results[0].distances_mm
    low, middle, high = np.percentile(distances, (25, 50, 75))
    print(f"{found.method}, by {found.backend}, {found.precision}")
    print(f"{len(distances)} positive studies; hits, share, 95 % Wilson interval")
    for result in results:
        print(_line(result))
    print(
        f"  from a nodule's surface: median {middle:.1f} mm (quartiles {low:.1f} to {high:.1f}; "
        f"below 0 is inside); a cell is {np.median(game.cells_mm):.1f} mm wide"
    )
    print(f"  highest clip score of a study: median {np.median(game.scores):.3f}")
    if args.json:
        _write(args.json, found, results)
    return 0


def _write(path: Path, found, results) -> None:
    from ct_video_hf.evaluation import write_json

    rows = [
        {name: value for name, value in vars(result).items() if name != "distances_mm"}
        for result in results
    ]
    answer = {"model": found.model, "method": found.method, "games": rows}
    write_json(answer | {"distances_mm": results[0].distances_mm.tolist()}, path)


if __name__ == "__main__":
    raise SystemExit(main())
