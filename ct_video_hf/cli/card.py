"""``ct-video-hf card``: render or check the model card of a model folder."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

__all__ = ["add_arguments", "run"]

_EPILOG = """\
The card is made from config.json, video_preprocessor_config.json, training_config.json and
metrics.json of the folder; what they do not hold is called "not measured" or "not stated".
--check writes nothing: it looks at the card and at the folder, and exits with 1 when something is
wrong with either.

Not for clinical use.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("model_dir", metavar="MODEL_DIR", type=Path, nargs="?", help="model folder")
    parser.add_argument("--registry", type=Path, metavar="DIR", help="write a card for every "
                        "backbone of the registry into DIR; nothing is downloaded")  # fmt: skip
    parser.add_argument("--check", action="store_true", help="check the card and the folder")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: README.md in MODEL_DIR")
    parser.add_argument("--model-id", metavar="ID", help="Hub id that the card's code loads")
    parser.add_argument("--license", metavar="ID", help="licence of these weights, as apache-2.0")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def run(args: argparse.Namespace) -> int:
    """Render or check; 0 when all is well."""
    from ..errors import CTVideoError

    if (args.model_dir is None) == (args.registry is None):
        args.wrong_use("MODEL_DIR is needed, or --registry DIR")
    if args.registry is not None:
        return _registry(args)
    if not args.model_dir.is_dir():
        raise CTVideoError(f"There is no model folder {args.model_dir.name!r} at the path given.")
    if args.check:
        return _check(args)
    from ..hub import write_model_card

    path = write_model_card(
        args.model_dir, model_id=args.model_id, license=args.license, out=args.out
    )
    print(json.dumps({"card": str(path)}) if args.json else f"card: {path}")
    return 0


def _registry(args: argparse.Namespace) -> int:
    if args.check or args.out or args.model_id or args.license:
        args.wrong_use("--registry takes no option of a model folder")
    from ..hub.card_registry import write_registry_cards

    paths = write_registry_cards(args.registry)
    answer = json.dumps({"cards": [str(path) for path in paths]})
    print(answer if args.json else f"{len(paths)} cards in {args.registry}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from ..hub import check_model_card, check_model_folder

    card = check_model_card(args.out or args.model_dir)
    folder = check_model_folder(args.model_dir)
    if args.json:
        print(json.dumps({"card": card, "folder": folder, "sound": not card + folder}, indent=2))
    else:
        for problem in [*card, *folder]:
            print(problem, file=sys.stderr)
        if not card + folder:
            print("card and folder are sound")
    return 1 if card + folder else 0
