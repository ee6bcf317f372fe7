"""``ct-video-hf train``: finetune a backbone on a prepared set."""

from __future__ import annotations

import argparse
import json
import re
import sys
from contextlib import nullcontext, redirect_stdout
from typing import TYPE_CHECKING

from ..training.options import OptionError, add_options, parse_extras
from ..workers import clear_away_quietly

if TYPE_CHECKING:
    from ..training import RunResult

__all__ = ["add_arguments", "run"]

#: A negative number, or a window with a negative centre.
_NEGATIVE = re.compile(r"-[\d.][\d.,eE+-]*")

_EPILOG = """\
Every field of transformers' TrainingArguments may be given as well, as --name value
(--help-all lists them). Options may stand in one YAML or JSON file, see --config.

  ct-video-hf train --data SET --output DIR --backbone slow_tiny --epochs 8
  ct-video-hf train --config run.yaml --lr 1e-4
  ct-video-hf train --config OLD_RUN/training_config.json --data SET --output DIR
  ct-video-hf train --data SET --output DIR --backbone MCG-NJU/videomae-base-finetuned-kinetics
  accelerate launch --multi_gpu --num_processes 2 -m ct_video_hf.training --config run.yaml

The output folder is complete: weights, configuration, processor, code, model card, metrics with
intervals, predictions, training log. Not for clinical use.
"""


class _HelpAll(argparse.Action):
    """Print the help and transformers' own options, and leave."""

    def __call__(self, parser, namespace, values, option_string=None):
        from ..training.arguments import help_of_all_fields

        parser.print_help()
        print("\nfields of TrainingArguments, with this package's defaults\n")
        print(help_of_all_fields())
        parser.exit()


def _for_argparse(words: list[str]) -> list[str]:
    """The same words with - in option names, and values such as -600,1500 kept from options.

    argparse takes a word that begins with a dash and is no plain number for an option; a space in
    front, which number parsing ignores, prevents it.
    """
    told = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            told.append(name.replace("_", "-") + equals + value)
        else:
            told.append(f" {word}" if _NEGATIVE.fullmatch(word) else word)
    return told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the curated options; what else is said is kept for ``TrainingArguments``."""
    parser.usage = "%(prog)s --data SET --output DIR [options]"  # all of them fill a screen
    parser.allow_abbrev = False  # --eval would be taken for --eval-batch-size
    parser.epilog = _EPILOG
    add_options(parser)
    group = parser.add_argument_group("settings in a file, and more help")
    group.add_argument("--config", metavar="FILE", help="YAML or JSON file of options, or the "
                       "training_config.json of a run to repeat; the command line wins over "
                       "it")  # fmt: skip
    group.add_argument("--json", action="store_true", help="print the metrics as JSON on stdout")
    group.add_argument("--help-all", nargs=0, action=_HelpAll, help="all options there are")

    parse_known = parser.parse_known_args

    def parse_known_and_keep(args=None, namespace=None):
        """argparse's own, with the words that it does not know kept in ``extras``."""
        words = list(sys.argv[1:] if args is None else args)
        parsed, unknown = parse_known(_for_argparse(words), namespace)
        parsed.words = words
        try:
            parsed.extras = parse_extras(unknown)
        except OptionError as error:
            parser.error(str(error))
        return parsed, []

    parser.parse_known_args = parse_known_and_keep


def run(args: argparse.Namespace) -> int:
    """Train as the options say; prints the metrics and where the model is."""
    # with --json stdout is the answer's, whatever trackers and other packages print
    with redirect_stdout(sys.stderr) if args.json else nullcontext():
        result = _train(args)
    return result if isinstance(result, int) else _tell(args, result)


def _train(args: argparse.Namespace) -> RunResult | int:
    """The finished run, or the exit code of one that was stopped."""
    from ..hub.card import write_model_card
    from ..training import run as train
    from ..training.options import OPTIONS

    said = {name: value for name, value in vars(args).items() if name in OPTIONS}
    if args.quiet:
        args.extras.setdefault("disable_tqdm", "true")
    try:
        return train(
            config=args.config,
            write_card=write_model_card,
            command=["ct-video-hf", "train", *args.words],
            **said,
            **args.extras,
        )
    except OptionError as error:
        args.wrong_use(str(error))
    except KeyboardInterrupt:
        clear_away_quietly()
        words = "stopped; the same command with --resume goes on from the last whole checkpoint"
        print(words, file=sys.stderr)
        return 130


def _tell(args: argparse.Namespace, result: RunResult) -> int:
    from accelerate import PartialState

    from ..evaluation import format_metrics

    if not PartialState().is_main_process:
        return 0
    if args.json:
        answer = {"model": str(result.folder), "metrics": result.metrics, "run": result.config}
        answer |= {} if result.push is None else {"push": result.push}
        print(json.dumps(answer, indent=2, allow_nan=False))
    else:
        if result.metrics is not None:
            print(format_metrics(result.metrics))
        print(f"\nmodel folder: {result.folder}")
    sys.stdout.flush()
    return 0 if result.push is None else _tell_push(result)


def _tell_push(result) -> int:
    """Where the model is on the Hub; 1, and how to push it later, when that failed."""
    if "error" not in result.push:
        print(f"pushed to {result.push['repo']}, commit {result.push['commit']}", file=sys.stderr)
        return 0
    again = f"ct-video-hf push {result.folder} {result.push['repo']}"
    again += " --public" * (result.push.get("private") is False)
    print(f"the model is finished and was not pushed: {result.push['error']}\nPush it later with: "
          f"{again}", file=sys.stderr)  # fmt: skip
    return 1
