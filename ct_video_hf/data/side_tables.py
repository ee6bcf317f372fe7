"""Tables beside the studies of a prepared set, such as LIDC-IDRI's nodules: in a folder or repo."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import first_line
from .errors import CTDataError
from .manifest import read_manifest

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

__all__ = ["TABLE_SPLIT", "load_side_table", "parquet_of", "side_table_names"]

#: Of a table's configuration in a dataset repository: its rows are of studies of all splits.
TABLE_SPLIT = "table"


def side_table_names(folder: str | os.PathLike) -> list[str]:
    """Names of the tables beside the studies of a prepared set in a folder."""
    return sorted(read_manifest(folder).get("side_tables", {}))


def load_side_table(
    source: str | os.PathLike,
    name: str,
    *,
    streaming: bool = False,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> Dataset | IterableDataset:
    """A table beside the studies: one row a nodule, for example, ``study`` being the ``study_id``.

    Parameters
    ----------
    source : path or str
        The folder of a prepared set, or the dataset repository that it was pushed to.
    name : str
        Such as "nodules"; the data card names the tables of a set.
    streaming : bool
        Rows as they come, instead of all at once.
    revision, cache_dir : str, optional
        Of a repository, as for :func:`load_ct_dataset`.

    Raises
    ------
    CTDataError
        When the set has no table of this name, or ``source`` is no set.
    """
    import datasets

    from .hub_sets import is_repo_id

    folder = Path(source)
    if folder.is_dir() or not is_repo_id(str(source)):
        known = side_table_names(folder)
        if name not in known:
            raise _no_table(str(folder.name), name, known)
        data = _read(folder, name)
        return data.to_iterable_dataset() if streaming else data
    options = {"revision": revision, "streaming": streaming, "cache_dir": cache_dir}
    try:
        known = datasets.get_dataset_config_names(str(source), revision=revision)
        if name not in known or name == "default":
            raise _no_table(str(source), name, [each for each in known if each != "default"])
        return datasets.load_dataset(str(source), name, split=TABLE_SPLIT, **options)
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError) as error:
        raise CTDataError(
            f"{source!r} is neither the folder of a prepared set nor a dataset repository of the "
            "Hub that you may read (`hf auth login` for private ones)"
        ) from error


def parquet_of(folder: Path, name: str, names: dict[str, str]) -> bytes:
    """A table as Parquet, its studies under their published names."""
    table = _read(folder, name)
    strangers = set(table["study"]) - set(names)
    if strangers:
        raise _damaged(folder / f"{name}.csv", f"it names {len(strangers)} studies of another set")
    table = table.map(_Renamed(names), keep_in_memory=True, load_from_cache_file=False)
    out = io.BytesIO()
    table.to_parquet(out)
    return out.getvalue()


class _Renamed:
    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def __call__(self, row: dict) -> dict:
        return {"study": self._names[row["study"]]}


def _read(folder: Path, name: str) -> Dataset:
    import datasets
    import pandas as pd

    file = folder / f"{name}.csv"
    if not file.is_file():
        raise CTDataError(f"{file.name} is gone from {folder.name}: prepare the set again")
    try:
        table = pd.read_csv(file, dtype={"study": str})
    except ValueError as error:  # pandas' own errors are of this kind
        raise _damaged(file, first_line(error)) from error
    if "study" not in table.columns:
        raise _damaged(file, "it has no column 'study'")
    return datasets.Dataset.from_pandas(table)


def _damaged(file: Path, what: str) -> CTDataError:
    return CTDataError(
        f"{file.name} of {file.parent.name} is damaged: {what}. Copy it again, or delete "
        "manifest.json and run the same `prepare`"
    )


def _no_table(where: str, name: str, known: list[str]) -> CTDataError:
    there = ", ".join(known) or "none"
    return CTDataError(f"{where} has no table {name!r} beside its studies; there are: {there}")
