"""Writing the demo as a Gradio Space: app, requirements, page, this package, generated examples."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import yaml

from ..data.hub_sets import is_repo_id
from ..data.phantom import PhantomParameters, generate_study
from ..dicom.write import write_series
from ..errors import CTVideoError
from ..hub.private_text import find_private
from ..hub.space_repo import commit_of
from .serve import _need_gradio

__all__ = ["write_space"]

_PACKAGE = Path(__file__).resolve().parents[1]
_PHANTOM = PhantomParameters(matrix=192, pixel_mm=1.5, slice_mm=3.0, slices=(48, 48))
_EXAMPLES = (("phantom_nodule", True), ("phantom_no_nodule", False))

_APP = '''"""The demo of {model}. Not for clinical use."""

from ct_video_hf.demo import serve_space

if __name__ == "__main__":
    serve_space({model!r}, revision={commit!r})
'''
_README = """---
{metadata}---

# Whole-study prediction on chest CT

**Not for clinical use.** Research software, no medical device.

This Space scores a chest CT scan (a zip of a DICOM folder, DICOM files, or NIfTI) with
[{model}](https://huggingface.co/{model}) and shows where the score comes from. Do not upload scans
that you may not share with the machine that runs it: headers are neither shown nor kept, uploads
are deleted as soon as they have been read and volumes when the page is closed, but a Space is a
machine of others.

The model is the one at commit
[`{commit}`](https://huggingface.co/{model}/tree/{commit}), whatever is pushed there later: the
same scan gets the same score.

The example scans are generated: bodies, lungs, vessels and nodules made of geometry and noise.
They show no person, and scores of them say nothing about patients.

Run it on your own machine instead: `pip install -r requirements.txt && python app.py`.

The code of the package `ct_video_hf` lies beside `app.py`, under the Apache License 2.0.
"""


def write_space(
    folder: str | os.PathLike,
    repo: str,
    model: str,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> list[str]:
    """Write everything that a Space needs into a new folder.

    Parameters
    ----------
    folder : path
        Must not be there, or be empty.
    repo : str
        ``user/name`` of the Space.
    model : str
        Hub id of the model.
    revision : str, optional
        Branch, tag or commit of the model; main by default. The Space takes the commit that this
        is now, so that its answers do not change with what is pushed to the model later.
    token : str, optional
        For the Hub, instead of the one that `hf auth login` or ``HF_TOKEN`` left.

    Returns
    -------
    list of str
        Paths in the folder, with ``/``.

    Raises
    ------
    CTVideoError
        A name that is none of the Hub, a model that is a folder of this machine or is not on the
        Hub, or a folder that holds something.
    """
    folder = Path(folder)
    for what, name in (("REPO", repo), ("MODEL", model)):
        if not is_repo_id(name) or (what == "MODEL" and Path(name).is_dir()):
            raise CTVideoError(
                f"{what} is {name!r}; a Hub id such as user/name is expected. A Space takes its "
                "model from the Hub: push a folder there first (ct-video-hf push)."
            )
    if folder.exists() and any(folder.iterdir()):
        raise CTVideoError(f"{folder.name} is not empty; choose another folder for the Space.")
    commit = commit_of(model, revision, token=token)
    folder.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(stage, model, commit)
        stage.chmod(0o755)
        os.replace(stage, folder)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    found = folder.rglob("*")
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())


def _write(stage: Path, model: str, commit: str) -> None:
    texts = {
        "app.py": _APP.format(model=model, commit=commit),
        "requirements.txt": "\n".join(_requirements()) + "\n",
        "README.md": _readme(model, commit),
    }
    for name, text in texts.items():
        found = find_private(text)
        if found:
            raise CTVideoError(f"{name} of the Space would hold {'; '.join(found)}.")
        (stage / name).write_text(text, encoding="utf-8", newline="\n")
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    shutil.copytree(_PACKAGE, stage / _PACKAGE.name, ignore=ignored)
    _write_examples(stage / "examples")


def _readme(model: str, commit: str) -> str:
    _need_gradio()
    import gradio

    metadata = {
        "title": "Chest CT prediction",
        "emoji": "🫁",
        "colorFrom": "blue",
        "colorTo": "gray",
        "sdk": "gradio",
        "sdk_version": gradio.__version__,
        "python_version": "{}.{}".format(*sys.version_info[:2]),  # a Space's own is older
        "app_file": "app.py",
        "pinned": False,
        "license": "apache-2.0",
        "models": [model],
        "short_description": "Chest CT, scored. Not for clinical use.",
        "tags": ["medical", "computed-tomography", "video-classification"],
    }
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return _README.format(metadata=head, model=model, commit=commit)


def _requirements() -> list[str]:
    """What this package and its extra ``demo`` require, as its installation says."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        listed = requires("ct-video-hf") or []
    except PackageNotFoundError as error:
        raise CTVideoError(
            "A Space lists what this package requires, which only an installation knows: "
            'pip install "ct-video-hf[demo]"'
        ) from error
    plain = [line for line in listed if "extra ==" not in line]
    demo = [line.partition(";")[0] for line in listed if re.search(r"extra == .demo.", line)]
    if not demo:
        raise CTVideoError(
            "This installation knows nothing of the extra demo, so it is older than the code: "
            'pip install "ct-video-hf[demo]" again.'
        )
    return sorted(line.strip() for line in plain + demo)


def _write_examples(folder: Path) -> None:
    folder.mkdir()
    entries = []
    for seed, (name, positive) in enumerate(_EXAMPLES):
        study = generate_study(np.random.default_rng(seed), positive, _PHANTOM)
        with tempfile.TemporaryDirectory(dir=folder) as made:
            spacing = (_PHANTOM.slice_mm, _PHANTOM.pixel_mm, _PHANTOM.pixel_mm)
            write_series(study.hu, Path(made) / name, key=name, spacing=spacing)
            with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                for path in sorted((Path(made) / name).iterdir()):
                    archive.write(path, path.name)
        kind = "with a nodule" if positive else "without a nodule"
        entry = {
            "file": f"{name}.zip",
            "title": f"generated, {kind}",
            "words": f"A chest made of geometry and noise, {kind}; no person.",
            "licence": "Apache-2.0",
        }
        entries.append(entry)
    (folder / "examples.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
