"""A model as a graph for ONNX Runtime or OpenVINO, compared with the network it was made of."""

from .folder import export_model
from .parity import TOLERANCE

__all__ = ["TOLERANCE", "export_model"]
