#!/usr/bin/env python3
"""The whole road on generated studies: scans, prepared set, finetuned model, predictions.

    python3 scripts/quickstart.py

1. writes generated chest CT studies as DICOM (nodules among vessels: only a network that looks
   across slices can tell them apart) and measures that nothing simpler gives the label away;
2. prepares them; 3. trains a small video network, and as a control the same network without kernels
across slices; 4. scores both on held-out studies, with intervals; 5. loads the saved model in a new
process and predicts on a held-out generated study and on a real scan (an excerpt of LIDC-IDRI).

Every step is a command that is printed before it runs, and that works on your own data as well. An
interrupted run goes on when the script is started again with the same options. The
model it makes knows spheres in a phantom: it says nothing about patients. Not for clinical use.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from _environment import ROOT, ensure

EXCERPT = ROOT / "tests" / "data" / "lidc_idri_0001"
NETWORKS = {
    "slow_tiny": "3D network",
    "slow_tiny_2d": "control without kernels across slices",
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "quickstart_output", help="folder for all results"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the studies and the training")
    parser.add_argument(
        "--studies",
        nargs=3,
        type=int,
        default=[240, 40, 100],
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="studies to generate (default: 240 40 100)",
    )
    parser.add_argument("--epochs", type=int, default=4, help="passes over the clips (default: 4)")
    return parser.parse_args()


class Road:
    """Runs the steps one after the other and keeps what they measured."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.out: Path = args.out
        self.start = time.monotonic()

    def step(self, title: str) -> None:
        """Announce a step with the time gone by."""
        minutes, seconds = divmod(int(time.monotonic() - self.start), 60)
        print(f"\n== {title}  [{minutes}:{seconds:02d}]", flush=True)

    def command(self, *words: object) -> None:
        """Print and run a ct-video-hf command in a process of its own; stop when it fails."""
        shown = [str(word) for word in words]
        print(f"$ ct-video-hf {shlex.join(shown)}", flush=True)
        finished = subprocess.run([sys.executable, "-m", "ct_video_hf", *shown], check=False)
        if finished.returncode:
            sys.exit(finished.returncode)

    def prepare(self) -> None:
        """Write the studies as DICOM, prepare them, and look for cheap roads to the label."""
        from ct_video_hf.data import load_prepared
        from ct_video_hf.evaluation.shortcuts import shortcut_scores

        self.step("generated studies, as DICOM and as a prepared set")
        self.command(
            *("prepare", "phantom", "--data-dir", self.out / "dicom", "--out", self.out / "set"),
            *("--studies", *self.args.studies, "--seed", self.args.seed, "--size", 72),
        )
        self.step("can the label be told without looking across slices?")
        print("AUROC over all studies, 95 % interval; 0.5 is chance")
        scores = shortcut_scores(load_prepared(self.out / "set", "all"), seed=self.args.seed)
        for name, score in scores.items():
            print(f"  {name:<36} {score.value:.3f}  ({score.low:.3f} to {score.high:.3f})")

    def train(self) -> None:
        """Train the network and its control with the same settings."""
        for backbone, title in NETWORKS.items():
            self.step(f"training {backbone}: {title}")
            self.command(
                *("train", "--data", self.out / "set", "--output", self.out / backbone),
                *("--backbone", backbone, "--num-frames", 16, "--stride", 8, "--crop-size", 64),
                *("--windows=-600,1500", "--epochs", self.args.epochs, "--batch-size", 16),
                *("--lr", 0.005, "--channels-last", "true", "--seed", self.args.seed, "--resume"),
            )

    def predict(self) -> dict:
        """Predict in a new process on one held-out study of either class and on the real scan."""
        self.step("a new process loads the model and predicts")
        studies = self._held_out()
        answers = {}
        for name, path in (*studies, ("real LIDC-IDRI excerpt", EXCERPT)):
            pictures = self.out / "pictures"
            table = self.out / "predictions" / f"{name.replace(' ', '_')}.csv"
            table.parent.mkdir(parents=True, exist_ok=True)
            model = self.out / "slow_tiny"
            self.command("predict", model, path, "--out", table, "--pictures", pictures)
            with table.open(encoding="utf-8") as stream:
                row = next(csv.DictReader(stream))
            answers[name] = (float(row["probability"]), row["calibrated"] == "True")
        return answers

    def _held_out(self) -> list[tuple[str, Path]]:
        """The first test study of either class, by the order of the labels table."""
        found: dict[str, Path] = {}
        with (self.out / "dicom" / "labels.csv").open(encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                if row["split"] == "test":
                    found.setdefault(row["label"], self.out / "dicom" / row["study"])
        return [("held-out study with nodule", found["1"]), ("held-out study without", found["0"])]

    def summary(self, answers: dict) -> None:
        """What was measured and where everything lies."""
        self.step("measured on the held-out test studies")
        for backbone, title in NETWORKS.items():
            metrics = json.loads((self.out / backbone / "metrics.json").read_text("utf-8"))
            for name in ("study/auroc", "clip/auroc"):
                entry = metrics[name]
                print(
                    f"  {backbone:<13} {name:<12} {entry['value']:.3f}"
                    f"  ({entry['low']:.3f} to {entry['high']:.3f})  {title}"
                )
        print("\nstudy probabilities")
        for name, (probability, calibrated) in answers.items():
            print(f"  {name:<28} {probability:.3f}  {'' if calibrated else 'not '}calibrated")
        print("the last is a real patient's scan, on which this phantom model means nothing")
        print("\nwhere everything lies")
        for name, what in (
            ("dicom", "the studies as DICOM, labels.csv, nodules.csv"),
            ("set", "the prepared set with its data card, README.md"),
            ("slow_tiny", "the model folder: weights, config, processor, code, card, figures"),
            ("slow_tiny_2d", "the control"),
            ("predictions", "the predictions of the new process as CSV"),
            ("pictures", "the predicted studies with clip scores and most suspicious slices"),
        ):
            print(f"  {self.out / name!s:<44}  {what}")
        self.step("done. Not for clinical use.")


def main() -> int:
    """Run all steps."""
    args = _arguments()
    ensure(())
    road = Road(args)
    road.prepare()
    road.train()
    answers = road.predict()
    road.summary(answers)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
