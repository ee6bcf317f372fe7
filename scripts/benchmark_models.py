"""Time every backbone on this CPU: the original network, ours, and ours as the library runs it.

For each backbone in turn: the original (pytorchvideo's or torchvision's function, as PyTorch runs
it), ours eager, ours with the backend that the library picks, in float32 and in bfloat16; with
``--train`` a training step of the original in float32 beside ours with ``--precision bf16``. Each
way is a process of its own (memory settings and peaks are a process's); all hold the same weights,
with live residual branches, and take turns, so that whatever else the machine does touches all.

    python scripts/benchmark_models.py [--backbones NAME ...] [--rounds 3] [--train] [--out JSON]

Rows are kept in the JSON file as they are measured; a run with other backbones adds to it. The cost
of our wrapper is what our small network takes longer than the small original, over the time of the
full one. Needs this checkout: the originals stand in tests/models/originals.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SEVEN = (
    "penet",
    "slow_r50",
    "slowfast_r50",
    "r2plus1d_r50",
    "csn_r101",
    "mvit_b_32x3",
    "swin3d_t",
)
INFERENCE = ("original", "ours", "fast", "fast bf16")
TRAINING = ("train original", "train ours", "train ours bf16")
CLIP = (32, 224, 224)


# ---- one process a way ---------------------------------------------------------------------------


def clip_of(name: str) -> tuple[int, int, int]:
    """32x224x224 for the study's networks, their own size for the others."""
    from ct_video_hf.models import create_model

    if name in SEVEN:
        return CLIP
    config = create_model(name).config
    return config.num_frames, config.image_size, config.image_size


def networks(name: str, which: str) -> Any:
    """The original or ours, full size, with the same live weights."""
    import torch

    from ct_video_hf.models import create_model, get_backbone
    from ct_video_hf.models.weights import load_published
    from tests.models.backbone_cases import enliven
    from tests.models.originals import all_originals

    reference = all_originals()[name]
    torch.manual_seed(0)
    original = enliven(reference.full())
    if which == "original":
        return original
    # the reference of PENet never skips a block; skipping would make our training step cheaper
    equal = {"stochastic_depth": 0.0} if name == "penet" else {}
    ours = create_model(name, num_labels=len(reference.parts(original)[2].weight), **equal)
    left = load_published(ours, original.state_dict(), get_backbone(name))
    assert left == [], left
    return ours


def predicting(name: str, way: str, clip: Any) -> tuple[Callable[[], Any], Callable[[], str]]:
    """A function that gives logits, and one that says what computed them."""
    import torch

    from ct_video_hf.inference.backends import choose_backend
    from tests.models.originals import all_originals

    if way == "original":
        network, feed = networks(name, "original").eval(), all_originals()[name].feed

        def run() -> torch.Tensor:
            with torch.no_grad():
                return feed(network, clip)

        return run, lambda: "eager"
    model = networks(name, "ours").eval()
    dtype = torch.bfloat16 if way.endswith("bf16") else torch.float32
    kind = "eager" if way == "ours" else "auto"
    backend = choose_backend(kind, model, torch.device("cpu"), dtype)

    def score() -> torch.Tensor:
        if way == "ours":
            with torch.no_grad():
                return model(clip).logits
        narrow = dtype == torch.bfloat16  # as prediction calls a backend
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            features, _, _ = model.backbone.explain_from(*backend(clip))
            with torch.no_grad():
                return model.classify(features.pooled_grid).float()

    return score, lambda: "eager" if way == "ours" else f"{backend.name}, {backend.precision}"


