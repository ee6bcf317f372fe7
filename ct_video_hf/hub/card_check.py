"""Is a model card complete, honest about its use, and free of what must not be published?"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import yaml

from .card_figures import pictures_in
from .model_folder import find_local_paths
from .private_text import find_private

__all__ = ["check_card_text", "check_model_card", "find_secrets"]

_SECTIONS = (
    "How to use it",
    "What it is for",
    "The model",
    "Data",
    "Preprocessing",
    "Training",
    "Results",
    "Limits",
    "Versions",
    "Citation",
)
_KEYS = ("library_name", "pipeline_tag", "license", "tags")
_LEFT_OVER = re.compile(r"\[More Information Needed\]|\{\{|\{%|\bNone\b|\bnan\b|\bTBD\b")


def check_model_card(path: str | os.PathLike) -> list[str]:
    """Look for problems in a card.

    Parameters
    ----------
    path : path-like
        The card, or the folder with its ``README.md``.

    Returns
    -------
    list of str
        A sentence for each problem; empty for a sound card.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "README.md"
    if not path.is_file():
        return [f"{path.name} is missing"]
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return [f"{path.name} is not UTF-8: {error}"]
    problems = check_card_text(text)
    for figure in pictures_in(text):
        if "://" not in figure and not (path.parent / figure).is_file():
            problems.append(f"the picture {figure} is missing")
    return problems


def check_card_text(text: str) -> list[str]:
    """:func:`check_model_card` on a card's text; pictures are not looked for."""
    match = re.match(r"---\r?\n(.*?)\r?\n---\r?\n(.*)", text, re.DOTALL)
    if match is None:
        return ["there is no metadata between --- lines at the start"]
    body = match.group(2)
    problems = _check_metadata(match.group(1))
    headings = set(re.findall(r"^##\s+(.+?)\s*$", body, re.MULTILINE))
    problems += [f"the section “{name}” is missing" for name in _SECTIONS if name not in headings]
    if "not for clinical use" not in body.lower():
        problems.append("“Not for clinical use” is missing")
    if "```python" not in body:
        problems.append("there is no code that shows how to use the model")
    problems += _check_secrets(text)
    problems += [f"a placeholder is left: {word}" for word in sorted(set(_LEFT_OVER.findall(text)))]
    return problems


def _check_secrets(text: str) -> list[str]:
    places = [f"a place on a machine: {place}" for place in find_local_paths(text)[:1]]
    return [f"it holds {found}" for found in places + find_secrets(text)]


def find_secrets(text: str) -> list[str]:
    """DICOM UIDs, mail addresses, access tokens and the like in a text, one of each kind, in words.

    Nothing of it is repeated.
    """
    return [hit for hit in find_private(text) if not hit.startswith("a place on a machine")]


def _check_metadata(source: str) -> list[str]:
    try:
        data = yaml.safe_load(source)
    except yaml.YAMLError as error:
        return [f"the metadata is not valid YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata is not a mapping"]
    problems = [f"the metadata lacks {key}" for key in _KEYS if not data.get(key)]
    if data.get("license") == "other" and not data.get("license_name"):
        problems.append("the metadata says license: other without a license_name")
    for index in data.get("model-index") or []:
        problems += _check_results(index.get("results") or [])
    return problems


def _check_results(results: list[dict[str, Any]]) -> list[str]:
    problems = []
    for result in results:
        for metric in result.get("metrics") or []:
            name, value = metric.get("name") or metric.get("type"), metric.get("value")
            if not isinstance(value, int | float) or not math.isfinite(value):
                problems.append(f"the result {name} is {value!r}, no number")
            if "/" not in str(metric.get("name")):
                problems.append(
                    f"the result {name} does not say whether it counts clips or studies"
                )
    return problems
