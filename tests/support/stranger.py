"""A process that has transformers and not this package, whatever is installed: a Hub user's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_BLOCK = "import sys\nsys.modules['ct_video_hf'] = None  # importing it fails from here on\n"


def run_as_stranger(code: str, *arguments, folder: Path, timeout: int = 240) -> str:
    """Run Python ``code`` with ``sys.argv[1:] == arguments`` in ``folder``; what it printed.

    ``import ct_video_hf`` raises ImportError in it, and the Hub cannot be reached.
    """
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {
        "HF_HOME": str(folder / "home"),
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(folder / "home" / "modules"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", _BLOCK + code, *map(str, arguments)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
