"""``ct-video-hf export``: a model as an ONNX or OpenVINO graph that ``predict`` runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

__all__ = ["add_arguments", "run"]

_EPILOG = """\
OUT becomes a folder with the graph, configuration, processor, calibration, card and parity.json:
what the graph was made of and by what, and the largest differences of its logits and probabilities
from those of the network, on random clips, one at a time and three. Where they exceed the tolerance
nothing is written. The graph takes any number of clips of the processor's size, in float32.

  ct-video-hf export my_model my_model_onnx
  ct-video-hf export me/my-model my_model_openvino --format openvino
  ct-video-hf predict my_model_onnx scan/

Prediction is the same as with the model, but for maps (--saliency), which need the network itself.
The Hub gets the model and not its graph, see `ct-video-hf push --help`.
Needs the extra: pip install "ct-video-hf[export]". Not for clinical use.
"""


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("model", metavar="MODEL", help="model folder or Hub id (user/model)")
    parser.add_argument("out", metavar="OUT", type=Path, help="the new folder")
    parser.add_argument(
        "--format", choices=("onnx", "openvino"), default="onnx", help="default: %(default)s"
    )
    parser.add_argument("--revision", help="branch, tag or commit of MODEL on the Hub")
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        default=1e-4,
        metavar="X",
        help="largest difference of a probability (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print parity.json")


def run(args: argparse.Namespace) -> int:
    """Export and say how far the graph is from the network."""
    from ..export import export_model

    parity = export_model(
        args.model, args.out, format=args.format, revision=args.revision, tolerance=args.tolerance
    )
    if args.json:
        print(json.dumps(parity, indent=2))
        return 0
    differences = parity["max_difference"]
    print(f"exported model  {args.out}")
    print(f"graph           {', '.join(parity['files'])}")
    print(
        f"differences     logits {differences['logits']:.1e}, probabilities "
        f"{differences['probabilities']:.1e}; allowed: {parity['tolerance']['probabilities']:.0e}"
    )
    print("Not for clinical use.")
    return 0
