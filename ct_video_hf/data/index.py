"""``index.arrow``: the small columns of all studies of a set in one file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..files import replacing
from .row_file import file_digest, read_row
from .rows import SCHEMA, VOLUME

__all__ = ["SMALL_COLUMNS", "write_index"]

#: Every column but the volume.
SMALL_COLUMNS = tuple(name for name in SCHEMA.names if name != VOLUME)

_ROWS = 64  # of a batch: each maps a study, of which the system reads more than is asked for


def write_index(path: Path, files: Sequence[str | os.PathLike]) -> dict[str, Any]:
    """Gather the small columns of study files, in their order.

    Returns
    -------
    dict
        ``bytes`` and ``xxh3`` of the index.

    Raises
    ------
    CTDataError
        Naming a study file that is damaged.
    """
    schema = pa.schema([SCHEMA.field(name) for name in SMALL_COLUMNS])
    with replacing(path) as partial:
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for first in range(0, len(files), _ROWS):
                some = files[first : first + _ROWS]
                rows = [read_row(file).select(list(SMALL_COLUMNS)) for file in some]
                writer.write_table(pa.Table.from_batches(rows, schema).combine_chunks())
        described = {"bytes": partial.stat().st_size, "xxh3": file_digest(partial)}
    return described
