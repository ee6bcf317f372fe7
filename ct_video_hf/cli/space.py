"""``ct-video-hf space``: the demo as a Gradio Space, written into a folder and pushed."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]

_EPILOG = """\
Writes app.py, requirements.txt, a README with the Space's metadata, the code of this package, and
two example scans, which are generated. The Space takes the model from the Hub when it starts, at
the commit that --revision is now, whatever is pushed to the model later; write the Space again for
another. A private model needs a token in the Space's secrets (HF_TOKEN).

  ct-video-hf space me/my-demo --model me/my-model --out my_space
  ct-video-hf space me/my-demo --model me/my-model --revision v1 --push --private

Log in first with `hf auth login`. Needs the extra: pip install "ct-video-hf[demo]". Not for
clinical use.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("repo", metavar="REPO", help="user/name of the Space")
    parser.add_argument("--model", required=True, metavar="MODEL", help="Hub id (user/model)")
    parser.add_argument("--revision", help="branch, tag or commit of MODEL (default: main)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep what is written here")
    parser.add_argument("--push", action="store_true", help="push it to the Hub")
    parser.add_argument("--private", action="store_true", help="to a private Space")
    parser.add_argument("--dry-run", action="store_true", help="write and list, send nothing")


def run(args: argparse.Namespace) -> int:
    """Write, list and push."""
    push = args.push and not args.dry_run
    if not (push or args.dry_run or args.out):
        args.wrong_use("say where it goes: --out DIR, --push, or --dry-run")
    if args.private and not args.push:
        args.wrong_use("--private is for --push")
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        folder = args.out or Path(made) / "space"
        _write(args, folder)
        if push:
            from ..hub.space_repo import push_space

            commit = push_space(folder, args.repo, private=args.private)
            print(f"commit {commit} of Space {args.repo}")
        else:
            print("nothing was sent")
    return 0


def _write(args: argparse.Namespace, folder: Path) -> None:
    from ..demo.space import write_space

    files = write_space(folder, args.repo, args.model, revision=args.revision)
    code = [name for name in files if name.startswith("ct_video_hf/")]
    for name in files:
        if name not in code:
            print(f"  {name}")
    size = sum((folder / name).stat().st_size for name in files)
    print(f"and {len(code)} files of this package: {len(files)} files, {size / 1e6:.1f} MB")
    if args.out is not None:
        print(f"written to {folder}")
