"""The process of one cell: ``python -m ct_video_hf.study.cell_process PARENT OPTIONS``.

It is ``ct-video-hf train`` with a file of options, and it ends with the process that started it: a
study that was killed, or a cluster's worker, would else leave a training behind, which writes into
the folder of the cell while the study, run again, trains it anew.
"""

from __future__ import annotations

import sys

from ..cli import main
from ..workers import end_with

__all__: list[str] = []

if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    sys.exit(main(["train", "--config", sys.argv[2], "--resume"]))
