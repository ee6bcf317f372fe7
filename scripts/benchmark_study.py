"""Time a whole study from DICOM files to clip scores: the published way beside ours.

The published way is the method of the paper's code (arXiv 2304.00546), re-made: pydicom slice by
slice, ``pixel_array * slope + intercept`` in float64, cv2 INTER_AREA, float32; each clip cut,
cropped and windowed; the original network (pytorchvideo's, torchvision's) in eager float32, one
clip at a time. Ours is ``ct_video_hf.pipeline`` as it comes, in float32 (the same function to
rounding) and in bfloat16. The clips are the same, the weights too, with live residual branches.

    python scripts/benchmark_study.py [--backbones slow_r50 ...] [--rounds 1] [--out JSON]

Each way is a process of its own, and the ways take turns. Ours reads two studies: the first pays
for recording and checking the network (setup), which later ones of the same process do not.
Memory is the process's peak, with Python, PyTorch, the network and the study. Files come from the
operating system's cache. Needs this checkout: the originals stand in tests/models/originals.
Slices smaller than the planes are refused: cv2's INTER_AREA, which the published way enlarges with
too, then repeats pixels, while ours interpolates, so that the clips would not be the same.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("published", "ours", "ours, unshared", "ours bf16")
PARTS = ("read", "prepare", "forward", "setup")
#: What prediction sets out to reach against the published way, by way, at stride 16.
GOALS = {("slow_r50", "ours"): 2.4, ("slow_r50", "ours bf16"): 5.5}
PACKAGES = ("torch", "transformers", "pytorchvideo", "torchvision", "pydicom")


# --- one measurement, in a process of its own ---------------------------------------------------


def processor_of(name: str, stride: int) -> Any:
    """Clips of the network's size, cut from planes an eighth larger: 224 of 256, as published."""
    from benchmark_models import clip_of

    from ct_video_hf.models import CTVideoProcessor

    frames, side, _ = clip_of(name)
    return CTVideoProcessor(
        size=side * 8 // 7, crop_size=side, num_frames=frames, stride=min(stride, frames)
    )


def published_clip(volume: Any, start: int, processor: Any) -> Any:
    """A clip of the published way: cut, filled up with air, cropped, windowed, three channels."""
    import numpy as np
    import torch

    frames, side = processor.num_frames, processor.plane_size
    (center, width), *_ = processor.windows
    clip = volume[start : start + frames]
    air = np.full((frames - len(clip), *volume.shape[1:]), -1024, np.float32)
    edge = (volume.shape[1] - side) // 2
    clip = np.concatenate([clip, air])[:, edge : edge + side, edge : edge + side]
    clip = np.clip((clip - (center - width / 2)) / width, 0, 1)
    return torch.from_numpy(np.stack([clip] * 3, axis=1)[None])


def published(name: str, folder: Path, stride: int) -> dict[str, Any]:
    """One study the published way."""
    import torch
    from benchmark_models import networks
    from benchmark_reading import SIZE, published

    from tests.models.originals import all_originals

    processor = processor_of(name, stride)
    network, feed = networks(name, "original").eval(), all_originals()[name].feed
    read, frames, side = published(), processor.num_frames, processor.plane_size
    if processor.size != SIZE:
        raise SystemExit(f"the published reader gives {SIZE} pixels, {name} takes {processor.size}")
    with torch.no_grad():
        feed(network, torch.zeros(1, frames, 3, side, side))
        timings, logits = dict.fromkeys(PARTS, 0.0), []
        begin = time.perf_counter()
        volume = read(folder)
        timings["read"] = time.perf_counter() - begin
        for start in processor.clip_starts(len(volume)):
            begin = time.perf_counter()
            pixels = published_clip(volume, start, processor)
            ready = time.perf_counter()
            logits.append(feed(network, pixels)[0].tolist())
            timings["prepare"] += ready - begin
            timings["forward"] += time.perf_counter() - ready
    timings["total"] = sum(timings.values())
    return {"studies": [timings], "logits": logits, "computed_by": "eager, float32"}


def ours(name: str, way: str, folder: Path, stride: int) -> dict[str, Any]:
    """The same study twice through the pipeline."""
    from benchmark_models import networks

    from ct_video_hf.inference import CTVideoPipeline, LoadedModel

    loaded = LoadedModel(networks(name, "ours"), processor_of(name, stride), name)
    dtype = "bfloat16" if way.endswith("bf16") else "float32"
    predict = CTVideoPipeline(loaded, device="cpu", dtype=dtype, label=0)
    predict.scorer.share = "unshared" not in way
    study, kept = predict.scorer.study, []

    def keeping(*arguments: Any) -> Any:
        kept.append(study(*arguments))
        return kept[-1]

    predict.scorer.study = keeping
    results = [predict(folder) for _ in range(2)]
    return {
        "studies": [result["timings_s"] for result in results],
        "logits": kept[-1].logits.tolist(),
        "computed_by": f"{results[-1]['backend']}, {results[-1]['precision']}"
        + (", shared" if predict.scorer.shares else ""),
    }


def measure(name: str, way: str, folder: Path, stride: int) -> dict[str, Any]:
    from benchmark_reading import _peak_mb

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    run = published if way == "published" else ours
    arguments = (name, folder, stride) if way == "published" else (name, way, folder, stride)
    return run(*arguments) | {"peak_mb": _peak_mb()}


