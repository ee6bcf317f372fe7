"""What of a model folder may be published: a list of what goes, and reasons against the rest.

A refusal names the file and the rule, never what was found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import CTVideoError
from .card_export import PARITY_FILE
from .card_figures import FIGURES
from .guard_files import foreign_attention, foreign_tensors, problems_of, without_studies
from .model_folder import check_model_folder
from .scan_files import what_of_patients

__all__ = ["Plan", "plan_upload", "refuse_private"]

#: What a model repository consists of; anything else stays at home.
_PUBLIC = re.compile(
    r"config\.json|video_preprocessor_config\.json|generation_config\.json"
    r"|model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?"
    r"|training_config\.json|conversion\.json|calibration\.json|metrics\.json|README\.md"
    r"|attention\.(json|safetensors)"
    rf"|training_log\.csv|[a-z][a-z0-9_]*\.py|figures/({'|'.join(FIGURES)})(_dark)?\.png"
)
#: Tables with names of studies that training and evaluation themselves leave, for the user alone.
_OWN_TABLES = re.compile(r"predictions(_\w+)?\.(csv|parquet)")


@dataclass(frozen=True)
class Plan:
    """What a push sends.

    Attributes
    ----------
    files : dict of str to Path or bytes
        Path in the repository -> a file, or its content where it differs from the file.
    left_out : list of str
        Names that stay at home: predictions, logs, checkpoints and whatever is not known.
    """

    files: dict[str, Path | bytes]
    left_out: list[str]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(
            entry.stat().st_size if isinstance(entry, Path) else len(entry)
            for entry in self.files.values()
        )


def plan_upload(folder: Path) -> Plan:
    """Decide what of a model folder goes to the Hub; its card is left to the caller.

    Parameters
    ----------
    folder : pathlib.Path

    Raises
    ------
    CTVideoError
        The folder is a prepared set or an exported model, holds scans or tables of patients
        anywhere, is no sound model folder, or something that would go is a link that leaves the
        folder, holds identifiers, secrets or a path of a machine, text beside a picture, tensors
        that are no part of the network, or code that is not this package's.
    """
    if (folder / "parameters.json").is_file() or (folder / "private").is_dir():
        raise CTVideoError(
            f"{folder.name} is a prepared set, not a model: patients' scans do not go to a model "
            "repository."
        )
    if (folder / PARITY_FILE).is_file():
        raise CTVideoError(
            f"{folder.name} is not pushed: it is an exported model, and nobody can tell what its "
            "graph holds beside the network. Push the model that it was made of; whoever wants the "
            "graph makes it from there: ct-video-hf export REPO OUT --format onnx (or openvino)."
        )
    files: dict[str, Path | bytes] = {}
    left_out = []
    for name, path in _entries(folder):
        if not _PUBLIC.fullmatch(name):
            _refuse_patients(folder, name, path)
            left_out.append(name)
        elif not _stays_inside(folder, path):
            raise CTVideoError(
                f"{name} is not pushed: it is a link that leaves the folder, as everything in the "
                "Hub's cache is. Copy the model (`hf download REPO --local-dir FOLDER`) and push "
                "the copy."
            )
        else:
            _refuse_patients(folder, name, path)
            files[name] = _content(name, path)
    files.pop("README.md", None)
    for name, entry in files.items():
        refuse_private(name, entry)
    problems = check_model_folder(folder) or foreign_tensors(folder) + foreign_attention(folder)
    if problems:
        raise CTVideoError(f"{folder.name} is not pushed: {'; '.join(problems)}.")
    return Plan(files, left_out)


def refuse_private(name: str, entry: Path | bytes) -> None:
    """Stop a file that must not be published.

    Raises
    ------
    CTVideoError
        With the file's name and the rule.
    """
    if name.endswith(".safetensors"):
        return
    problems = problems_of(name, entry.read_bytes() if isinstance(entry, Path) else entry)
    if problems:
        raise CTVideoError(f"{name} is not pushed: {'; '.join(problems)}.")


def _entries(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files and links below a folder; links to folders are not followed."""
    for base, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(base, name))]
        for entry in sorted([*files, *links]):
            path = Path(base, entry)
            yield path.relative_to(folder).as_posix(), path
        folders.sort()


def _stays_inside(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _refuse_patients(folder: Path, name: str, path: Path) -> None:
    if not path.is_file() or not _stays_inside(folder, path) or _OWN_TABLES.fullmatch(name):
        return
    what = what_of_patients(path)
    if what is not None:
        raise CTVideoError(
            f"{folder.name} is not pushed: {name} looks like patient data ({what}). Take it out of "
            "the folder; a model repository needs none."
        )


def _content(name: str, path: Path) -> Path | bytes:
    """The file itself, or its content without names of studies."""
    if not name.endswith(".json"):
        return path
    data = path.read_bytes()
    kept = without_studies(data)
    return path if kept == data else kept
