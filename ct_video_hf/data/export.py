"""A prepared set as Parquet shards with plain columns: what a Hub repository holds.

A row group is one study, so that whoever streams a shard holds one study at a time. A shard's name
carries a digest of what is in it: the same name is the same content, which makes pushing resumable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import replacing
from .errors import CTDataError
from .labels import SPLITS
from .manifest import digest_of, salted_hash
from .row_file import read_row
from .rows import SCHEMA, VOLUME

__all__ = ["Shard", "plan_shards", "published_names", "write_shard"]

#: A Parquet value is counted with 31 bits.
_LARGEST_STUDY = 2**31 - 2**20


@dataclass(frozen=True)
class Shard:
    """Studies that go into one Parquet file; ``records`` are those of the manifest."""

    split: str
    number: int
    of: int
    records: tuple[dict[str, Any], ...]
    names: tuple[str, ...]

    @property
    def path(self) -> str:
        """Its path in the repository."""
        content = [[record["xxh3"] for record in self.records], self.names, SCHEMA.to_string()]
        digest = digest_of(content)[:12]
        return f"data/{self.split}-{self.number:05d}-of-{self.of:05d}-{digest}.parquet"

    @property
    def bytes(self) -> int:
        """Of its studies before compression."""
        return sum(record["bytes"] for record in self.records)


def plan_shards(
    manifest: dict[str, Any], names: dict[str, str], shard_bytes: int = 500_000_000
) -> list[Shard]:
    """Deal the studies of each split, in their order, to shards of about ``shard_bytes``.

    Parameters
    ----------
    manifest : dict
    names : dict
        Study id -> the name under which it is published.
    shard_bytes : int
        A shard is closed before it would grow larger; a larger study has one of its own.

    Raises
    ------
    CTDataError
        For a study of 2 GB or more, which a Parquet value cannot hold.
    """
    shards = []
    for split in SPLITS:
        groups: list[list[dict[str, Any]]] = []
        filled = 0
        for record in (r for r in manifest["studies"] if r["split"] == split):
            if record["bytes"] > _LARGEST_STUDY:
                raise CTDataError(
                    f"study {record['key']} has {record['bytes']} bytes; Parquet holds less than "
                    "2 GB in one value: prepare the set with a smaller size"
                )
            if not groups or filled + record["bytes"] > shard_bytes:
                groups.append([])
                filled = 0
            groups[-1].append(record)
            filled += record["bytes"]
        shards += [
            Shard(
                split,
                number,
                len(groups),
                tuple(group),
                tuple(names[record["study_id"]] for record in group),
            )
            for number, group in enumerate(groups)
        ]
    return shards


def write_shard(shard: Shard, folder: Path, target: Path) -> int:
    """Write the Parquet file of a shard; one study is held at a time.

    Parameters
    ----------
    shard : Shard
    folder : path
        Of the prepared set.
    target : path

    Returns
    -------
    int
        Bytes of the file.
    """
    import datasets

    features = datasets.Features.from_arrow_schema(SCHEMA)
    schema = features.arrow_schema  # with the metadata that ``datasets`` reads
    small = [name for name in SCHEMA.names if name != VOLUME]
    with (
        replacing(target) as partial,
        pq.ParquetWriter(
            partial,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=False,
            write_statistics=small,
        ) as writer,
    ):
        for record, name in zip(shard.records, shard.names, strict=True):
            writer.write_table(_row(folder, record, name).cast(schema), row_group_size=1)
    return target.stat().st_size


def _row(folder: Path, record: dict[str, Any], name: str) -> pa.Table:
    file = folder / "studies" / f"{record['key']}.arrow"
    table = pa.Table.from_batches([read_row(file, record["study_id"])])
    return table.set_column(SCHEMA.get_field_index("study_id"), "study_id", pa.array([name]))


def published_names(manifest: dict[str, Any], salt: str | None) -> dict[str, str]:
    """Study id -> published name: itself when ``salt`` is None, else its salted hash."""
    ids: Sequence[str] = [record["study_id"] for record in manifest["studies"]]
    if salt is None or manifest["parameters"].get("hashed_study_ids"):
        return {study: study for study in ids}
    return {study: salted_hash(salt, "study", study) for study in ids}
