"""``ct-video-hf features``: clip features of a prepared set or of one scan."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]

_EPILOG = """\
A feature vector a clip: what the network's linear classifier sees. Of a prepared set the file holds
those of every split, written in parts, so that the same command goes on after a kill; its metadata
names the model, the hash of its weights and that of the set. ct-video-hf probe fits a head on it.

  ct-video-hf features MODEL SET --out set.safetensors
  ct-video-hf features MODEL scan/ --out scan.safetensors

From Python: ct_video_hf.pipeline(MODEL).features(scan). Not for clinical use.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("model", metavar="MODEL", help="model folder or Hub id")
    parser.add_argument("data", metavar="SET|SCAN", help="folder of a prepared set, or one scan")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True,
                        help="safetensors file to write")  # fmt: skip
    parser.add_argument("--revision", help="branch, tag or commit of MODEL on the Hub")
    parser.add_argument("--min-positive-slices", type=int, default=4, metavar="N",
                        help="as of training; clips of uncertain label are left out by it "
                        "(default: 4)")  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=8, metavar="N",
                        help="clips at once (default: 8)")  # fmt: skip
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: an accelerator, "
                        "else cpu)")  # fmt: skip
    parser.add_argument("--policy", choices=("strict", "warn", "repair"), default="strict",
                        help="of a scan of doubtful geometry (default: strict)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Write the features; says how many there are."""
    from ..files import check_writable
    from ..inference import load_model

    check_writable(args.out.parent)
    loaded = load_model(args.model, revision=args.revision)
    of_set = (Path(args.data) / "manifest.json").is_file()
    shape = _of_set(args, loaded) if of_set else _of_scan(args, loaded)
    print(f"{shape[0]} clips of {shape[1]} features in {args.out}")
    return 0


def _of_scan(args: argparse.Namespace, loaded) -> tuple[int, ...]:
    from safetensors.numpy import save_file

    from ..files import replacing
    from ..inference import CTVideoPipeline

    predict = CTVideoPipeline(
        loaded, device=args.device, policy=args.policy, batch_size=args.batch_size, label=0,
        backend="eager",
    )  # fmt: skip
    found = predict.features(args.data)
    with replacing(args.out) as partial:
        save_file(found, partial, metadata={"model": loaded.name, "commit": loaded.commit or ""})
    return found["features"].shape


def _of_set(args: argparse.Namespace, loaded) -> tuple[int, ...]:
    import torch

    from ..data import load_ct_dataset
    from ..evaluation.score import default_device
    from ..training.features import weights_hash, write_features
    from ..training.inputs import clip_dataset
    from ..training.record import public_manifest

    parts = {
        split: clip_dataset(
            studies, loaded.processor, train=False, min_positive_slices=args.min_positive_slices
        )
        for split, studies in load_ct_dataset(args.data).items()
    }
    processor = loaded.processor
    facts = {
        "model": loaded.name,
        "commit": loaded.commit,
        "weights_sha256": weights_hash(loaded.model),
        "set": Path(args.data).resolve().name,
        "set_sha256": public_manifest(Path(args.data) / "manifest.json")["sha256"],
        "clips": {
            name: getattr(processor, name)
            for name in ("num_frames", "stride", "tail", "size", "crop_size", "windows")
        },
        "min_positive_slices": args.min_positive_slices,
    }
    device = torch.device(args.device) if args.device else default_device()
    return write_features(
        loaded.model, parts, args.out, facts, device=device, batch_size=args.batch_size,
        progress=not args.quiet,
    )  # fmt: skip
