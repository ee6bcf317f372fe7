"""``ct-video-hf push``: a model folder or a prepared set to a repository of the Hub."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

__all__ = ["add_arguments", "run"]

_EPILOG = """\
A model folder becomes a model repository in one commit: weights, configuration, processor, code,
calibration, metrics, figures and a card for that name. Predictions, checkpoints and names of
studies stay at home; a guard refuses scans, prepared sets, paths of this machine and secrets. Every
file's hash on the Hub is compared afterwards. An exported model is refused: push the model that it
was made of, from which everybody exports the graph.

  ct-video-hf push my_model me/my-model --dry-run
  ct-video-hf push my_model me/my-model --license cc-by-4.0

A prepared set becomes a dataset repository, as Parquet with plain columns, and is read back by its
name. A push that is cut off goes on when the same command is given again. private/ never leaves,
and names of studies become salted hashes unless --study-names is given. Sets whose source may not
be passed on, such as RSNA STR PE, go to private repositories only.

  ct-video-hf push my_set me/my-set
  load_ct_dataset("me/my-set", split="train", streaming=True)

Log in first with `hf auth login`. Not for clinical use.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="model folder or prepared set")
    parser.add_argument("repo", metavar="REPO", help="user/name; made if it is not there")
    seen = parser.add_mutually_exclusive_group()
    seen.add_argument(
        "--private", action="store_true", help="to a private repository (the default)"
    )
    seen.add_argument("--public", action="store_true", help="to a public repository")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    model = parser.add_argument_group("of a model folder")
    model.add_argument("--revision", default="main", metavar="BRANCH",
                       help="branch, made if it is not there (default: main)")  # fmt: skip
    model.add_argument("--license", metavar="ID", help="licence that these weights are published "
                       "under, such as cc-by-4.0 (default: not stated)")  # fmt: skip
    model.add_argument("--dataset-id", metavar="REPO", help="Hub id of the data set that the "
                       "metrics were measured on: results go to .eval_results, too")  # fmt: skip
    model.add_argument("--dry-run", action="store_true", help="check and list, send nothing")
    data = parser.add_argument_group("of a prepared set")
    data.add_argument("--study-names", action="store_true", help="publish the names of studies as "
                      "they are, for scans that are public already")  # fmt: skip
    data.add_argument("--shard-mb", type=int, default=500, metavar="MB",
                      help="size of a shard (default: 500)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Push and say what was done."""
    if args.shard_mb < 1:
        args.wrong_use("--shard-mb must be at least 1")
    is_set = (args.folder / "parameters.json").is_file()
    if is_set and (args.dry_run or args.revision != "main" or args.license or args.dataset_id):
        args.wrong_use(f"{args.folder.name} is a prepared set; options of model folders were given")
    return _push_set(args) if is_set else _push_model(args)


def _push_set(args: argparse.Namespace) -> int:
    from ..hub.set_repo import push_set

    summary = push_set(
        args.folder,
        args.repo,
        private=not args.public,
        study_names=args.study_names,
        shard_bytes=args.shard_mb * 1_000_000,
        progress=not args.quiet,
    )
    if args.json:
        print(json.dumps(asdict(summary)))
        return 0
    kind = "private" if summary.private else "public"
    print(f"{summary.repo} ({kind}): {summary.studies} studies in {summary.shards} shards,")
    print(f"  {summary.shards - summary.kept} pushed now, {summary.kept} there already")
    return 0


def _push_model(args: argparse.Namespace) -> int:
    from ..hub.model_repo import push_model

    told = push_model(
        args.folder,
        args.repo,
        private=not args.public,
        revision=args.revision,
        license=args.license,
        dataset_id=args.dataset_id,
        dry_run=args.dry_run,
    )
    if args.json:
        print(json.dumps(told.to_dict(), indent=2))
        return 0
    kind = "private" if told.private else "public"
    for name in told.files:
        print(f"  {name}")
    print(f"{len(told.files)} files, {told.bytes / 1e6:.1f} MB, for {told.repo} ({kind})")
    if told.left_out:
        print(f"stays at home: {', '.join(told.left_out)}")
    if told.commit is None:
        print("dry run: nothing was sent")
    else:
        print(f"commit {told.commit} on {told.revision}; {told.verified} hashes compared")
    return 0
