"""Export networks at full size and time their graphs: one clip, and the first study of a process.

Each network has the registry's input size, one label and random weights with live residual
branches. It is exported to each format, which tells how far the graph is from it; then each way
(PyTorch eager, the backend that the library picks, each graph) predicts in a process of its own:
first a whole study, which pays for whatever is set up, then one clip several times.

    python scripts/benchmark_export.py [--backbones slow_r50 ...] [--slices 160] [--out JSON]

Seconds to load a model, to set up and to compute are apart. Needs this checkout, whose tests make
the weights live: pip install "ct-video-hf[export]".
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FORMATS = ("onnx", "openvino")
WAYS = ("eager", "fast", *FORMATS)


def save_network(name: str, folder: Path) -> None:
    """A model folder of the network at its full size, with one label."""
    import torch

    from ct_video_hf.export.parity import random_clips
    from ct_video_hf.hub import save_model_folder
    from ct_video_hf.models import create_model, processor_for
    from tests.models.backbone_cases import enliven

    torch.manual_seed(0)
    processor = processor_for(name)
    with torch.no_grad():
        model = enliven(create_model(name)).eval()
        # logits of about 1: probabilities at 0 or 1 would hide how far a graph is off
        model.classifier.weight /= model(random_clips(processor, 1, seed=0)).logits.abs()
    save_model_folder(model, processor, folder)


def export(name: str, folder: Path, format: str) -> dict[str, Any]:
    """Seconds of an export with its comparison, and what that found."""
    from ct_video_hf.export import export_model

    begin = time.perf_counter()
    parity = export_model(folder / name, folder / f"{name}_{format}", format=format)
    return {
        "seconds": time.perf_counter() - begin,
        "max_difference": parity["max_difference"],
        "largest_logit": parity["compared"]["largest_logit"],
        "outputs": parity["outputs"],
        "mb": sum(
            (folder / f"{name}_{format}" / file).stat().st_size for file in parity["files"]
        ) / 2**20,
    }  # fmt: skip


def predict(name: str, folder: Path, way: str, slices: int, rounds: int) -> dict[str, Any]:
    """A study and then clips, in this process."""
    from benchmark_reading import _peak_mb

    import ct_video_hf
    from tests.support.prediction import chest_hu, volume_of

    begin = time.perf_counter()
    place = folder / (f"{name}_{way}" if way in FORMATS else name)
    options = {} if way in FORMATS else {"backend": "eager" if way == "eager" else "auto"}
    pipeline = ct_video_hf.pipeline(place, device="cpu", **options)
    loaded = time.perf_counter() - begin
    processor = pipeline.processor
    study = pipeline(volume_of(chest_hu(slices, processor.size)))
    clip = volume_of(chest_hu(processor.num_frames, processor.size, seed=1))
    found = [pipeline(clip)["timings_s"]["forward"] for _ in range(rounds)]
    return {
        "load": loaded,
        "setup": study["timings_s"]["setup"],
        "study_forward": study["timings_s"]["forward"],
        "clips": len(study["clips"]),
        "clip": statistics.median(found),
        "study_logit": study["study_logit"],
        "computed_by": study["backend"],
        "peak_mb": _peak_mb(),
    }


def in_a_process(*arguments: str) -> dict[str, Any]:
    """This script in a fresh process, for one step."""
    command = [sys.executable, __file__, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{finished.stderr.strip()[-2000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def lines_of(results: dict[str, Any]) -> list[str]:
    """Tables of exports and of ways."""
    lines = []
    for name, entry in results.items():
        for format, made in entry["exports"].items():
            far = ", ".join(
                f"{what} {value:.1e}"
                for what, value in made["max_difference"].items()
                if value is not None
            )
            lines.append(
                f"{name}, {format}: exported and compared in {made['seconds']:.1f} s, "
                f"{made['mb']:.0f} MB; largest differences: {far}"
            )
    lines.append("| backbone | way | load s | setup s, once | one clip s | "
                 "first study: setup and forward s | peak MB |")  # fmt: skip
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for name, entry in results.items():
        for way, row in entry["ways"].items():
            first = row["setup"] + row["study_forward"]
            lines.append(
                f"| {name} | {way} | {row['load']:.1f} | {row['setup']:.1f} | {row['clip']:.2f} | "
                f"{first:.1f} ({row['clips']} clips) | {row['peak_mb']:.0f} |"
            )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", metavar="NAME", default=["slow_r50"])
    parser.add_argument("--slices", type=int, default=160, help="slices of the study (160)")
    parser.add_argument("--rounds", type=int, default=3, help="times one clip is computed (3)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--step", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
    if args.step:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        (what, folder), name = args.step, args.backbones[0]
        if what.startswith("export "):
            told = export(name, Path(folder), what.removeprefix("export "))
        else:
            told = predict(name, Path(folder), what, args.slices, args.rounds)
        print(json.dumps(told))
        return 0
    from benchmark_models import machine

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.backbones:
            save_network(name, Path(folder) / name)
            results[name] = {"exports": {}, "ways": {}}
            common = ("--backbones", name, "--slices", str(args.slices))
            common += ("--rounds", str(args.rounds))
            for what in (*(f"export {format}" for format in FORMATS), *WAYS):
                print(f"{name}, {what} ...", file=sys.stderr, flush=True)
                kind, key = "ways", what
                if what.startswith("export "):
                    kind, key = "exports", what.removeprefix("export ")
                results[name][kind][key] = in_a_process(*common, "--step", what, folder)
                if args.out is not None:
                    args.out.write_text(json.dumps({"machine": machine(), "networks": results}))
    about = machine()
    print(f"{about['cpu']}, {about['threads']} threads of {about['cpus']} CPUs, "
          f"{about['capability']}, torch {about['torch']}")  # fmt: skip
    print("\n".join(lines_of(results)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
