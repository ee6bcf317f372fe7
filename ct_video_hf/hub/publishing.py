"""Published weights of the whole registry as model repositories, one row after the other."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import CTVideoError
from ..evaluation import write_json
from .calls import retried
from .convert import convert_checkpoint
from .model_repo import files_on_hub, is_on_hub, push_model

__all__ = ["Row", "collect", "list_rows", "publish_rows"]

logger = logging.getLogger(__name__)

_COLLECTION = "Video networks for chest CT, converted"


@dataclass(frozen=True)
class Row:
    """Published weights of a backbone, and what became of them.

    Attributes
    ----------
    backbone, weights, repo : str
    license : str
        What is stated about the weights.
    megabytes : float or None
        Of the published file; None where its size is not known.
    status : str
        ``to do``, ``not allowed`` (no licence to pass the weights on), ``there`` (the repository
        holds these very files), ``pushed`` or ``failed``.
    note : str
        Commit, or what went wrong.
    """

    backbone: str
    weights: str
    repo: str
    license: str
    megabytes: float | None
    status: str = "to do"
    note: str = ""


def list_rows(namespace: str, only: Iterable[str] = ()) -> list[Row]:
    """Every published weight of the registry with the repository that it goes to.

    Parameters
    ----------
    namespace : str
        User or organisation.
    only : iterable of str
        Names of backbones, or ``backbone:weights``; empty takes all.

    Raises
    ------
    CTVideoError
        For a name in ``only`` that the registry has no published weights of.
    """
    from ..models import get_backbone, list_backbones
    from ..models.weights import torchvision_facts

    only, rows = set(only), []
    for backbone in list_backbones():
        for weights, record in get_backbone(backbone).weights.items():
            names = {backbone, f"{backbone}:{weights}"}
            if only and not names & only:
                continue
            size = torchvision_facts(record).get("_file_size")
            megabytes = None if size is None else size * 2**20 / 1e6
            if record.size_bytes is not None:
                megabytes = record.size_bytes / 1e6
            repo = f"{namespace}/{backbone}-{weights}".replace("_", "-")
            status = "to do" if record.url is not None else "not allowed"
            rows.append(Row(backbone, weights, repo, record.weight_license, megabytes, status))
    known = {name for row in rows for name in (row.backbone, f"{row.backbone}:{row.weights}")}
    if only - known:
        raise CTVideoError(
            f"no published weights of {', '.join(sorted(only - known))}; "
            "ct-video-hf convert --list shows all"
        )
    return rows


def publish_rows(
    rows: Iterable[Row],
    work: Path,
    *,
    private: bool = True,
    cache_dir: Path | None = None,
    tell: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Convert, verify and push each row; one that fails stops none of the others.

    ``publishing.json`` in ``work`` keeps what was pushed, so that a run which was cut off goes on;
    a repository that holds these very files, by their hashes, is left as it is.

    Parameters
    ----------
    rows : iterable of Row
        As :func:`list_rows` gives them.
    work : pathlib.Path
        Folder for the converted models, each removed once it is on the Hub, and for the state.
    private : bool
        As for :func:`.model_repo.push_model`.
    cache_dir : pathlib.Path, optional
        Where downloaded checkpoints are kept.
    tell : callable, optional
        Called with each row when it is finished.

    Returns
    -------
    list of Row
        With their status.
    """
    work.mkdir(parents=True, exist_ok=True)
    state_file = work / "publishing.json"
    state = json.loads(state_file.read_text(encoding="utf-8")) if state_file.is_file() else {}
    done = []
    for row in rows:
        if row.status == "to do":
            try:
                status, note = _publish(row, work, state, private, cache_dir)
            except Exception as error:  # whatever it was, the next row is another one
                logger.debug("%s failed", row.repo, exc_info=True)
                status, note = "failed", f"{type(error).__name__}: {error}"
            row = Row(**(asdict(row) | {"status": status, "note": note}))
            write_json(state, state_file)
        done.append(row)
        if tell is not None:
            tell(row)
    return done


def _publish(
    row: Row, work: Path, state: dict[str, Any], private: bool, cache_dir: Path | None
) -> tuple[str, str]:
    from .. import __version__

    before = state.get(row.repo)
    if before and before["version"] == __version__ and before["files"] == files_on_hub(row.repo):
        return "there", before["commit"]
    folder = work / row.repo.rpartition("/")[2]
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was cut off
    convert_checkpoint(row.backbone, row.weights, folder, keep_head=True, cache_dir=cache_dir)
    _try_out(folder)
    if is_on_hub(folder, row.repo):
        status, commit = "there", ""
    else:
        status, commit = "pushed", push_model(folder, row.repo, private=private).commit
    files = files_on_hub(row.repo)
    state[row.repo] = {"version": __version__, "commit": commit, "files": files}
    shutil.rmtree(folder)
    return status, commit


def _try_out(folder: Path) -> None:
    """Load the folder as others will, and compute one clip."""
    import torch
    from transformers import AutoModelForVideoClassification

    model = AutoModelForVideoClassification.from_pretrained(folder)
    config = model.config
    shape = (1, config.num_frames, config.num_channels, config.image_size, config.image_size)
    with torch.no_grad():
        logits = model(pixel_values=torch.zeros(shape)).logits
    if logits.shape != (1, config.num_labels) or not torch.isfinite(logits).all():
        raise CTVideoError(f"{folder.name} gives logits that are not finite; it is not pushed.")


def collect(rows: Iterable[Row], namespace: str, *, private: bool = True) -> str:
    """Put the repositories that are on the Hub into one collection, made if it is not there.

    Returns
    -------
    str
        The collection's slug.

    Raises
    ------
    HubError
    """
    from huggingface_hub import HfApi

    api, what = HfApi(), f"collection of {namespace}"
    made = {"namespace": namespace, "private": private, "exists_ok": True}
    text = "Published video weights for chest CT. They have seen no CT; not for clinical use."
    slug = retried(lambda: api.create_collection(_COLLECTION, description=text, **made), what).slug
    for row in rows:
        if row.status in ("there", "pushed"):
            item = (slug, row.repo, "model")
            retried(lambda item=item: api.add_collection_item(*item, exists_ok=True), what)
    return slug
