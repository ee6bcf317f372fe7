"""Published weights of a backbone into a complete model folder."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..errors import CTVideoError
from ..evaluation import write_json
from .card import write_model_card
from .card_conversion import CONVERSION_FILE
from .model_folder import save_model_folder

__all__ = ["convert_checkpoint", "describe_registry", "download_weights"]


def convert_checkpoint(
    backbone: str,
    checkpoint: str | os.PathLike,
    out: str | os.PathLike,
    *,
    keep_head: bool = False,
    num_labels: int = 1,
    num_channels: int | None = None,
    channel_inflation: str = "sum",
    num_frames: int | None = None,
    image_size: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    license: str | None = None,
) -> Path:
    """Turn a published checkpoint into a folder that ``from_pretrained`` loads.

    The folder holds weights (safetensors), configuration, processor, code, the model card and
    ``conversion.json``, which says where the weights came from. It appears by one rename.

    Parameters
    ----------
    backbone : str
        Name in the registry.
    checkpoint : str or path-like
        A file, or a name of the backbone's published weights such as ``"kinetics"``, which are
        downloaded.
    out : path-like
        The new folder.
    keep_head : bool
        Keep the checkpoint's classifier; else a new one of ``num_labels`` logits is initialised.
    num_channels, num_frames, image_size : int, optional
        Input channels, slices in a clip and side of the planes; None keeps the backbone's.
    channel_inflation : {"sum", "mean"}
        How the first layer's weights are adapted to ``num_channels``.
    cache_dir : path-like, optional
        Where downloads are kept.
    license : str, optional
        Identifier of the licence that the folder's weights are passed on under.

    Returns
    -------
    pathlib.Path
        ``out``.

    Raises
    ------
    CTVideoError
        When ``out`` exists.
    ValueError, OSError
        For a checkpoint that is damaged or of another network, or a failed download.
    """
    from ..models import create_model, get_backbone
    from ..models.download import fetch
    from ..models.weights import read_checkpoint

    out = Path(out)
    if os.path.lexists(out):
        raise CTVideoError(f"{out.name} exists already; a conversion makes a new folder.")
    record = get_backbone(backbone)
    chosen = {"num_channels": num_channels, "num_frames": num_frames, "image_size": image_size}
    overrides = {name: value for name, value in chosen.items() if value is not None}
    model = create_model(
        backbone,
        num_labels,
        checkpoint,
        keep_head=keep_head,
        channel_inflation=channel_inflation,
        cache_dir=cache_dir,
        **overrides,
    )
    published = record.weights.get(str(checkpoint))
    if published is None and Path(checkpoint).is_dir():
        raise CTVideoError(
            f"{Path(checkpoint).name} is a model folder already; conversion takes a published file."
        )
    source = Path(checkpoint) if published is None else fetch(published, cache_dir)
    tensors = read_checkpoint(source)
    facts = _facts(record, str(checkpoint), source, model, keep_head, channel_inflation)
    facts |= _changed(record, tensors, model)
    out.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        folder = save_model_folder(
            model, _processor(record, facts, tensors, model), stage / "model"
        )
        write_json(facts, folder / CONVERSION_FILE)
        write_model_card(folder, model_id=out.name, license=license)
        os.rename(folder, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return out


def _processor(record, facts: dict[str, Any], tensors: dict[str, Any], model):
    """Normalised as these weights were, for the model's own clip."""
    from ..models import processor_for
    from ..models.weights import layout_of

    fields = dict(layout_of(tensors, record).processor)
    fields |= {
        "num_channels": model.config.num_channels,
        "num_frames": model.config.num_frames,
        "crop_size": model.config.image_size,
        "size": round(model.config.image_size * 8 / 7),
    }
    return processor_for(record.name, facts["weights"], **fields)


