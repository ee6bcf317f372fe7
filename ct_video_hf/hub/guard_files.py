"""Whether a single file of a model folder may be published, each kind by its own rules."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import CTVideoError
from .private_text import find_private, find_private_json

__all__ = ["foreign_attention", "foreign_tensors", "problems_of", "without_studies"]

#: No record of a training or an evaluation is longer; a table of numbers may be.
_LONGEST_TEXT = 5_000_000
#: Names of studies and patients, which are taken out; the counts beside them are kept.
_NAMES = frozenset(
    [
        "study_id",
        "study_ids",
        "patient_id",
        "patient_ids",
        "patient_hash",
        "salt_check",
        "fingerprint",
    ]
)
_PNG = b"\x89PNG\r\n\x1a\n"
#: Chunks that make a picture and its colours; all others may hold text, EXIF or anything else.
_PNG_CHUNKS = frozenset(
    [b"IHDR", b"PLTE", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"pHYs",
     b"tRNS", b"hIST"]
)  # fmt: skip


def without_studies(data: bytes) -> bytes:
    """A JSON file without names of studies and patients; the same bytes where it has none."""
    try:
        content = json.loads(data.decode("utf-8"))
    except ValueError:
        return data  # which its own rule will say
    kept = _pruned(content)
    if kept == content:
        return data
    return (json.dumps(kept, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def _pruned(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _pruned(entry) for key, entry in content.items() if key not in _NAMES}
    return [_pruned(entry) for entry in content] if isinstance(content, list) else content


def problems_of(name: str, data: bytes) -> list[str]:
    """Why a file's content must not be published, in words that do not repeat it.

    Parameters
    ----------
    name : str
        Its path in the repository; the suffix says which rules hold.
    data : bytes
        Its content. Weights are looked at by :func:`foreign_tensors` instead.
    """
    return _RULES[Path(name).suffix](name, data)


def _text(data: bytes) -> tuple[str, list[str]]:
    if len(data) > _LONGEST_TEXT:
        return "", [f"it has {len(data)} bytes, more than a record of a model needs"]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "", ["it is not UTF-8, so that nobody can say what it holds"]
    return text, [f"it holds {hit}" for hit in find_private(text)]


def _json(name: str, data: bytes) -> list[str]:
    text, problems = _text(data)
    try:
        content = json.loads(text) if text else None
    except ValueError as error:
        return [*problems, f"it is not valid JSON (line {getattr(error, 'lineno', 1)})"]
    known = " ".join(problems)
    hits = [hit for hit in find_private_json(content) if hit not in known]
    return problems + [f"it holds {hit}" for hit in hits]


def _words(name: str, data: bytes) -> list[str]:
    return _text(data)[1]


def _log(name: str, data: bytes) -> list[str]:
    """A training log has names of metrics, and numbers."""
    text, problems = _text(data)
    lines = text.splitlines()
    if lines and not re.fullmatch(r"[a-z0-9_/,]*", lines[0]):
        problems.append("its first line is not names of metrics")
    number = r"(?:[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|-?inf|)"
    wrong = [
        row
        for row, line in enumerate(lines[1:], 2)
        if not re.fullmatch(f"{number}(?:,{number})*", line)
    ]
    if wrong:
        problems.append(f"line {wrong[0]} holds something else than numbers")
    return problems


def _code(name: str, data: bytes) -> list[str]:
    """Whoever loads the model with trust_remote_code runs it: only this package's own."""
    ours = resources.files("ct_video_hf.models").joinpath(name)
    if ours.is_file() and ours.read_bytes().split() == data.split():
        return []
    return [
        "it is not code of this package as it is installed here; who loads the model would run "
        "it. Save the model again with save_model_folder"
    ]


