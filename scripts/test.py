#!/usr/bin/env python3
"""Run all tests in an environment of their own: lint, format, then pytest.

    python3 scripts/test.py              everything
    python3 scripts/test.py -k reader    anything after the name goes to pytest

CT_VIDEO_HF_REAL_DATA names a folder of real scans for the tests that want more than the excerpt
that ships with the project; without it those are skipped and say so.
"""

from __future__ import annotations

import os
import subprocess
import sys

from _environment import ROOT, ensure


def main() -> int:
    """Exit code of the first check that fails, 0 when all pass."""
    ensure(("test",))
    arguments = sys.argv[1:]
    checks = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["pytest", "-n", str(min(4, os.cpu_count() or 1)), "--dist", "worksteal", *arguments],
    ]
    for check in checks[2:] if arguments else checks:
        print(f"$ {' '.join(check)}", flush=True)
        code = subprocess.run([sys.executable, "-m", *check], cwd=ROOT, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