def _facts(record, given: str, source: Path, model, keep_head: bool, inflation: str) -> dict:
    """What ``conversion.json`` holds."""
    from .. import __version__
    from ..models.download import sha256_of

    digest = sha256_of(source)
    weights, same = given if given in record.weights else None, None
    if weights is None:
        weights, same = _recognise(record, digest)
    elif record.weights[weights].sha256 is not None:
        same = True  # the download was compared
    published = None if weights is None else record.weights[weights]
    return {
        "backbone": record.name,
        "weights": weights,
        "file": source.name,
        "sha256": digest,
        "size_bytes": source.stat().st_size,
        "downloaded": given in record.weights,
        "is_the_published_file": same,
        "published": None if published is None else dataclasses.asdict(published),
        "head": "kept" if keep_head else "new",
        "labels": model.config.num_labels,
        "channel_inflation": inflation if model.config.num_channels != 3 else None,
        "parameters": sum(value.numel() for value in model.parameters()),
        "versions": {"ct_video_hf": __version__, **_versions()},
    }


def _changed(record, tensors: dict[str, Any], model) -> dict[str, list[str]]:
    """Weights that were interpolated to another grid, and parts that the checkpoint lacks."""
    from ..models.weights import to_our_keys

    own = model.state_dict()
    given = to_our_keys(tensors, record, own)
    return {
        "interpolated": sorted(
            key
            for key, value in given.items()
            if key in own and value.shape != own[key].shape
            and key not in record.input_keys and not key.startswith("classifier.")
        ),
        "new_parts": [
            part.rstrip(".")
            for part in record.new_parts
            if not any(key.startswith(part) for key in given)
        ],
    }  # fmt: skip


def _recognise(record, digest: str) -> tuple[str | None, bool | None]:
    """Which published weights a user's file is: by its hash, or unknown where none is published.

    A name with None: the only weights of this network that are published, without a hash.
    """
    for name, published in record.weights.items():
        if published.sha256 is not None and digest.startswith(published.sha256):
            return name, True
    unhashed = [name for name, published in record.weights.items() if published.sha256 is None]
    return (unhashed[0], None) if len(unhashed) == 1 else (None, False)


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {"torch": torch.__version__.partition("+")[0], "transformers": transformers.__version__}


def download_weights(
    backbone: str, weights: str | None = None, cache_dir: str | os.PathLike | None = None
) -> list[dict[str, Any]]:
    """Fetch published weights into the cache without making a model.

    Parameters
    ----------
    backbone : str
        Name in the registry.
    weights : str, optional
        Which of its published weights; None fetches all that may be fetched.
    cache_dir : path-like, optional
        Where they are kept.

    Returns
    -------
    list of dict
        ``weights``, ``file`` (path), ``sha256`` and ``size_bytes`` of each.

    Raises
    ------
    CTVideoError
        When there is nothing that a program may download.
    OSError
        When a download fails.
    """
    from ..models import get_backbone
    from ..models.download import fetch, sha256_of

    record = get_backbone(backbone)
    named = {name: entry for name, entry in record.weights.items() if weights in (None, name)}
    wanted = {name: entry for name, entry in named.items() if entry.url is not None}
    if not wanted:
        reason = "; ".join(entry.weight_license for entry in named.values())
        known = ", ".join(record.weights) or "none"
        raise CTVideoError(
            f"{backbone} has nothing to download"
            + (f" as {weights!r}" if weights else "")
            + (f": {reason}" if reason else f"; its published weights: {known}")
        )
    answer = []
    for name, entry in wanted.items():
        path = fetch(entry, cache_dir)
        size = path.stat().st_size
        answer.append(
            {"weights": name, "file": str(path), "sha256": sha256_of(path), "size_bytes": size}
        )
    return answer


def describe_registry(cache_dir: str | os.PathLike | None = None) -> list[dict[str, Any]]:
    """Every backbone with all that is known of its published weights, ready for JSON."""
    from ..models import get_backbone, list_backbones
    from ..models.download import cached_path
    from ..models.weights import torchvision_facts

    rows = []
    for name in list_backbones():
        record = get_backbone(name)
        weights = {}
        for key, entry in record.weights.items():
            cached = entry.url is not None and cached_path(entry, cache_dir).is_file()
            stated = torchvision_facts(entry).get("_file_size")
            extra = {"size_mib_stated": stated, "in_cache": cached}
            weights[key] = dataclasses.asdict(entry) | extra
        rows.append(
            {
                "name": name,
                "model_type": record.config_class.model_type,
                "million_parameters": record.million_parameters,
                "weights": weights,
            }
        )
    return rows
