"""A recorded program as the file of a format, without what its making left in it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from ..inference.exported import FORMATS, import_for

__all__ = ["WRITERS", "write_onnx", "write_openvino"]


def write_onnx(program: ExportedProgram, names: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Write ``model.onnx``; weights go to a file of their own only where one cannot hold them.

    Returns
    -------
    dict
        The opset, and versions of what wrote it.
    """
    import torch

    versions = {
        package: import_for(package, "Export to ONNX").__version__
        for package in ("onnx", "onnxscript")
    }
    with _quiet("torch.onnx", "onnxscript", "onnx_ir"):
        written = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["pixel_values"],
            output_names=list(names),
            dynamic_shapes=({0: "clips"},),
        )
        _forget_making(written.model)
        written.save(folder / FORMATS["onnx"].graph)
    return {"opset": written.model.opset_imports[""], "versions": versions}


def write_openvino(
    program: ExportedProgram, names: tuple[str, ...], folder: Path
) -> dict[str, Any]:
    """Write ``openvino_model.xml`` and ``.bin``, weights in float32.

    Returns
    -------
    dict
        Nothing beyond the version of the runtime, which is told anyway.
    """
    openvino = import_for("openvino", "Export to OpenVINO")
    with _quiet("openvino"):
        converted = openvino.convert_model(program)
        shape = program.example_inputs[0][0].shape
        converted.reshape([-1, *shape[1:]])
        converted.inputs[0].set_names({"pixel_values"})
        for output, name in zip(converted.outputs, names, strict=True):
            output.set_names({name})
        graph = folder / FORMATS["openvino"].graph
        openvino.save_model(converted, graph, compress_to_fp16=False)
    return {}


def _forget_making(model: Any) -> None:
    """Take out what tells about the machine: places in source files, names of modules."""
    functions = model.functions.values()
    graphs = [model.graph, *(function.graph for function in functions)]
    for part in (model, *functions, *graphs):
        part.metadata_props.clear()
        part.doc_string = None
    for graph in graphs:
        values = [*graph.inputs, *graph.initializers.values()]
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            values += node.outputs
        for value in values:
            value.metadata_props.clear()
            value.doc_string = None


@contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    """Exporters tell every step; what goes wrong is an error."""
    kept = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name in kept:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in kept.items():
            logging.getLogger(name).setLevel(level)


#: Format -> what writes its files into a folder.
WRITERS = {"onnx": write_onnx, "openvino": write_openvino}
