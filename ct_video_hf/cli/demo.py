"""``ct-video-hf demo``: a page on this machine on which scans are dropped, scored and looked at."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]

_EPILOG = """\
The page is for this machine alone unless --host says otherwise; it has no password, and loads
nothing from elsewhere. Uploads are deleted as soon as they have been read, volumes when the page is
closed; nothing about a scan is logged.

  ct-video-hf demo my_model
  ct-video-hf demo me/my-model --port 8000 --open

Needs the extra: pip install "ct-video-hf[demo]". Not for clinical use.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("model", metavar="MODEL", help="model folder or Hub id (user/model)")
    parser.add_argument("--revision", help="branch, tag or commit of MODEL on the Hub")
    parser.add_argument("--label", help="label that the study score is about")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    parser.add_argument(
        "--port", type=int, metavar="N", help="default: the first free one from 7860"
    )
    parser.add_argument("--host", metavar="NAME", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument(
        "--examples", type=Path, metavar="DIR", help="example scans, as a Space has them"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from ..demo import serve

    running = serve(
        args.model,
        revision=args.revision,
        label=args.label,
        device=args.device,
        host=args.host or "127.0.0.1",
        port=args.port,
        open_browser=args.open,
        examples=args.examples,
    )
    print(f"The demo is at {running.url}  (Ctrl+C ends it)", flush=True)
    print("Not for clinical use.", flush=True)
    running.wait()
    return 0