def training(name: str, way: str, clip: Any) -> tuple[Callable[[], Any], Callable[[], str]]:
    """A function that makes one training step and gives its loss."""
    import torch

    from ct_video_hf.training.memory import prepare_cpu_training
    from tests.models.originals import all_originals

    narrow = way.endswith("bf16")
    model = networks(name, "original" if way == "train original" else "ours").train()
    feed = all_originals()[name].feed
    if narrow:
        prepare_cpu_training(model, torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            logits = feed(model, clip) if way == "train original" else model(clip).logits
        loss = torch.nn.functional.softplus(logits.float()[:, 0]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step, lambda: "bfloat16 autocast" if narrow else "float32 eager"


def wrapper_cost(name: str) -> float | None:
    """Seconds that our small network takes longer than the small original; None without one."""
    import torch

    from ct_video_hf.models import create_model, get_backbone
    from ct_video_hf.models.weights import load_published
    from tests.models.backbone_cases import enliven
    from tests.models.originals import all_originals

    reference = all_originals()[name]
    if reference.small is None:
        return None
    original = enliven(reference.small()).eval()
    ours = create_model(name, num_labels=5, **reference.sizes)
    load_published(ours, original.state_dict(), get_backbone(name))
    frames, rows, columns = reference.clips[0]
    pixels = torch.randn(1, frames, 3, rows, columns)
    times: tuple[list[float], list[float]] = ([], [])
    torch.set_num_threads(1)
    with torch.no_grad():
        for turn in range(-3, 25):
            for spent, run in zip(
                times, (lambda: reference.feed(original, pixels), lambda: ours(pixels)), strict=True
            ):
                began = time.perf_counter()
                run()
                if turn >= 0:
                    spent.append(time.perf_counter() - began)
    return statistics.median(times[1]) - statistics.median(times[0])


def worker(pipe: Any, name: str, way: str) -> None:
    """Answer "run" with seconds and logits, "end" with what computed and the peak memory."""
    import torch

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if way == "wrapper":
        pipe.send(wrapper_cost(name))
        return
    frames, rows, columns = clip_of(name)
    generator = torch.Generator().manual_seed(1)
    clip = torch.randn(1, frames, 3, rows, columns, generator=generator)
    run, describe = (training if way.startswith("train") else predicting)(name, way, clip)
    began = time.perf_counter()
    torch.manual_seed(2)
    first = run().float().flatten().tolist()
    pipe.send((time.perf_counter() - began, first))
    while pipe.recv() == "run":
        began = time.perf_counter()
        run()
        pipe.send(time.perf_counter() - began)
    pipe.send((describe(), peak_mb()))


def peak_mb() -> float | None:
    """Largest resident memory of this process so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)


# ---- all ways of a backbone ----------------------------------------------------------------------


def measure(name: str, ways: tuple[str, ...], rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds, first-call seconds, logits, description and peak of each way."""
    context = multiprocessing.get_context("spawn")
    pipes, rows = {}, {}
    for way in ways:
        here, there = context.Pipe()
        context.Process(target=worker, args=(there, name, way), daemon=True).start()
        pipes[way] = here
        there.close()
        first, logits = here.recv()
        rows[way] = {"first_seconds": first, "logits": logits, "seconds": []}
    for _ in range(rounds):
        for way in ways:
            pipes[way].send("run")
            rows[way]["seconds"].append(pipes[way].recv())
    for way in ways:
        pipes[way].send("end")
        rows[way]["computed_by"], rows[way]["peak_mb"] = pipes[way].recv()
    return rows


def summary(rows: dict[str, dict[str, Any]], base: str) -> dict[str, dict[str, Any]]:
    """Medians, speedups against ``base``, and the largest difference of its logits."""
    truth = rows[base].pop("logits")
    slow = statistics.median(rows[base]["seconds"])
    spread = statistics.pstdev(truth) if len(truth) > 1 else None
    for row in rows.values():
        logits = row.pop("logits", truth)
        row["median_seconds"] = statistics.median(row["seconds"])
        row["speedup"] = slow / row["median_seconds"]
        row["max_difference"] = max(abs(a - b) for a, b in zip(logits, truth, strict=True))
        row["max_difference_of_spread"] = row["max_difference"] / spread if spread else None
    return rows


def wrapper_seconds(name: str) -> float | None:
    """:func:`wrapper_cost` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=worker, args=(there, name, "wrapper"), daemon=True)
    process.start()
    cost = here.recv()
    process.join()
    return cost


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    words = Path("/proc/cpuinfo")
    model = platform.processor()
    if words.exists():
        lines = [line for line in words.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":")[1].strip() if lines else model
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


# ---- the table -----------------------------------------------------------------------------------


def _cell(row: dict[str, Any] | None, seconds: bool = False) -> str:
    if row is None:
        return "-"
    return f"{row['median_seconds']:.2f} s" if seconds else f"{row['speedup']:.2f}x"


def _exact(row: dict[str, Any] | None) -> str:
    value = None if row is None else row["max_difference_of_spread"]
    return "-" if value is None else f"{value:.0e}"


def _peak(row: dict[str, Any] | None) -> str:
    return "-" if row is None or row["peak_mb"] is None else f"{row['peak_mb']:.0f}"


def table(results: dict[str, Any]) -> list[str]:
    """Lines of a Markdown table, and the medians over the study's seven."""
    head = (
        "backbone", "clip", "original", "ours eager", "wrapper", "ours", "ours bf16",
        "logits: eager / ours / bf16", "peak MB: original / ours / bf16",
        "training step: original", "ours", "ours bf16",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "| " + " | ".join("---" for _ in head) + " |"]
    for name, entry in results["backbones"].items():
        rows = entry["ways"]
        get = rows.get
        wrapper = entry.get("wrapper")
        cells = (
            name,
            "x".join(map(str, entry["clip"])),
            _cell(get("original"), seconds=True),
            _cell(get("ours")),
            "-" if wrapper is None else f"{wrapper:+.2%}",
            _cell(get("fast")),
            _cell(get("fast bf16")),
            " / ".join(_exact(get(way)) for way in INFERENCE[1:]),
            " / ".join(_peak(get(way)) for way in ("original", "fast", "fast bf16")),
            _cell(get("train original"), seconds=True),
            _cell(get("train ours")),
            _cell(get("train ours bf16")),
        )
        lines.append(f"| {' | '.join(cells)} |")
    for way in ("fast", "fast bf16", "train ours bf16"):
        known = {
            name: results["backbones"][name]["ways"][way]["speedup"]
            for name in SEVEN
            if way in results["backbones"].get(name, {"ways": {}})["ways"]
        }
        if known:
            slowest = min(known, key=known.__getitem__)
            lines.append(
                f"{way}: median {statistics.median(known.values()):.2f}x over {len(known)} of the "
                f"seven, least {known[slowest]:.2f}x ({slowest})"
            )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", metavar="NAME", help="default: the study's seven")
    parser.add_argument("--rounds", type=int, default=3, help="timed turns of each way (3)")
    parser.add_argument("--train", action="store_true", help="training steps instead of inference")
    parser.add_argument("--out", type=Path, help="JSON file that keeps the rows")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    results: dict[str, Any] = {"backbones": {}}
    if args.out is not None and args.out.exists():
        results = json.loads(args.out.read_text())
    results["machine"] = machine()
    ways = TRAINING if args.train else INFERENCE
    for name in args.backbones or SEVEN:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows = summary(measure(name, ways, args.rounds), ways[0])
        entry = results["backbones"].setdefault(name, {"clip": clip_of(name), "ways": {}})
        entry["ways"] |= rows
        if not args.train:
            cost = wrapper_seconds(name)
            entry["wrapper"] = None if cost is None else cost / rows["original"]["median_seconds"]
        if args.out is not None:
            partial = args.out.with_name(f"{args.out.name}.partial")
            partial.write_text(json.dumps(results, indent=1))
            partial.replace(args.out)
    if args.json:
        print(json.dumps(results))
        return 0
    about = results["machine"]
    print(
        f"{about['cpu']}, {about['threads']} threads of {about['cpus']} CPUs, "
        f"{about['capability']}, torch {about['torch']}; clips of one, medians; x: original / way"
    )
    print("\n".join(table(results)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
