"""Exported models: a graph that ONNX Runtime or OpenVINO runs stands in the network's place.

Such a folder (``ct-video-hf export`` writes it) holds no weights for PyTorch and no code. Its
``parity.json`` names the graph's files with their hashes, what the graph takes and gives, and how
far it was from the network that it was made of.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import CTVideoError, first_line
from ..evaluation.score import FeatureTap
from ..models.download import sha256_of
from ..models.outputs import CTVideoClassifierOutput
from .loading import ModelLoadError

__all__ = [
    "FORMATS",
    "GRAPH_FILES",
    "PARITY_FILE",
    "ExportedNetwork",
    "GraphFormat",
    "GraphRunner",
    "import_for",
    "is_exported",
    "load_exported",
    "read_parity",
]

PARITY_FILE = "parity.json"

_Run = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class GraphFormat:
    """A kind of graph and what runs it.

    Attributes
    ----------
    title : str
        For people.
    graph : str
        The file to open.
    others : tuple of str
        Files that may lie beside it and belong to it.
    backend : str
        The name of the backend, which is that of the module.
    runtime : str
        What runs it, for people.
    start : callable
        From the graph's path to a function from clips to named arrays.
    """

    title: str
    graph: str
    others: tuple[str, ...]
    backend: str
    runtime: str
    start: Callable[[Path], _Run]


def import_for(module: str, what: str) -> Any:
    """Import a module of the extra ``export``.

    Raises
    ------
    CTVideoError
        Where it is not installed: what needs it, and how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CTVideoError(
            f"{what} needs the package {module}, which cannot be imported here ({error}). Install "
            'it: pip install "ct-video-hf[export]".'
        ) from error


def _start_onnxruntime(graph: Path) -> _Run:
    runtime = import_for("onnxruntime", "Running an ONNX graph")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(clips: np.ndarray) -> Mapping[str, np.ndarray]:
        return dict(zip(names, session.run(names, {"pixel_values": clips}), strict=True))

    return run


