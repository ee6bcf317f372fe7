"""The ``ct-video-hf`` command line.

One file a command, each with ``add_arguments(parser)`` and ``run(args) -> int``. Only the file of
the command that was asked for is imported, and it imports anything heavy inside ``run``, so that
``--help`` answers at once.

Exit codes: 0 success, 1 failure, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import sys
import warnings

from ..workers import clear_away_quietly

__all__ = ["COMMANDS", "main"]

#: command -> its one-line description; the command's code is the module of the same name here.
COMMANDS = {
    "inspect": "look at a scan or a prepared set: geometry, findings, counts",
    "prepare": "turn scans into a prepared set",
    "train": "finetune a backbone on a prepared set",
    "features": "write clip features of a prepared set, or of one scan",
    "probe": "fit a linear head on the features of a set, in seconds",
    "evaluate": "score a model on a prepared set, with intervals",
    "predict": "predict on scans: a DICOM folder, a zip, NIfTI, or a folder of studies",
    "convert": "turn published weights into a model folder; list all backbones",
    "export": "write a model as an ONNX or OpenVINO graph that predict runs",
    "study": "plan, run and report the paper's grid of experiments, or one of your own",
    "push": "push a model folder or a prepared set to the Hub",
    "demo": "serve a page on this machine: drop a scan, see its score and slices",
    "space": "write the demo of a model as a Gradio Space, and push it to the Hub",
    "card": "render or check the model card of a model folder",
}


def _add_common(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("common options")
    group.add_argument("-v", "--verbose", action="store_true", help="log what is being done")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress bars, no warnings")
    group.add_argument(
        "--traceback", action="store_true", help="show the Python traceback of an error"
    )


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The whole parser; the options of ``command`` (all commands when None) are filled in."""
    from .. import __version__

    parser = argparse.ArgumentParser(
        prog="ct-video-hf",
        description="Video-pretrained 3D networks on chest CT. Not for clinical use.",
        epilog="ct-video-hf COMMAND --help tells a command's options.",
    )
    parser.add_argument("--version", action="version", version=f"ct-video-hf {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, description in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=description,
            description=description[0].upper() + description[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if command in (None, name):
            importlib.import_module(f".{name}", __name__).add_arguments(subparser)
            _add_common(subparser)
            options = [word for action in subparser._actions for word in action.option_strings]
            subparser.set_defaults(wrong_use=subparser.error, options=options)
    return parser


def _silence_torch_jit() -> None:
    """Keep one deprecation warning, which is not about what the user does, off the terminal.

    pytorchvideo scripts two activation functions when it is imported, and torch says on stderr
    that ``torch.jit.script`` is deprecated. Only processes that the command line owns are quiet,
    through the variable also those that they start; importing the package as a library hides
    nothing.
    """
    message = "`torch.jit.script` is deprecated"
    warnings.filterwarnings("ignore", message=message, category=FutureWarning)
    rule = f"ignore:{message}:FutureWarning"
    rules = os.environ.get("PYTHONWARNINGS", "").split(",")
    if rule not in rules:
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [*rules, rule]))


def _configure_logging(args: argparse.Namespace) -> None:
    level = logging.INFO if args.verbose else logging.ERROR if args.quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", force=True)
    if args.quiet:
        os.environ["TQDM_DISABLE"] = "1"
        os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code; raises SystemExit(2) on wrong use."""
    argv = sys.argv[1:] if argv is None else argv
    command = next((word for word in argv if not word.startswith("-")), "")
    parser = build_parser(command if command in COMMANDS else "")
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        args.wrong_use(_unknown_words(unknown, args.options))
    _configure_logging(args)
    _silence_torch_jit()
    module = importlib.import_module(f".{args.command}", __name__)
    try:
        return module.run(args)
    except KeyboardInterrupt:
        clear_away_quietly()
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.traceback:
            raise
        print(f"ct-video-hf {args.command}: error: {_describe(error)}", file=sys.stderr)
        return 1


def _unknown_words(words: list[str], options: list[str]) -> str:
    """What is not understood, with the option that is meant most likely."""
    hints = []
    for word in words:
        if word.startswith("--"):
            near = difflib.get_close_matches(word.partition("=")[0], options, n=1, cutoff=0.8)
            hints += [f"; did you mean {near[0]}?"] if near else []
    return f"unrecognized arguments: {' '.join(words)}{''.join(hints[:1])}"


def _describe(error: Exception) -> str:
    from ..errors import CTVideoError

    text = str(error)
    if "\nOriginal Traceback (" in text:  # of a DataLoader's worker: its own error comes last
        text = text.rstrip().rpartition(f"{type(error).__name__}: ")[2]
    if isinstance(error, OSError | CTVideoError | ValueError | ImportError) and text:
        return text
    return f"{type(error).__name__}: {text} (run again with --traceback for the whole story)"
