"""Many memory-mapped Arrow files as one block of a ``datasets`` table.

``datasets`` makes a table object for every file; with the 7,279 studies of RSNA STR PE opening
takes seconds and ``select_columns`` copies thousands of histories. Here all files are one block,
which is pickled as its paths and opened again by the process that unpickles it. Nothing is read or
copied when opening: the system reads the pages that are touched.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from datasets.table import TableBlock, table_cast, table_flatten

from .errors import CTDataError

__all__ = ["MappedFilesTable"]

#: What ``datasets`` asks of a block besides reading: each gives a new table.
_TRANSFORMS = (
    "slice",
    "filter",
    "flatten",
    "combine_chunks",
    "cast",
    "replace_schema_metadata",
    "add_column",
    "append_column",
    "remove_column",
    "set_column",
    "rename_columns",
    "drop",
    "select",
)

_Step = tuple[str, tuple, dict[str, Any]]


class MappedFilesTable(TableBlock):
    """The rows of several Arrow IPC stream files, in order, mapped into memory.

    Parameters
    ----------
    table : pyarrow.Table
        What the files give after ``steps``.
    paths : tuple of str
        The files.
    steps : tuple
        (name, args, kwargs) of the transforms done since opening; done again after unpickling.
    """

    def __init__(self, table: pa.Table, paths: tuple[str, ...], steps: tuple[_Step, ...] = ()):
        super().__init__(table)
        self.paths = paths
        self.steps = steps

    @classmethod
    def from_files(cls, paths: Iterable[str | os.PathLike]) -> MappedFilesTable:
        """Map the files.

        Raises
        ------
        CTDataError
            Naming the file that is not a whole Arrow stream.
        """
        absolute = tuple(os.path.abspath(path) for path in paths)
        return cls(_map(absolute), absolute)

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "steps": self.steps}

    def __setstate__(self, state: dict[str, Any]) -> None:
        table = _map(state["paths"])
        for name, args, kwargs in state["steps"]:
            table = _transform(table, name, args, kwargs)
        MappedFilesTable.__init__(self, table, state["paths"], state["steps"])


def _map(paths: tuple[str, ...]) -> pa.Table:
    tables = []
    for path in paths:
        try:
            with pa.memory_map(path) as source:  # the mapping outlives the file object
                tables.append(pa.ipc.open_stream(source).read_all())
        except pa.ArrowInvalid as error:
            raise CTDataError(f"{os.path.basename(path)} is damaged: {error}") from error
    return pa.concat_tables(tables)


def _transform(table: pa.Table, name: str, args: tuple, kwargs: dict[str, Any]) -> pa.Table:
    if name == "cast":
        return table_cast(table, *args, **kwargs)
    if name == "flatten":
        return table_flatten(table, *args, **kwargs)
    return getattr(table, name)(*args, **kwargs)


def _recorded(name: str):
    """A method that does a transform and remembers it for unpickling."""

    def method(self: MappedFilesTable, *args: Any, **kwargs: Any) -> MappedFilesTable:
        table = _transform(self.table, name, args, kwargs)
        return MappedFilesTable(table, self.paths, (*self.steps, (name, args, kwargs)))

    method.__name__ = name
    method.__doc__ = f"As ``pyarrow.Table.{name}``."
    return method


for _name in _TRANSFORMS:
    setattr(MappedFilesTable, _name, _recorded(_name))