def _start_openvino(graph: Path) -> _Run:
    openvino = import_for("openvino", "Running an OpenVINO graph")
    options = {
        "INFERENCE_PRECISION_HINT": "f32",  # otherwise bfloat16 on processors that have it
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(graph, "CPU", options)

    def run(clips: np.ndarray) -> Mapping[str, np.ndarray]:
        found = compiled({"pixel_values": clips})
        return {key.get_any_name(): value for key, value in found.items()}

    return run


FORMATS = {
    "onnx": GraphFormat(
        "ONNX", "model.onnx", ("model.onnx.data",), "onnxruntime", "ONNX Runtime",
        _start_onnxruntime,
    ),
    "openvino": GraphFormat(
        "OpenVINO", "openvino_model.xml", ("openvino_model.bin",), "openvino", "OpenVINO",
        _start_openvino,
    ),
}  # fmt: skip
#: Every file that a graph may consist of.
GRAPH_FILES = tuple(name for kind in FORMATS.values() for name in (kind.graph, *kind.others))


class GraphRunner:
    """A graph and what runs it; a :class:`.backends.Backend` that gives scores, not features.

    It is opened when the first clips come, and :attr:`setup_seconds` counts that.

    Raises
    ------
    CTVideoError
        Where the runtime is not installed.
    """

    shares = False
    precision = "float32"

    def __init__(self, folder: Path, kind: GraphFormat) -> None:
        self.folder = folder
        self.kind = kind
        self.setup_seconds = 0.0
        self._run: _Run | None = None
        runtime = import_for(kind.backend, f"A model that was exported to {kind.title}")
        self.version = runtime.__version__.partition("-")[0]

    @property
    def name(self) -> str:
        return f"{self.kind.runtime} {self.version}, cpu"

    def __call__(self, clips: torch.Tensor) -> dict[str, torch.Tensor]:
        """Named tensors of clips (clip, frame, channel, row, column)."""
        if self._run is None:
            begin = time.perf_counter()
            try:
                self._run = self.kind.start(self.folder / self.kind.graph)
            except CTVideoError:
                raise
            except Exception as error:  # each runtime has its own kinds
                raise CTVideoError(
                    f"{self.name} cannot open {self.kind.graph}: {first_line(error)} "
                    "Export the model again."
                ) from error
            self.setup_seconds += time.perf_counter() - begin
        found = self._run(np.ascontiguousarray(clips.detach().float().numpy()))
        return {name: torch.from_numpy(np.array(value)) for name, value in found.items()}


class ExportedNetwork(nn.Module):
    """What stands for a network where there is only its graph: logits, on a CPU, in float32.

    Parameters
    ----------
    config : PreTrainedConfig
        Of the network that the graph was made of.
    runner : GraphRunner
    parity : dict
        The content of ``parity.json``.

    Attributes
    ----------
    classifier : FeatureTap
        Called with the features (clip, feature) that the graph of a model with learned attention
        gives, so that :class:`..evaluation.score.ClassifierInput` sees them as a network's.
    """

    main_input_name = "pixel_values"
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, config: Any, runner: GraphRunner, parity: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.runner = runner
        self.parity = parity
        self.classifier = FeatureTap()

    def forward(self, pixel_values: torch.Tensor, **others: Any) -> CTVideoClassifierOutput:
        """Logits of clips; what else comes from the processor is not used."""
        return CTVideoClassifierOutput(logits=self._outputs(pixel_values)["logits"])

    def scores(
        self, pixel_values: torch.Tensor, label: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As :func:`.localization.clip_forward`."""
        found = self._outputs(pixel_values)
        along = found.get("activation")
        return found["logits"], None if along is None else along[:, label]

    def _outputs(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        wanted, given = self.parity["input_shape"], list(pixel_values.shape)
        if given[1:] != wanted[1:]:
            sizes = ", ".join("clips" if size is None else str(size) for size in wanted)
            raise ValueError(
                f"pixel_values has shape {tuple(given)}; the exported graph takes ({sizes}), with "
                "the axes (clip, frame, channel, row, column). Export the model for clips of "
                "another size."
            )
        found = self.runner(pixel_values)
        if "features" in found:
            self.classifier(found["features"])
        return found


def is_exported(folder: Path) -> bool:
    """Whether a folder is what an export wrote."""
    return (folder / PARITY_FILE).is_file()


def read_parity(folder: Path, name: str) -> tuple[dict[str, Any], GraphFormat]:
    """The content of ``parity.json`` and the format that it names, with the graph's files checked.

    Raises
    ------
    ModelLoadError
        Where the file is not an export's, or a file of the graph is missing or not what was
        exported.
    """
    try:
        parity = json.loads((folder / PARITY_FILE).read_text(encoding="utf-8"))
        kind, files = FORMATS[parity["format"]], dict(parity["files"])
        shape, passed = parity["input_shape"], parity["passed"]
        sound = kind.graph in files and len(shape) == 5 and passed is True
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(
            f"{PARITY_FILE} of {name} is not what an export writes. Export the model again."
        ) from error
    if not sound or not set(files) <= {kind.graph, *kind.others}:
        raise ModelLoadError(
            f"{PARITY_FILE} of {name} does not describe a graph that passed its comparison with "
            "the network. Export the model again."
        )
    for file, digest in files.items():
        path = folder / file
        if not path.is_file():
            raise ModelLoadError(f"{name} lacks {file}, which its {PARITY_FILE} names.")
        if sha256_of(path) != digest:
            raise ModelLoadError(
                f"{file} of {name} is not the file that was exported: it is cut off, damaged or "
                "another one. Copy it again, or export the model again."
            )
    return parity, kind


def load_exported(folder: Path, name: str) -> ExportedNetwork:
    """The stand-in for the network of an exported folder; neither weights nor code are needed.

    Raises
    ------
    ModelLoadError
        A folder that is not sound, see :func:`read_parity`.
    CTVideoError
        Where the runtime is not installed.
    """
    from transformers import AutoConfig

    parity, kind = read_parity(folder, name)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError) as error:
        raise ModelLoadError(f"config.json of {name} cannot be read: {error}") from error
    return ExportedNetwork(config, GraphRunner(folder, kind), parity).eval()