def _png(name: str, data: bytes) -> list[str]:
    if not data.startswith(_PNG):
        return ["it is no PNG picture"]
    at, chunks = len(_PNG), []
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        check = int.from_bytes(data[at + 8 + length : at + 12 + length], "big")
        if zlib.crc32(kind + body) != check:
            return ["it is damaged"]
        if kind not in _PNG_CHUNKS and not _by_matplotlib(kind, body):
            shown = kind.decode("latin-1") if kind.isalpha() else "unknown"
            return [f"it holds text or EXIF data beside the picture (chunk {shown})"]
        chunks.append(kind)
        at += 12 + length
        if kind == b"IEND":
            break
    if b"IEND" not in chunks:
        return ["it is cut off"]
    return ["it holds something after the picture's end"] if at != len(data) else []


def _by_matplotlib(kind: bytes, body: bytes) -> bool:
    return kind == b"tEXt" and bool(
        re.fullmatch(rb"Software\0Matplotlib version\d[\w.+]{0,20}, https://matplotlib\.org/", body)
    )


_RULES: dict[str, Callable[[str, bytes], list[str]]] = {
    ".json": _json,
    ".md": _words,
    ".csv": _log,
    ".py": _code,
    ".png": _png,
    ".yaml": _words,
}


def foreign_tensors(folder: Path) -> list[str]:
    """What the weights hold beside the network of ``config.json``, or lack of it.

    A volume, a table or a text could travel as one tensor more, or in the metadata.

    Returns
    -------
    list of str
        Problems in words.
    """
    from safetensors import safe_open
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    found, problems = {}, []
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            if set(tensors.metadata() or {}) - {"format"}:
                problems.append(f"{file.name} holds metadata beside the tensors' format")
            for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
                part = tensors.get_slice(name)
                found[name] = (tuple(part.get_shape()), part.get_dtype().startswith(("F", "BF")))
    return problems + (
        _differences(found, _network_of(config))
        if config.model_type.startswith("ct_")
        else _told_by_transformers(folder)
    )


def foreign_attention(folder: Path) -> list[str]:
    """What a head of learned attention holds beside its tensors and the record of its fit."""
    from safetensors import safe_open

    from ..evaluation.attention import ATTENTION_FILES, read_attention

    try:
        head = read_attention(folder)
    except CTVideoError as error:
        return [f"the attention head is not sound: {error}"]
    if head is None:
        return []
    name = ATTENTION_FILES[0]
    with safe_open(folder / name, framework="np") as tensors:
        if set(tensors.metadata() or {}) - {"format"}:
            return [f"{name} holds metadata beside the tensors' format"]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if len(head.labels) != len(config.get("id2label") or head.labels):
        return [f"{name} is for {len(head.labels)} labels, which the network has not"]
    return []


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    both = found.keys() & wanted.keys()
    counts = (
        (found.keys() - wanted.keys(), "the weights hold {} tensors that the network has not"),
        (wanted.keys() - found.keys(), "the weights lack {} tensors of the network"),
        (
            [name for name in both if found[name] != wanted[name]],
            "{} tensors are of another shape or kind than the network's",
        ),
    )
    return [words.format(len(names)) for names, words in counts if names]


def _network_of(config: Any) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Name -> shape and whether it is a floating point tensor, without making the weights."""
    import torch
    from transformers import AutoModelForVideoClassification

    with torch.device("meta"):
        model = AutoModelForVideoClassification.from_config(config)
    return {
        name: (tuple(value.shape), value.is_floating_point())
        for name, value in model.state_dict().items()
    }


def _told_by_transformers(folder: Path) -> list[str]:
    """The same for its own networks, whose tensors have other names in a file: by loading them."""
    from transformers import AutoModelForVideoClassification

    from ..progress import no_transformers_bars

    with no_transformers_bars():
        _, info = AutoModelForVideoClassification.from_pretrained(
            folder,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    counts = (
        ("unexpected_keys", "the weights hold {} tensors that the network has not"),
        ("missing_keys", "the weights lack {} tensors of the network"),
        ("mismatched_keys", "{} tensors are of another shape or kind than the network's"),
    )
    return [words.format(len(info[key])) for key, words in counts if info[key]]
