"""A prepared set as one block of a ``datasets`` table that opens a study when it is looked at.

``datasets`` makes a table object for every file; with the 7,279 studies of RSNA STR PE opening
takes seconds and ``select_columns`` copies thousands of histories. Here all small columns come from
one file, ``index.arrow``, and a study's own file is mapped into memory when its volume is asked
for. The block is pickled as paths and steps, and opened again by the process that unpickles it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from datasets.table import IndexedTableMixin, TableBlock, table_cast, table_flatten

from ..errors import first_line
from .errors import CTDataError
from .row_file import read_row
from .rows import STUDY, VOLUME

__all__ = ["MappedSetTable"]

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


@dataclass(frozen=True, eq=False)
class _Source:
    """The files of the rows: one index for the small columns, one file a study."""

    index: str
    rows: tuple[int, ...]
    paths: tuple[str, ...]
    schema: pa.Schema
    small: pa.Table  # the rows of the index, every column but the volume

    @classmethod
    def open(
        cls, index: str, rows: Sequence[int], paths: Sequence[str], schema: pa.Schema
    ) -> _Source:
        try:
            with pa.memory_map(index) as stream:  # the mapping outlives the file object
                table = pa.ipc.open_stream(stream).read_all()
        except (pa.ArrowException, OSError) as error:
            name, said = os.path.basename(index), first_line(error)
            raise CTDataError(f"{name} cannot be read: {said}; copy the set again") from error
        rows = tuple(rows)
        if rows != tuple(range(len(table))):
            table = table.take(pa.array(rows, pa.int64()))
        return cls(index, rows, tuple(paths), schema, table.combine_chunks())

    def volumes(self, start: int, stop: int) -> pa.ChunkedArray:
        """The volumes of these rows, mapped, a chunk each."""
        ids = self.small.column(STUDY) if STUDY in self.schema.names else None
        chunks = []
        for place in range(start, stop):
            study = None if ids is None else ids[place].as_py()
            chunks.append(read_row(self.paths[place], study, self.schema).column(VOLUME))
        return pa.chunked_array(chunks, pa.large_binary())


@dataclass(frozen=True, eq=False)
class _View:
    """A stretch of rows and a choice of columns, of which nothing is read yet."""

    start: int
    stop: int
    schema: pa.Schema

    def read(self, source: _Source, start: int, stop: int) -> pa.Table:
        """Rows ``start`` to ``stop``, counted in the view."""
        low, high = self.start + start, self.start + stop
        small = source.small.slice(low, high - low)
        columns = [
            source.volumes(low, high) if name == VOLUME else small.column(name)
            for name in self.schema.names
        ]
        return pa.table(columns, schema=self.schema)

    def then(self, name: str, args: tuple, kwargs: dict[str, Any]) -> _View | None:
        """The view after a transform, or None when the rows are needed for it."""
        if kwargs:
            return None
        names = self.schema.names
        if name in ("select", "drop") and len(args) == 1:
            chosen = [args[0]] if isinstance(args[0], str) else list(args[0])
            if not set(chosen) <= set(names):
                return None
            kept = chosen if name == "select" else [n for n in names if n not in chosen]
            fields = [self.schema.field(n) for n in kept]
            return replace(self, schema=pa.schema(fields, self.schema.metadata))
        if name == "replace_schema_metadata" and len(args) == 1:
            return replace(self, schema=self.schema.with_metadata(args[0]))
        if name == "slice" and args and args[0] >= 0:
            count = self.stop - self.start
            start = min(args[0], count)
            length = count if len(args) == 1 or args[1] is None else args[1]
            stop = min(start + length, count)
            return replace(self, start=self.start + start, stop=self.start + stop)
        return None


class MappedSetTable(TableBlock):
    """Rows of a prepared set; see the module.

    Choosing columns and stretches of rows reads nothing; a row that is looked at maps its study,
    and any other transform maps all of them.
    """

    def __init__(self, source: _Source, steps: tuple[_Step, ...], view: _View | None) -> None:
        # not the parent's: it takes the table, which is made only when it is needed
        self._source = source
        self._steps = steps
        self._view = view
        self._whole: pa.Table | None = None
        self._indexed: IndexedTableMixin | None = None

    @classmethod
    def from_files(
        cls,
        index: str | os.PathLike,
        rows: Sequence[int],
        paths: Sequence[str | os.PathLike],
        schema: pa.Schema,
    ) -> MappedSetTable:
        """Open the index.

        Parameters
        ----------
        index : path
            Arrow IPC stream with every column of ``schema`` but the volume.
        rows : sequence of int
            The rows of the index that are meant.
        paths : sequence of path
            The file of each of these rows.
        schema : pyarrow.Schema

        Raises
        ------
        CTDataError
            When the index is not whole.
        """
        absolute = [os.path.abspath(path) for path in paths]
        source = _Source.open(os.path.abspath(index), rows, absolute, schema)
        return cls(source, (), _View(0, len(absolute), schema))

    # ---- what the parent computes when made ------------------------------------------------------

    @property
    def table(self) -> pa.Table:
        """Everything as an Arrow table, its volumes mapped."""
        if self._whole is None and self._view is not None:
            self._whole = self._view.read(self._source, 0, len(self))
        elif self._whole is None:
            count = len(self._source.paths)
            table = _View(0, count, self._source.schema).read(self._source, 0, count)
            for name, args, kwargs in self._steps:
                table = _transform(table, name, args, kwargs)
            self._whole = table
        return self._whole

    def _index_of_batches(self) -> IndexedTableMixin:
        if self._indexed is None:
            self._indexed = IndexedTableMixin(self.table)
        return self._indexed

    def fast_slice(self, offset: int = 0, length: int | None = None) -> pa.Table:
        """As the parent's; only the studies of these rows are opened."""
        if self._view is None:
            return self._index_of_batches().fast_slice(offset, length)
        stop = len(self) if length is None else min(offset + max(length, 0), len(self))
        return self._view.read(self._source, min(offset, stop), stop)

    def fast_gather(self, indices: Sequence[int] | np.ndarray) -> pa.Table:
        """As the parent's; only the studies of these rows are opened."""
        if self._view is None or VOLUME not in self._view.schema.names:
            return self._index_of_batches().fast_gather(indices)
        return pa.concat_tables([self.fast_slice(int(place), 1) for place in indices])

    # ---- what can be said without reading --------------------------------------------------------

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self.table.schema if self._view is None else self._view.schema

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        return self.schema.names

    @property
    def num_columns(self) -> int:
        """How many columns."""
        return len(self.schema.names)

    @property
    def num_rows(self) -> int:
        """How many studies."""
        return self.table.num_rows if self._view is None else self._view.stop - self._view.start

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)"""
        return self.num_rows, self.num_columns

    def __len__(self) -> int:
        return self.num_rows

    def __repr__(self) -> str:
        return f"MappedSetTable({self.num_rows} rows: {', '.join(self.column_names)})"

    # ---- copies ----------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict) -> MappedSetTable:
        return self  # never changed

    def __getstate__(self) -> dict[str, Any]:
        source = self._source
        files = (source.index, source.rows, source.paths, source.schema)
        return {"files": files, "steps": self._steps}

    def __setstate__(self, state: dict[str, Any]) -> None:
        source = _Source.open(*state["files"])
        view: _View | None = _View(0, len(source.paths), source.schema)
        for step in state["steps"]:
            view = None if view is None else view.then(*step)
        MappedSetTable.__init__(self, source, state["steps"], view)


def _transform(table: pa.Table, name: str, args: tuple, kwargs: dict[str, Any]) -> pa.Table:
    if name == "cast":
        return table_cast(table, *args, **kwargs)
    if name == "flatten":
        return table_flatten(table, *args, **kwargs)
    return getattr(table, name)(*args, **kwargs)


def _recorded(name: str):
    """A method that does a transform and remembers it for unpickling."""

    def method(self: MappedSetTable, *args: Any, **kwargs: Any) -> MappedSetTable:
        step = (name, args, kwargs)
        view = None if self._view is None else self._view.then(*step)
        made = MappedSetTable(self._source, (*self._steps, step), view)
        if view is None:  # errors come now, not when it is looked at
            made._whole = _transform(self.table, *step)
        return made

    method.__name__ = name
    method.__doc__ = f"As ``pyarrow.Table.{name}``."
    return method


for _name in _TRANSFORMS:
    setattr(MappedSetTable, _name, _recorded(_name))
