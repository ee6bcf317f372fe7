"""What of a model folder may be published: a list of what goes, and reasons against the rest."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CTVideoError
from .card_check import find_secrets
from .model_folder import check_model_folder, find_local_paths

__all__ = ["Plan", "plan_upload"]

#: What a model repository consists of; anything else stays at home.
_PUBLIC = re.compile(
    r"config\.json|video_preprocessor_config\.json|generation_config\.json"
    r"|model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?"
    r"|training_config\.json|conversion\.json|calibration\.json|metrics\.json|README\.md"
    r"|training_log\.csv|[a-z][a-z0-9_]*\.py|figures/[\w-]+\.png"
)
#: Scans and what is made of them.
_PATIENTS = (".dcm", ".dicom", ".ima", ".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".arrow")
_TEXT = (".json", ".md", ".py", ".csv")
_DICOM_PREFIX = b"DICM"
#: Keys under which names of studies and patients stand; the counts beside them are kept.
_NAMES = frozenset({"study_id", "study_ids", "patient_id", "patient_ids", "patient_hash"})


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


def plan_upload(folder: Path, card: str) -> Plan:
    """Decide what of a model folder goes to the Hub.

    Parameters
    ----------
    folder : pathlib.Path
    card : str
        Text of the card, which replaces the folder's.

    Raises
    ------
    CTVideoError
        The folder is a prepared set or holds scans, is no sound model folder, or something that
        would go holds a path of a machine, an access token, a mail address or a DICOM UID.
    """
    _refuse_patients(folder)
    problems = check_model_folder(folder)
    if problems:
        raise CTVideoError(f"{folder.name} is not pushed: {'; '.join(problems)}.")
    files: dict[str, Path | bytes] = {}
    left_out = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            continue
        if path.is_symlink() or not _PUBLIC.fullmatch(name):
            left_out.append(name)
        else:
            files[name] = path
    files["README.md"] = card.encode("utf-8")
    for name, entry in files.items():
        if name.endswith(".json") and isinstance(entry, Path):
            files[name] = _without_studies(entry)
    for name, entry in files.items():
        _refuse_secrets(name, entry)
    return Plan(files, left_out)


def _refuse_patients(folder: Path) -> None:
    if (folder / "parameters.json").is_file() or (folder / "private").is_dir():
        raise CTVideoError(
            f"{folder.name} is a prepared set, not a model: patients' scans do not go to a model "
            "repository."
        )
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (path.name.lower().endswith(_PATIENTS) or _begins_like_dicom(path)):
            raise CTVideoError(
                f"{folder.name} holds what looks like a patient's scan "
                f"({path.relative_to(folder).as_posix()}). Take it out of the folder; a model "
                "repository needs none."
            )


def _begins_like_dicom(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == _DICOM_PREFIX


def _without_studies(path: Path) -> Path | bytes:
    """A JSON file without names of studies and patients, as it is where it has none."""
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = _pruned(content)
    if kept == content:
        return path
    return (json.dumps(kept, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def _pruned(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _pruned(entry) for key, entry in content.items() if key not in _NAMES}
    return [_pruned(entry) for entry in content] if isinstance(content, list) else content


def _refuse_secrets(name: str, entry: Path | bytes) -> None:
    if not name.endswith(_TEXT):
        return
    data = entry.read_bytes() if isinstance(entry, Path) else entry
    text = data.decode("utf-8", errors="replace")
    found = find_secrets(text)
    if not name.endswith(".py"):  # code may speak of paths
        found += [f"a place on a machine: {place}" for place in find_local_paths(text)[:1]]
    if found:
        raise CTVideoError(f"{name} is not pushed, it holds {'; '.join(found)}.")
