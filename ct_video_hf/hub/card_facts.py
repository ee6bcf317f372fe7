"""What a model card is made of, collected from the files of a model folder.

Nothing is on a card that is not in ``config.json``, ``video_preprocessor_config.json``,
``training_config.json``, ``conversion.json``, ``calibration.json``, ``metrics.json`` or an
export's ``parity.json``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import CTVideoError
from ..evaluation import Calibration, LabelCalibrations, read_calibration
from .card_conversion import CONVERSION_FILE
from .card_export import PARITY_FILE
from .card_figures import CardFigure, find_figures

__all__ = ["ModelCardFacts"]


@dataclass(frozen=True)
class ModelCardFacts:
    """What a card is made of.

    Attributes
    ----------
    name : str
        The model's name, the card's title.
    model_id : str
        What the code on the card loads: a Hub id, or the folder's name.
    config, processor : dict
        ``config.json`` and ``video_preprocessor_config.json``.
    training : dict
        ``training_config.json``; empty for a model that was not trained here.
    metrics : dict
        ``metrics.json``; empty when nothing was measured.
    conversion : dict
        ``conversion.json``; empty unless the weights are a converted checkpoint's as they are.
    calibration : Calibration, LabelCalibrations or None
        ``calibration.json``.
    parity : dict
        ``parity.json``; empty unless the folder is an exported one.
    figures : list of CardFigure
        Pictures in the folder that the card shows.
    license : str or None
        Identifier of the licence that these weights are published under; None: not stated.
    """

    name: str
    model_id: str
    config: dict[str, Any]
    processor: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    figures: list[CardFigure] = field(default_factory=list)
    license: str | None = None
    conversion: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | LabelCalibrations | None = None
    parity: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_folder(
        cls,
        model_dir: str | os.PathLike,
        *,
        model_id: str | None = None,
        license: str | None = None,
    ) -> ModelCardFacts:
        """Collect the facts of a model folder.

        Raises
        ------
        CTVideoError
            When configuration or processor are missing, or a file is not valid JSON.
        """
        path = Path(model_dir)
        if not path.is_dir():
            raise CTVideoError(f"There is no model folder {path.name!r}.")
        config = _read(path / "config.json", needed=True)
        processor = _read(path / "video_preprocessor_config.json", needed=True)
        training = _read(path / "training_config.json")
        name = model_id or _folder_name(path, training)
        return cls(
            name=name.rpartition("/")[2],
            model_id=name,
            config=config,
            processor=processor,
            training=training,
            metrics=_read(path / "metrics.json"),
            figures=find_figures(path),
            license=license or (training.get("arguments") or {}).get("license"),
            calibration=read_calibration(path),
            conversion={} if training else _read(path / CONVERSION_FILE),
            parity=_read(path / PARITY_FILE),
        )

    @property
    def aggregation(self) -> tuple[str, int]:
        """How clip scores become the study's score: the rule and the clips of mean_top_k."""
        return self.config.get("study_aggregation", "max"), self.config.get("study_top_k", 3)

    @property
    def labels(self) -> list[str]:
        """Names of the labels; ``positive`` for a binary task without a name."""
        names = self.config.get("id2label") or {"0": "LABEL_0"}
        found = [str(names[key]) for key in sorted(names, key=int)]
        return ["positive"] if found == ["LABEL_0"] else found

    @property
    def backbone(self) -> str:
        """Name of the network, of the kind of network where nothing tells it."""
        known = self.training.get("backbone") or self.conversion.get("backbone")
        return str(known or self.config.get("model_type"))

    @property
    def origin(self) -> dict[str, Any]:
        """Of a network of transformers that training started from, see training_config.json."""
        return self.training.get("backbone_origin") or {}

    @property
    def set_name(self) -> str | None:
        """Of the set that it was trained on."""
        return (self.training.get("data") or {}).get("set")


def _read(path: Path, *, needed: bool = False) -> dict[str, Any]:
    if not path.is_file():
        if needed:
            raise CTVideoError(f"{path.parent.name} is not a model folder: {path.name} is missing.")
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CTVideoError(f"{path.name} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise CTVideoError(f"{path.name} holds no JSON object.")
    return content


def _folder_name(path: Path, training: dict[str, Any]) -> str:
    """The output folder of the run: while a run finishes, the card's folder is a hidden one."""
    given = str(training.get("arguments", {}).get("output") or "").replace("\\", "/")
    return PurePosixPath(given).name or path.resolve().name.lstrip(".")
