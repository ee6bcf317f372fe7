"""Time a whole study from DICOM files to clip scores: the published way beside ours.

The published way is the method of the paper's code (arXiv 2304.00546), re-made: pydicom slice by
slice, ``pixel_array * slope + intercept`` in float64, cv2 INTER_AREA, float32; each clip cut,
cropped and windowed; the original network (pytorchvideo's, torchvision's) in eager float32, one
clip at a time. Ours is ``ct_video_hf.pipeline`` as it comes, in float32 (the same function to
rounding) and in bfloat16. The weights are the same, with live residual branches; the clips too,
but that ours rounds planes to whole Hounsfield units.

    python scripts/benchmark_study.py [--backbones slow_r50 ...] [--rounds 1] [--out JSON]

Each way is a process of its own, and the ways take turns. Ours reads two studies: the first pays
for recording and checking the network (setup), which later ones of the same process do not.
Memory is the process's peak, with Python, PyTorch, the network and the study. Files come from the
operating system's cache. Needs this checkout: the originals stand in tests/models/originals.

Arithmetic and preparing are compared apart, in one more process, which is not timed: the original
network computes some of our clips, and all clips of both ways are held against each other. Where
the clips lie further apart than rounding, or float32 gives other logits of the same clips than the
original (:data:`EXACT`), the script says so and ends with 1. Logits are measured against the spread
of one clip's logits. Against the spread between clips they look far worse, which is said beside it:
networks with random weights give nearly the same logits for any clip of a study.

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
#: Largest difference of float32 logits of the same clip, in standard deviations of its logits.
EXACT = 1e-5
#: Largest difference in HU of the clips: half a unit, and what float32 windows round.
ROUNDING_HU = 0.501
#: Clips of a study that the original computes again: the first and the last, which ends in air.
COMPARED = 3
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


def reference(name: str, folder: Path, stride: int) -> dict[str, Any]:
    """The original network on some of our clips, and how far all clips of both ways lie apart."""
    import numpy as np
    import torch
    from benchmark_models import networks
    from benchmark_reading import published

    from ct_video_hf import read_ct
    from tests.models.originals import all_originals

    processor = processor_of(name, stride)
    network, feed = networks(name, "original").eval(), all_originals()[name].feed
    theirs, planes = published()(folder), read_ct(folder, in_plane=processor.size).hu
    starts, apart, clips = processor.clip_starts(len(planes)), 0.0, {}
    compared = set(np.linspace(0, len(starts) - 1, COMPARED).round().astype(int).tolist())
    for index, start in enumerate(starts):
        cut, _ = processor.cut(processor.center_crop(planes), [start])
        pixels = processor.to_pixel_values(cut)
        far = (pixels - published_clip(theirs, start, processor)).abs().max()
        apart = max(apart, far.item() * processor.windows[0][1])
        if index in compared:
            with torch.no_grad():
                clips[index] = feed(network, pixels)[0].tolist()
    return {"compared": list(clips), "logits": list(clips.values()), "clips_apart_hu": apart}


def run(name: str, way: str, folder: Path, stride: int) -> dict[str, Any]:
    """What is measured of a way, or :func:`reference`."""
    if way in ("published", "reference"):
        return (published if way == "published" else reference)(name, folder, stride)
    return ours(name, way, folder, stride)


def measure(name: str, way: str, folder: Path, stride: int) -> dict[str, Any]:
    from benchmark_reading import _peak_mb

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    return run(name, way, folder, stride) | {"peak_mb": _peak_mb()}


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
    """Medians of the ways, times against the published way, and how far logits lie apart."""
    import numpy as np

    runs: dict[str, list[dict]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            print(f"{name}, {way} ...", file=sys.stderr, flush=True)
            runs[way].append(in_a_process(name, way, folder, stride))
    same = in_a_process(name, "reference", folder, stride)
    truth, some = np.array(runs["published"][0]["logits"]), same["compared"]
    spread, between = truth.std(axis=1).mean(), truth.std(axis=0).mean()
    rows = {}
    for way, found in runs.items():
        last = [run["studies"][-1] for run in found]
        row = {part: statistics.median(study[part] for study in last) for part in PARTS}
        row["total"] = statistics.median(study["total"] - study["setup"] for study in last)
        row["first_total"] = statistics.median(run["studies"][0]["total"] for run in found)
        row["setup"] = statistics.median(run["studies"][0]["setup"] for run in found)
        row["peak_mb"] = statistics.median(run["peak_mb"] for run in found)
        row["computed_by"] = found[0]["computed_by"]
        logits = np.array(found[0]["logits"])
        row["own_clips"] = float(np.abs(logits - truth).max() / spread)
        if way != "published":  # its clips are others
            row["same_clips"] = float(np.abs(logits[some] - same["logits"]).max() / spread)
        rows[way] = row
    for row in rows.values():
        row["speedup"] = rows["published"]["total"] / row["total"]
        row["first_speedup"] = rows["published"]["first_total"] / row["first_total"]
    return {
        "clips": len(truth),
        "rounds": rounds,
        "ways": rows,
        "compared": some,
        "clips_apart_hu": same["clips_apart_hu"],
        "rounded_clips": float(np.abs(truth[some] - same["logits"]).max() / spread),
        "spread_of_a_clip": float(spread),
        "spread_between_clips": float(between),
    }


def exactness(name: str, entry: dict[str, Any]) -> list[tuple[str, bool]]:
    """What has to hold whatever the time, and whether it does."""
    apart, ways = entry["clips_apart_hu"], entry["ways"]
    words = f"clips differ by at most {apart:.3f} HU, of {ROUNDING_HU} by rounding"
    found = [(f"{name}: {words}", apart <= ROUNDING_HU)]
    for way, row in ways.items():
        if way != "published" and not way.endswith("bf16"):
            words = f"logits of the same clips within {EXACT:.0e} of a clip's spread"
            found.append(
                (f"{name}, {way}: {words} ({row['same_clips']:.1e})", row["same_clips"] <= EXACT)
            )
    return found


def lines_of(results: dict[str, Any]) -> list[str]:
    """A Markdown table and the goals."""
    head = (
        "backbone", "way", "read s", "prepare s", "forward s", "total s", "x published",
        "setup s, once", "x with setup", "peak MB",
        "logits apart / spread of a clip's, same clips", "own clips",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "| " + " | ".join("---" for _ in head) + " |"]
    for name, entry in results["backbones"].items():
        for way, row in entry["ways"].items():
            cells = [name, way, *(f"{row[part]:.2f}" for part in ("read", "prepare", "forward"))]
            cells += [f"{row['total']:.2f}", f"{row['speedup']:.2f}", f"{row['setup']:.1f}"]
            cells += [f"{row['first_speedup']:.2f}", f"{row['peak_mb']:.0f}"]
            cells += [f"{row[of]:.1e}" if of in row else "-" for of in ("same_clips", "own_clips")]
            lines.append(f"| {' | '.join(cells)} |")
    for (name, way), least in GOALS.items():
        row = results["backbones"].get(name, {"ways": {}})["ways"].get(way)
        if row is not None:
            words = "met" if row["speedup"] >= least else "NOT met"
            lines.append(f"{name}, {way}: at least {least}x: {words} ({row['speedup']:.2f}x)")
    for name, entry in results["backbones"].items():
        lines += [f"{words}: {'met' if holds else 'NOT met'}" for words, holds in entry["exact"]]
        spread, between = entry["spread_of_a_clip"], entry["spread_between_clips"]
        lines.append(
            f"{name}: rounding the clips alone moves the original's logits by "
            f"{entry['rounded_clips']:.1e} of that spread, {spread:.3g}; between clips they spread "
            f"by {between:.3g}, against which each difference is {spread / between:.3g} times as "
            "large"
        )
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
    from ct_video_hf.models.hu_clips import AIR_HU
    from tests.support.prediction import chest_hu

    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    results: dict[str, Any] = {"machine": machine(), "versions": versions, "backbones": {}}
    results |= {"slices": args.slices, "stride": args.stride, "syntax": args.syntax}
    ways = ("published", *(way for way in args.ways.split(";") if way != "published"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study"
        # changes along the body, so that clips differ; nothing is darker than air, as with scanners
        # of 12 bits: the published way would keep what ours takes for air
        hu = chest_hu(args.slices, args.side).clip(AIR_HU)
        write_series(hu, folder, transfer_syntax=SYNTAXES[args.syntax], spacing=(1.0, 0.7, 0.7))
        for name in args.backbones:
            entry = compare(name, folder, args.stride, args.rounds, ways)
            results["backbones"][name] = entry | {"exact": exactness(name, entry)}
    if args.out is not None:
        args.out.write_text(json.dumps(results, indent=1))
    exact = all(holds for entry in results["backbones"].values() for _, holds in entry["exact"])
    if args.json:
        print(json.dumps(results))
        return 0 if exact else 1
    about = results["machine"]
    print(
        f"{about['cpu']}, {about['threads']} threads of {about['cpus']} CPUs, "
        f"{about['capability']}; {', '.join(f'{n} {v}' for n, v in versions.items())}; "
        f"{args.slices} slices {args.side}x{args.side}, {args.syntax}, stride {args.stride}, "
        f"n = {args.rounds}"
    )
    print("\n".join(lines_of(results)))
    return 0 if exact else 1


if __name__ == "__main__":
    raise SystemExit(main())
