"""A complete model folder: weights, configuration, processor and the code that reads them."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CTVideoError
from ..files import move_into_place

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..models import CTVideoProcessor

__all__ = ["check_model_folder", "find_local_paths", "save_model_folder"]

logger = logging.getLogger(__name__)

_PROCESSOR_FILE = "video_preprocessor_config.json"
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".npy", ".npz")
# /home/ada/..., /Users/ada/..., /mnt/..., C:\Users\...; not /resolve/... of an address
_LOCAL_PATH = re.compile(
    r"(?<![\w.:/~-])(?:~|/(?:home|Users|root|mnt|data|tmp|var|opt|scratch|work|media|srv|private))"
    r"/[\w.\-/]+|\b[A-Za-z]:\\+[\w.\- \\]+"
)


def save_model_folder(
    model: PreTrainedModel, processor: CTVideoProcessor, out: str | os.PathLike
) -> Path:
    """Write weights (safetensors), configuration, processor and code as one loadable folder.

    Everything is written and checked in a hidden folder beside ``out`` first. A new folder then
    appears at once, by one rename. In a folder that exists already each file is replaced by one
    rename, configuration last, older weights under other names go, and other files stay.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A classifier; in whatever mode and on whatever device.
    processor : CTVideoProcessor
        The one that the model was trained with.
    out : path-like

    Returns
    -------
    pathlib.Path
        ``out``.

    Raises
    ------
    CTVideoError
        When ``out`` is a file, a folder with files but no model, or what was written does not
        pass :func:`check_model_folder`.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise CTVideoError(f"{out.name} is a file; a model folder cannot be written there.")
    filled = out.is_dir() and any(out.iterdir())
    if filled and not (out / "config.json").is_file():
        raise CTVideoError(
            f"The folder {out.name} holds files and is no model folder; choose another one."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        stage.chmod(0o755)  # mkdtemp's own mode would keep everybody else out of the model
        model.save_pretrained(stage)
        processor.save_pretrained(stage)
        problems = check_model_folder(stage)
        if problems:
            raise CTVideoError(f"The model folder is not complete: {'; '.join(problems)}.")
        if filled:
            written = {file.name for file in stage.iterdir()}
            move_into_place(stage, out, last="config.json")
            _drop_old_weights(out, written)
        else:
            if out.exists():
                out.rmdir()
            os.replace(stage, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return out


def _drop_old_weights(folder: Path, written: set[str]) -> None:
    for file in folder.iterdir():
        if _WEIGHTS.fullmatch(file.name) and file.name not in written:
            file.unlink()


def check_model_folder(path: str | os.PathLike) -> list[str]:
    """Look for what would keep others from loading a model folder.

    Checks that configuration and processor are JSON and name their classes, that every module
    which they and those modules import lies beside them, that all tensors of the safetensors files
    can be reached, that nothing is pickled and that no JSON file names a place on this machine.

    Returns
    -------
    list of str
        A sentence for each problem; empty for a sound folder.
    """
    path = Path(path)
    problems: list[str] = []
    config = _json(path / "config.json", problems)
    processor = _json(path / _PROCESSOR_FILE, problems)
    if config is not None and not config.get("model_type"):
        problems.append("config.json names no model_type")
    for name, content in (("config.json", config), (_PROCESSOR_FILE, processor)):
        if content is not None:
            problems += _check_code(path, name, content)
    problems += _check_weights(path)
    problems += [
        f"{file.name} is pickled or of an unsafe kind; only safetensors belong here"
        for file in sorted(path.glob("*"))
        if file.suffix in _PICKLES
    ]
    for file in sorted(path.glob("*.json")):
        places = find_local_paths(file.read_text(encoding="utf-8", errors="replace"))
        if places:
            problems.append(f"{file.name} names a place on a machine: {places[0]}")
    return problems


def find_local_paths(text: str) -> list[str]:
    """Absolute paths of a home, data or temporary folder in a text."""
    return _LOCAL_PATH.findall(text)


def _json(path: Path, problems: list[str]) -> dict[str, Any] | None:
    if not path.is_file():
        problems.append(f"{path.name} is missing")
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        problems.append(f"{path.name} is not valid JSON: {error}")
        return None
    if not isinstance(content, dict):
        problems.append(f"{path.name} holds no JSON object")
        return None
    return content


def _check_code(path: Path, name: str, content: dict[str, Any]) -> list[str]:
    auto_map = content.get("auto_map")
    if not isinstance(auto_map, dict) or not auto_map:
        if content.get("model_type") and not _is_ours(content["model_type"]):
            return []  # a class of transformers needs no code
        return [f"{name} has no auto_map, so it cannot be loaded without the package"]
    problems: list[str] = []
    for target in auto_map.values():
        module, _, class_name = str(target).partition(".")
        problems += _check_module(path, module, class_name)
    return sorted(set(problems))


def _is_ours(model_type: str) -> bool:
    return str(model_type).startswith("ct_")


def _check_module(path: Path, module: str, class_name: str) -> list[str]:
    """That a module, its class and everything it imports relatively lie in the folder."""
    problems, waiting, seen = [], [module], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        file = path / f"{name}.py"
        if not file.is_file():
            problems.append(f"{name}.py is missing, which the saved classes need")
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        for node in imported:
            if node.level:
                waiting += [node.module] if node.module else [alias.name for alias in node.names]
            elif (node.module or "").split(".")[0] == "ct_video_hf":
                problems.append(f"{name}.py imports ct_video_hf, which others need not have")
        if name == module:
            classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
            if class_name not in classes:
                problems.append(f"{name}.py has no class {class_name}")
    return problems


def _check_weights(path: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    files = sorted(path.glob("*.safetensors"))
    if not list(path.glob("model*.safetensors")):
        return ["there are no weights (model.safetensors)"]
    problems, found = [], set()
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                found |= set(tensors.keys())
        except (SafetensorError, OSError) as error:
            problems.append(f"{file.name} is damaged: {error}")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        wanted = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        if not wanted <= found:
            problems.append(f"{len(wanted - found)} tensors of {index.name} are in no file")
    return problems
