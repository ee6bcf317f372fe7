"""``ct-video-hf convert``: published weights into a model folder; the list of backbones."""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

__all__ = ["add_arguments", "run"]

_EPILOG = """\
CHECKPOINT is a file in a published layout (pytorchvideo, torchvision and what else the backbone's
authors wrote; also .safetensors), or the name of published weights such as kinetics, which are
downloaded once into the Hugging Face cache, resumed after a break and verified. Every weight
outside the classifier has to fit; a file that is damaged, holds pickled code or belongs to another
network is refused.

  ct-video-hf convert --list
  ct-video-hf convert slow_r50 kinetics slow_r50_kinetics
  ct-video-hf convert slow_r50 SLOW_8x8_R50.pyth slow_r50_400 --keep-head
  ct-video-hf convert mvit_b_32x3 kinetics mvit_16 --num-frames 16 --image-size 160
  ct-video-hf convert slow_r50 --download-only        # then HF_HUB_OFFLINE=1 on the cluster's nodes

Learned positions (MViT) are interpolated to --num-frames and --image-size, see --verbose.
Published weights have terms of their own, which --list and the card state. Not for clinical use.
"""


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("backbone", nargs="?", metavar="BACKBONE", help="a name that --list shows")
    parser.add_argument(
        "checkpoint", nargs="?", metavar="CHECKPOINT", help="a file, or kinetics, imagenet, ..."
    )
    parser.add_argument("out", nargs="?", metavar="OUT", type=Path, help="the new model folder")
    parser.add_argument("--list", action="store_true", help="show all backbones and their weights")
    parser.add_argument(
        "--download-only", action="store_true", help="fetch the published weights and stop"
    )
    parser.add_argument(
        "--keep-head", action="store_true", help="keep the published classifier and its classes"
    )
    parser.add_argument(
        "--num-labels", type=_positive, metavar="N", help="logits of a new classifier (default: 1)"
    )
    parser.add_argument("--channels", type=_positive, metavar="N", help="input channels")
    parser.add_argument(
        "--inflation",
        choices=("sum", "mean"),
        default="sum",
        help="first layer's weights for other channels: sum keeps the response to one picture on "
        "all channels, mean gives each channel the mean (default: sum)",
    )
    parser.add_argument("--num-frames", type=_positive, metavar="N", help="slices in a clip")
    parser.add_argument("--image-size", type=_positive, metavar="PX", help="side of the planes")
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="where downloads are kept")
    parser.add_argument("--license", metavar="ID", help="licence of the folder's weights")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def run(args: argparse.Namespace) -> int:
    """Convert, download or list; with ``--json`` a failure is a JSON document too."""
    _check_use(args)
    try:
        return _run(args)
    except (OSError, ValueError) as error:
        if not args.json or args.traceback:
            raise
        _print_json({"error": str(error), "code": type(error).__name__})
        return 1


def _check_use(args: argparse.Namespace) -> None:
    given = [args.backbone, args.checkpoint, args.out]
    if args.list:
        if args.backbone:
            args.wrong_use("--list takes no BACKBONE")
        return
    if args.download_only:
        if args.backbone is None or args.out is not None:
            args.wrong_use("--download-only takes BACKBONE and perhaps the name of its weights")
    elif None in given:
        args.wrong_use("BACKBONE, CHECKPOINT and OUT are needed, or --list, or --download-only")
    if args.keep_head and args.num_labels is not None:
        args.wrong_use("--keep-head keeps the published labels; --num-labels makes new ones")
    from ..models import list_backbones
    from ..training.options import did_you_mean

    if args.backbone not in list_backbones():
        hint = did_you_mean(args.backbone, list_backbones()) or "; --list shows all"
        args.wrong_use(f"there is no backbone {args.backbone!r}{hint}")


def _run(args: argparse.Namespace) -> int:
    if args.list:
        return _list(args)
    if args.download_only:
        return _download(args)
    from ..hub.convert import convert_checkpoint

    folder = convert_checkpoint(
        args.backbone,
        args.checkpoint,
        args.out,
        keep_head=args.keep_head,
        num_labels=args.num_labels or 1,
        num_channels=args.channels,
        channel_inflation=args.inflation,
        num_frames=args.num_frames,
        image_size=args.image_size,
        cache_dir=args.cache_dir,
        license=args.license,
    )
    facts = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))
    if args.json:
        _print_json({"model": str(folder), **facts})
        return 0
    print(f"model folder  {folder}")
    print(f"source        {facts['file']}, sha256 {facts['sha256']}")
    print(f"classifier    {facts['head']}, labels: {facts['labels']}")
    if facts["published"] is not None:
        print(f"weights       {facts['published']['weight_license']}")
    print("Not for clinical use.")
    return 0


def _download(args: argparse.Namespace) -> int:
    from ..hub.convert import download_weights

    files = download_weights(args.backbone, args.checkpoint, args.cache_dir)
    if args.json:
        _print_json({"backbone": args.backbone, "files": files})
        return 0
    for entry in files:
        print(f"{entry['weights']}  {entry['file']}\n  sha256 {entry['sha256']}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from ..hub.convert import describe_registry

    rows = describe_registry(args.cache_dir)
    if args.json:
        _print_json({"backbones": rows})
        return 0
    for row in rows:
        size = row["million_parameters"]
        count = "" if size is None else f", {size:g} million parameters as published"
        print(f"{row['name']} ({row['model_type']}{count})")
        if not row["weights"]:
            print("  no published weights")
        for name, weights in row["weights"].items():
            print(f"  {name}")
            for words, text in _weight_lines(weights):
                print(
                    textwrap.fill(
                        text,
                        98,
                        initial_indent=f"    {words:15} ",
                        subsequent_indent=" " * 20,
                        break_on_hyphens=False,
                        break_long_words=False,
                    )
                )
    print("\nTop-1 figures of different protocols do not compare. Not for clinical use.")
    return 0


def _weight_lines(weights: dict[str, Any]) -> list[tuple[str, str]]:
    size, top1 = weights["size_bytes"], weights["top1"]
    stride = "not published" if weights["stride"] is None else weights["stride"]
    in_cache = " (in the cache)" if weights["in_cache"] else ""
    return [
        ("address", f"{weights['url'] or 'none: convert a file of your own'}{in_cache}"),
        ("sha256", weights["sha256"] or "none published; the first download's is kept"),
        ("size", _size(size, weights["size_mib_stated"])),
        ("code", weights["code_license"]),
        ("weights", weights["weight_license"]),
        ("trained on", f"{weights['origin']}, {weights['labels']} labels"),
        ("clip", f"{weights['frames']} frames, stride {stride}, {weights['image_size']} pixels"),
        ("normalisation", f"mean {_numbers(weights['mean'])}, std {_numbers(weights['std'])}"),
        ("top-1", "not reported" if top1 is None else f"{top1:g} % ({weights['protocol']})"),
        ("paper", weights["paper"]),
    ]


def _size(size_bytes: int | None, stated: float | None) -> str:
    if size_bytes is not None:
        return f"{size_bytes:,} bytes"
    return "not known" if stated is None else f"{stated:g} MiB, as torchvision states"


def _numbers(values) -> str:
    return " ".join(f"{value:g}" for value in values or ()) or "none"


def _print_json(document: dict) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))
