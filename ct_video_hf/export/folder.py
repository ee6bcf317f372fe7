"""A model to an exported folder, which appears complete and compared, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..errors import CTVideoError, first_line
from ..evaluation import write_json
from ..hub.card import write_model_card
from ..inference import LoadedModel, load_model
from ..inference.exported import (
    FORMATS,
    PARITY_FILE,
    ExportedNetwork,
    GraphRunner,
    import_for,
)
from ..inference.loading import attention_for
from ..models.download import sha256_of
from ..progress import no_transformers_bars
from .graphs import WRITERS
from .network import record, to_record
from .parity import TOLERANCE, compare, random_clips

__all__ = ["export_model"]

#: What goes along as it is, beside the configuration and the processor.
_RECORDS = ("calibration.json", "training_config.json", "metrics.json", "conversion.json")
_CONFIGURATIONS = ("config.json", "video_preprocessor_config.json")


def export_model(
    model: str | os.PathLike,
    out: str | os.PathLike,
    *,
    format: str = "onnx",
    revision: str | None = None,
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """Write a model as a graph that :func:`ct_video_hf.pipeline` runs without PyTorch's weights.

    The folder holds the graph, configuration, processor, calibration, the head of learned attention
    where there is one, records of training, a card and ``parity.json``: what the graph was made of
    and by what, and how far its results are from the eager network's on random clips. It takes any
    number of clips of the processor's size, and computes in float32. It appears by one rename, and
    only where the comparison holds.

    Parameters
    ----------
    model : str or path
        A model folder or a Hub id. No code of it is run.
    out : path-like
        The new folder.
    format : {"onnx", "openvino"}
    revision : str, optional
        Branch, tag or commit on the Hub.
    tolerance : float
        Largest difference of a probability, see :data:`.parity.TOLERANCE`.

    Returns
    -------
    dict
        The content of ``parity.json``.

    Raises
    ------
    CTVideoError
        ``out`` exists, the model cannot be loaded or written in this format, a package is missing,
        or the graph differs from the network by more than the tolerance.
    """
    out = Path(out)
    if format not in FORMATS:
        raise CTVideoError(f"format is {format!r}; allowed: {', '.join(FORMATS)}.")
    if not tolerance > 0:
        raise CTVideoError(f"tolerance is {tolerance}; a number above 0 is needed.")
    if os.path.lexists(out):
        raise CTVideoError(f"{out.name} exists already; an export makes a new folder.")
    kind = FORMATS[format]
    import_for(kind.backend, f"Export to {kind.title}")  # before the work
    loaded = load_model(os.fspath(model), revision=revision)
    if isinstance(loaded.model, ExportedNetwork):
        raise CTVideoError(
            f"{loaded.name} is an exported model already. Export the model that it was made of, "
            f"{loaded.model.parity['source']['name']}."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        stage.chmod(0o755)
        parity = _fill(stage, loaded, format, tolerance)
        write_model_card(stage, model_id=out.name)
        os.replace(stage, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return parity


def _fill(stage: Path, loaded: LoadedModel, format: str, tolerance: float) -> dict[str, Any]:
    kind, clip = FORMATS[format], random_clips(loaded.processor, 1, seed=0)
    head = attention_for(loaded, loaded.aggregation[0])
    network = to_record(loaded.model, clip, features=head is not None)
    made = _write(stage, network, clip, format, loaded.name)
    facts = {
        "format": format,
        "input_shape": [None, *clip.shape[1:]],
        "outputs": list(network.names),
        "arithmetic": "float32",
        "source": _source(loaded),
    }
    runner = GraphRunner(stage, kind)
    found = compare(
        loaded.model,
        ExportedNetwork(loaded.model.config, runner, facts),
        loaded.processor,
        tolerance,
        head,
    )
    if not found.passed:
        raise CTVideoError(
            f"{loaded.name} is not exported: in {kind.title}, {found.words()}, more than "
            f"{tolerance:.0e} allows. Nothing was written."
        )
    versions = {"torch": torch.__version__, kind.backend: runner.version}
    facts |= found.to_dict()
    facts["versions"] = versions | made.pop("versions", {})
    facts |= made
    files = sorted(file.name for file in stage.iterdir())
    facts["files"] = {name: sha256_of(stage / name) for name in files}
    _copy_records(stage, loaded)
    if head is not None:
        head.write(stage)
        facts["attention_weights_sha256"] = head.weights_sha256
    write_json(facts, stage / PARITY_FILE)
    return facts


def _write(stage: Path, network: Any, clip: Any, format: str, name: str) -> dict[str, Any]:
    """Record the network and write its graph; what fails in there fails in many ways."""
    try:
        with no_transformers_bars():
            return WRITERS[format](record(network, clip), network.names, stage)
    except CTVideoError:
        raise
    except Exception as error:
        cause = error
        while cause.__cause__ is not None:  # the last one names the operation
            cause = cause.__cause__
        raise CTVideoError(
            f"{name} cannot be written as {FORMATS[format].title}: {first_line(cause, 300)}"
        ) from error


def _source(loaded: LoadedModel) -> dict[str, Any]:
    weights = sorted(loaded.folder.glob("*.safetensors"))
    return {
        **loaded.describe(),
        "weights_sha256": {file.name: sha256_of(file) for file in weights},
    }


def _copy_records(stage: Path, loaded: LoadedModel) -> None:
    """Configuration and processor without the names of code, which does not go along."""
    for name in _CONFIGURATIONS:
        content = json.loads((loaded.folder / name).read_text(encoding="utf-8"))
        for entry in ("auto_map", "custom_pipelines"):
            content.pop(entry, None)
        write_json(content, stage / name)
    for name in _RECORDS:
        if (loaded.folder / name).is_file():
            shutil.copyfile(loaded.folder / name, stage / name)
    if (loaded.folder / "figures").is_dir():
        shutil.copytree(loaded.folder / "figures", stage / "figures")
