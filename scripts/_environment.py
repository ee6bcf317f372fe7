"""Gives the scripts of this folder an environment of their own.

``ensure(extras)`` makes sure that the calling script runs in a virtual environment in which this
checkout is installed with the extras it needs: it makes the environment, installs, and starts the
script again in it. The environment is ``.venv`` in the checkout, or the folder that the variable
CT_VIDEO_HF_VENV names; CT_VIDEO_HF_VENV=none uses the running Python as it is.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_RESTARTED = "CT_VIDEO_HF_RESTARTED"


def _python(environment: Path) -> Path:
    folder, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return environment / folder / name


def _stamp(extras: tuple[str, ...]) -> str:
    described = (ROOT / "pyproject.toml").read_bytes() + repr((sorted(extras), ROOT)).encode()
    return hashlib.sha256(described).hexdigest()


def ensure(extras: tuple[str, ...]) -> None:
    """Return in an environment with this checkout and ``extras``, or start again in it and exit."""
    if sys.version_info < (3, 11):  # noqa: UP036 - the message is for those who run an older one
        sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}")
    chosen = os.environ.get("CT_VIDEO_HF_VENV", "")
    if chosen == "none" or os.environ.get(_RESTARTED):
        return
    environment = Path(chosen).expanduser() if chosen else ROOT / ".venv"
    python = _python(environment)
    if not python.exists():
        print(f"making a virtual environment in {environment}", file=sys.stderr, flush=True)
        venv.create(environment, with_pip=True)
    _install(python, environment, extras)
    command = [str(python), *sys.argv]
    try:
        finished = subprocess.run(command, env=os.environ | {_RESTARTED: "1"}, check=False)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(finished.returncode)


def _install(python: Path, environment: Path, extras: tuple[str, ...]) -> None:
    """Install this checkout, unless the same was installed before."""
    stamp = environment / f"ct_video_hf-{'-'.join(sorted(extras)) or 'plain'}.installed"
    expected = _stamp(extras)
    if stamp.exists() and stamp.read_text() == expected:
        return
    target = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    print(f"installing {ROOT.name} and what it needs (a few minutes)", file=sys.stderr, flush=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    finished = subprocess.run([*command, "--editable", target], check=False)
    if finished.returncode:
        sys.exit("the installation failed; what pip said stands above")
    stamp.write_text(expected)
