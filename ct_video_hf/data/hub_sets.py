"""Prepared sets that lie in a dataset repository of the Hub, as :func:`push_set` leaves them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..errors import first_line
from .errors import CTDataError
from .rows import SCHEMA

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

__all__ = ["describe_on_hub", "is_repo_id", "load_from_hub"]

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def is_repo_id(name: str) -> bool:
    """Whether a name has the form ``user/name``."""
    return _REPO.fullmatch(name) is not None


def load_from_hub(
    repo: str,
    split: str | None,
    *,
    streaming: bool,
    revision: str | None,
    fraction: float | None,
    fraction_seed: int,
    cache_dir: str | None,
) -> Dataset | DatasetDict | IterableDataset | IterableDatasetDict:
    """The rows of a pushed set: the same columns and bytes as in its folder.

    Raises
    ------
    CTDataError
        When there is no such repository for this user, it holds something else, or a fraction is
        asked of a stream.
    """
    import datasets

    if fraction is not None and (streaming or split not in (None, "train")):
        raise CTDataError("fraction applies to the train split of a set that is not streamed")
    try:
        data = datasets.load_dataset(
            repo, split=split, streaming=streaming, revision=revision, cache_dir=cache_dir
        )
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError) as error:
        raise CTDataError(
            f"{repo!r} is neither the folder of a prepared set nor a dataset repository of the Hub "
            f"that you may read (`hf auth login` for private ones): {first_line(error)}"
        ) from error
    except (datasets.exceptions.DatasetsError, pa.ArrowException, OSError) as error:
        raise CTDataError(
            f"a shard of {repo} is damaged, or was on its way: "
            f"{first_line(error.__cause__ or error)}. Try again; if it stays, push the set again"
        ) from error
    parts = data if split is None else {split: data}
    for part in parts.values():
        _check_columns(repo, part)
    if fraction is None:
        return data
    if split is not None:
        return _share(data, fraction, fraction_seed)
    data["train"] = _share(data["train"], fraction, fraction_seed)
    return data


def describe_on_hub(repo: str, revision: str | None = None) -> dict[str, Any]:
    """What ``set.json`` of a pushed set says of all its studies: names and weights of labels, ...

    Empty for a repository without it, which :func:`push_set` did not write.

    Raises
    ------
    CTDataError
        When the file cannot be fetched, or is damaged.
    """
    from huggingface_hub import errors, hf_hub_download

    try:
        file = hf_hub_download(repo, "set.json", repo_type="dataset", revision=revision)
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except errors.LocalEntryNotFoundError as error:  # of a Hub that cannot be reached
        raise CTDataError(
            f"set.json of {repo}, which names the labels, could not be fetched: {first_line(error)}"
        ) from error
    except errors.EntryNotFoundError:
        return {}
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        raise CTDataError(
            f"set.json of {repo}, which names the labels, could not be read: {first_line(error)}"
        ) from error
    if not isinstance(content, dict):
        raise CTDataError(f"set.json of {repo} holds no JSON object")
    return content


def _check_columns(repo: str, data: Any) -> None:
    missing = sorted(set(SCHEMA.names) - set(data.column_names or SCHEMA.names))
    if missing:
        raise CTDataError(
            f"{repo} holds no prepared set: the columns {', '.join(missing)} are missing. Sets are "
            "pushed with `ct-video-hf push`."
        )


def _share(data: Dataset, fraction: float, seed: int) -> Dataset:
    from .splits import nested_fractions

    small = data.select_columns(["patient_hash", "study_label"])
    patients, labels = list(small["patient_hash"]), list(small["study_label"])
    positive = [label > 0 for label in labels]
    kept = set(nested_fractions(patients, positive, [fraction], seed)[fraction])
    return data.select([row for row, patient in enumerate(patients) if patient in kept])