# --- the whole ----------------------------------------------------------------------------------


def in_a_process(name: str, way: str, folder: Path, stride: int) -> dict[str, Any]:
    """:func:`measure` in a fresh process."""
    command = [sys.executable, __file__, "--measure", way, "--folder", os.fspath(folder)]
    command += ["--backbones", name, "--stride", str(stride)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"{name}, {way} failed:\n{finished.stderr.strip()[-2000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def compare(
    name: str, folder: Path, stride: int, rounds: int, ways: tuple[str, ...]
) -> dict[str, Any]:
    """Medians of the ways, and their times and scores against the published way's."""
    import numpy as np

    runs: dict[str, list[dict]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            print(f"{name}, {way} ...", file=sys.stderr, flush=True)
            runs[way].append(in_a_process(name, way, folder, stride))
    truth = np.array(runs["published"][0]["logits"])
    rows = {}
    for way, found in runs.items():
        last = [run["studies"][-1] for run in found]
        row = {part: statistics.median(study[part] for study in last) for part in PARTS}
        row["total"] = statistics.median(study["total"] - study["setup"] for study in last)
        row["first_total"] = statistics.median(run["studies"][0]["total"] for run in found)
        row["setup"] = statistics.median(run["studies"][0]["setup"] for run in found)
        row["peak_mb"] = statistics.median(run["peak_mb"] for run in found)
        row["computed_by"] = found[0]["computed_by"]
        far = np.abs(np.array(found[0]["logits"]) - truth)
        row["difference_of_spread"] = float(far.max() / truth.std(axis=0).mean())
        rows[way] = row
    for row in rows.values():
        row["speedup"] = rows["published"]["total"] / row["total"]
        row["first_speedup"] = rows["published"]["first_total"] / row["first_total"]
    return {"clips": len(truth), "rounds": rounds, "ways": rows}


def lines_of(results: dict[str, Any]) -> list[str]:
    """A Markdown table and the goals."""
    head = (
        "backbone", "way", "read s", "prepare s", "forward s", "total s", "x published",
        "setup s, once", "x with setup", "peak MB", "logits, largest difference / spread",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "| " + " | ".join("---" for _ in head) + " |"]
    for name, entry in results["backbones"].items():
        for way, row in entry["ways"].items():
            cells = [name, way, *(f"{row[part]:.2f}" for part in ("read", "prepare", "forward"))]
            cells += [f"{row['total']:.2f}", f"{row['speedup']:.2f}", f"{row['setup']:.1f}"]
            cells += [f"{row['first_speedup']:.2f}", f"{row['peak_mb']:.0f}"]
            lines.append(f"| {' | '.join(cells)} | {row['difference_of_spread']:.1e} |")
    for (name, way), least in GOALS.items():
        row = results["backbones"].get(name, {"ways": {}})["ways"].get(way)
        if row is not None:
            words = "met" if row["speedup"] >= least else "NOT met"
            lines.append(f"{name}, {way}: at least {least}x: {words} ({row['speedup']:.2f}x)")
    for name, entry in results["backbones"].items():
        for way, row in entry["ways"].items():
            lines.append(f"{name}, {way}: {row['computed_by']}; {entry['clips']} clips")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", metavar="NAME", default=["slow_r50"])
    parser.add_argument("--slices", type=int, default=300, help="slices of the study (300)")
    parser.add_argument("--side", type=int, default=512, help="pixels of a slice's side (512)")
    parser.add_argument("--stride", type=int, default=16, help="slices between clips (16)")
    parser.add_argument("--syntax", default="uncompressed", help="as in benchmark_reading.py")
    parser.add_argument("--rounds", type=int, default=1, help="processes of each way (1)")
    parser.add_argument(
        "--ways", default=";".join(WAYS), help="separated by semicolons (%(default)s)"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
    if args.measure:
        print(json.dumps(measure(args.backbones[0], args.measure, args.folder, args.stride)))
        return 0
    from benchmark_models import machine
    from benchmark_reading import SIZE, SYNTAXES

    if args.side < SIZE:
        parser.error(f"--side {args.side}: at least {SIZE}, or the ways enlarge differently")

    from ct_video_hf.dicom.write import write_series
    from tests.support.prediction import chest_hu

    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    results: dict[str, Any] = {"machine": machine(), "versions": versions, "backbones": {}}
    results |= {"slices": args.slices, "stride": args.stride, "syntax": args.syntax}
    ways = ("published", *(way for way in args.ways.split(";") if way != "published"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study"
        hu = chest_hu(args.slices, args.side)  # changes along the body, so that clips differ
        write_series(hu, folder, transfer_syntax=SYNTAXES[args.syntax], spacing=(1.0, 0.7, 0.7))
        for name in args.backbones:
            results["backbones"][name] = compare(name, folder, args.stride, args.rounds, ways)
    if args.out is not None:
        args.out.write_text(json.dumps(results, indent=1))
    if args.json:
        print(json.dumps(results))
        return 0
    about = results["machine"]
    print(
        f"{about['cpu']}, {about['threads']} threads of {about['cpus']} CPUs, "
        f"{about['capability']}; {', '.join(f'{n} {v}' for n, v in versions.items())}; "
        f"{args.slices} slices {args.side}x{args.side}, {args.syntax}, stride {args.stride}, "
        f"n = {args.rounds}"
    )
    print("\n".join(lines_of(results)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
