"""``python -m ct_video_hf.training`` and ``accelerate launch -m ct_video_hf.training``."""

import sys

from ..cli import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
