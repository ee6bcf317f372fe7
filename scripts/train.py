"""The same as ``ct-video-hf train``, as a script: ``accelerate launch scripts/train.py ...``."""

import sys

from ct_video_hf.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
