"""What a model card says of an exported graph, all of it from ``parity.json``."""

from __future__ import annotations

from typing import Any

__all__ = ["PARITY_FILE", "export_rows", "export_words"]

PARITY_FILE = "parity.json"

_TITLES = {"onnx": "ONNX", "openvino": "OpenVINO"}


def export_words(parity: dict[str, Any]) -> str:
    """What the folder holds and how it is run."""
    return (
        f"This is a model exported to {_TITLES[parity['format']]}: a graph, without weights for "
        "PyTorch and without code. `ct_video_hf` runs it "
        '(`pip install "ct-video-hf[export]"`):'
    )


def export_rows(parity: dict[str, Any]) -> list[tuple[str, str]]:
    """The graph, what it was made of, and how far it is from that."""
    source, found, allowed = (parity[key] for key in ("source", "max_difference", "tolerance"))
    commit = f", commit {source['commit']}" if source.get("commit") else ""
    shape = ", ".join("any number" if size is None else str(size) for size in parity["input_shape"])
    rows = [
        ("format", _TITLES[parity["format"]]),
        ("exported from", f"`{source['name']}`{commit}"),
        ("takes", f"`pixel_values` ({shape}): clip, frame, channel, row, column"),
        ("gives", ", ".join(f"`{name}`" for name in parity["outputs"])),
        ("arithmetic", parity["arithmetic"]),
    ]
    names = {
        "logits": "largest difference of a logit",
        "probabilities": "largest difference of a probability",
        "activation_relative": "largest difference of an activation, relative to the largest",
    }
    rows += [
        (words, f"{found[key]:.1e} (allowed: {allowed[key]:.1e})")
        for key, words in names.items()
        if found[key] is not None
    ]
    compared, versions = parity["compared"], parity["versions"]
    several = " and ".join(str(shape[0]) for shape in compared["shapes"])
    rows.append(("compared on", f"{compared['clips']}, {several} at a time"))
    rows.append(("compared with", compared["with"]))
    rows.append(("made by", ", ".join(f"{name} {value}" for name, value in versions.items())))
    return rows
