"""The file that holds a row: an Arrow IPC stream, which is mapped into memory as it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from xxhash import xxh3_128

from ..errors import first_line
from .errors import CTDataError
from .rows import SCHEMA, STUDY, VOLUME
from .stored_volume import StoredVolume

__all__ = ["file_digest", "read_row", "write_row"]


class _HashingSink:
    """What Arrow writes goes to a file and into its hash in one pass.

    Arrow is given a buffer of the volume's size and other content. Where it hands that one on, the
    volume is written instead, part by part.
    """

    closed = False

    def __init__(self, path: Path, volume: StoredVolume, stand_in: pa.Buffer) -> None:
        self._file = path.open("wb", buffering=0)
        self._hash = xxh3_128()
        self._volume: StoredVolume | None = volume
        self._stand_in = stand_in.address
        self.size = 0

    def write(self, data: Any) -> int:
        if isinstance(data, pa.Buffer) and data.address == self._stand_in:
            for part in self._volume.parts():
                self._put(memoryview(part).cast("B"))
            self._volume = None
        else:
            self._put(memoryview(data))
        return len(data)

    def _put(self, view: memoryview) -> None:
        self._hash.update(view)
        self.size += len(view)
        while len(view):  # a raw write may take less than it is given
            view = view[self._file.write(view) :]

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._file.close()

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def hexdigest(self) -> str:
        if self._volume is not None:  # never a set of stand-ins
            raise RuntimeError(f"pyarrow {pa.__version__} wrote a copy of the buffer it was given")
        return self._hash.hexdigest()


def file_digest(path: str | os.PathLike) -> str:
    """XXH3 (128 bits) of a file: finds any accident that befell it, but is no seal."""
    found = xxh3_128()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 22):
            found.update(block)
    return found.hexdigest()


def read_row(
    path: str | os.PathLike, study: str | None = None, schema: pa.Schema = SCHEMA
) -> pa.RecordBatch:
    """Map a row's file; its volume is read when it is looked at.

    Parameters
    ----------
    path : path
    study : str, optional
        The ``study_id`` that the row has to have.
    schema : pyarrow.Schema
        The columns that it has to have.

    Raises
    ------
    CTDataError
        When the file is gone, damaged, or holds something else.
    """
    try:
        with pa.memory_map(os.fspath(path)) as stream:  # the mapping outlives the file object
            row = pa.ipc.open_stream(stream).read_next_batch()
        row.validate()
        held = row.column(STUDY)[0].as_py() if study is not None else None
    except (pa.ArrowException, OSError, StopIteration, KeyError, IndexError) as error:
        raise _unreadable(path, f"is damaged or gone: {first_line(error)}") from error
    if row.num_rows != 1 or row.schema != schema:
        raise _unreadable(path, "is not the row of a study")
    if held != study:
        raise _unreadable(path, f"holds the study {held!r}, {study!r} is expected")
    return row


def _unreadable(path: str | os.PathLike, what: str) -> CTDataError:
    path = Path(path)
    return CTDataError(
        f"{path.parent.name}/{path.name} of {path.parent.parent.name} {what}. Copy it again, or "
        "delete it and run the same `prepare`"
    )


def write_row(row: dict[str, Any], path: Path) -> tuple[int, str]:
    """Write a row's file under a temporary name and move it into place.

    Parameters
    ----------
    row : dict
        Of :func:`.rows.study_row`.
    path : Path

    Returns
    -------
    (int, str)
        Size in bytes and :func:`file_digest` of the file.
    """
    volume: StoredVolume = row[VOLUME]
    stand_in = pa.py_buffer(volume.stand_in())
    columns = []
    for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True):
        if name == VOLUME:
            ends = pa.py_buffer(np.array([0, volume.nbytes], np.int64))
            columns.append(pa.Array.from_buffers(kind, 1, [None, ends, stand_in]))
        else:
            columns.append(pa.array([row[name]], kind))
    batch = pa.record_batch(columns, schema=SCHEMA)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    sink = _HashingSink(temporary, volume, stand_in)
    try:
        with (
            pa.PythonFile(sink, mode="w") as stream,
            pa.ipc.new_stream(stream, SCHEMA) as writer,
        ):
            writer.write_batch(batch)
    finally:
        sink.close()
    digest = sink.hexdigest()
    os.replace(temporary, path)
    return sink.size, digest
