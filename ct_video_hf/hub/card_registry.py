"""A card for every backbone of the registry, from its record alone, without any result."""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

from ..files import replacing
from .card_rows import model_rows, processor_rows

__all__ = ["render_registry_card", "write_registry_cards"]


def write_registry_cards(folder: str | os.PathLike) -> list[Path]:
    """Write ``NAME.md`` for every backbone into ``folder``; cards there are replaced.

    Returns
    -------
    list of pathlib.Path
    """
    from ..models import list_backbones

    written = []
    for name in list_backbones():
        path = Path(folder) / f"{name}.md"
        with replacing(path) as partial:
            partial.write_text(render_registry_card(name), encoding="utf-8", newline="\n")
        written.append(path)
    return written


def render_registry_card(name: str) -> str:
    """The card of a backbone: architecture, parameters, input, and its weights with licences."""
    import jinja2
    import torch
    from huggingface_hub import ModelCardData

    from ..models import get_backbone, processor_for

    record = get_backbone(name)
    with torch.device("meta"):
        model = record.classifier_class(record.config_class(**record.overrides, num_labels=1))
    facts = {"backbone": name, "parameters": sum(part.numel() for part in model.parameters())}
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="video-classification",
        license="other",
        license_name="not-stated",
        tags=["ct-video-hf", "medical-imaging", "computed-tomography", "chest-ct",
              name.replace("_", "-"), "not-for-clinical-use"],
    )  # fmt: skip
    source = resources.files(__package__).joinpath("templates/registry_card.md.jinja")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    text = environment.from_string(source.read_text(encoding="utf-8")).render(
        metadata=metadata.to_yaml().strip(),
        name=name,
        published=[_published(name, key, entry) for key, entry in record.weights.items()],
        model_rows=model_rows(model.config.to_dict(), facts, ["one, of your own"]),
        processor_rows=processor_rows(processor_for(name).to_dict()),
        papers=sorted({entry.paper for entry in record.weights.values()}),
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _published(name: str, key: str, entry: Any) -> dict[str, Any]:
    rows = [
        ("published at", f"<{entry.url}>" if entry.url else "no address that a program may fetch"),
        ("sha256", entry.sha256 or "none published"),
        ("trained on", f"{entry.origin}, {entry.labels} classes"),
        ("clip", f"{entry.frames} frames, {entry.image_size} pixels"),
        ("licence of the published code", entry.code_license),
        ("licence of the published weights", entry.weight_license),
        ("paper", entry.paper),
    ]
    checkpoint = key if entry.url else "CHECKPOINT"
    return {
        "name": key,
        "checkpoint": checkpoint,
        "folder": f"{name}_{key}".replace("-", "_"),
        "rows": [(words, " ".join(str(text).replace("|", "\\|").split())) for words, text in rows],
    }
