"""Data sets by name, path or Hub repository, and the ``datasets`` builders over them.

:func:`load_ct_dataset` maps the study files of a prepared set as they are. The builders are for
what copies anyway, streaming in shards and conversion to Parquet: :class:`CTSources` from scans, a
configuration for each source, and :class:`CTPreparedSet` from a set.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa
from datasets.builder import Key

from .errors import CTDataError
from .hub_sets import is_repo_id, load_from_hub
from .labels import SPLITS
from .loading import load_prepared, study_files
from .manifest import digest_of, read_manifest
from .prepare_options import PrepareOptions
from .prepared import prepare_table
from .row_file import read_row
from .rows import SCHEMA
from .sources import GENERATED, SOURCES, open_source
from .splits import read_split_file
from .worker import scan_fingerprint

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

__all__ = [
    "CTPreparedSet",
    "CTPreparedSetConfig",
    "CTSources",
    "CTSourcesConfig",
    "load_ct_dataset",
]

_OPTIONS = tuple(option.name for option in fields(PrepareOptions))


@dataclass
class CTPreparedSetConfig(datasets.BuilderConfig):
    """``path`` is the folder of a prepared set."""

    path: str = ""


class CTPreparedSet(datasets.ArrowBasedBuilder):
    """A prepared set as a ``datasets`` builder: ``CTPreparedSet(path=...)``.

    Use :func:`load_ct_dataset` to train: it maps the files without copying. This class streams
    (``as_streaming_dataset``, one shard a study) and converts
    (``download_and_prepare(folder, file_format="parquet")``).
    """

    BUILDER_CONFIG_CLASS = CTPreparedSetConfig

    def __init__(self, *args: Any, path: str | os.PathLike = "", **options: Any) -> None:
        # ``datasets`` keys its cache by the configuration alone; without the manifest's digest it
        # would hand out an older state of the folder
        if path:
            options["hash"] = digest_of(read_manifest(path))[:16]
        super().__init__(*args, path=str(path), **options)

    def _info(self) -> datasets.DatasetInfo:
        if not self.config.path:
            raise CTDataError("CTPreparedSet needs path=, the folder of a prepared set")
        provenance = read_manifest(self.config.path)["provenance"]
        return datasets.DatasetInfo(
            description=provenance["description"],
            license=provenance["licence"],
            features=datasets.Features.from_arrow_schema(SCHEMA),
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        counts = read_manifest(self.config.path)["splits"]
        return [
            datasets.SplitGenerator(
                name=split,
                gen_kwargs={"files": study_files(self.config.path, split)},
            )
            for split in SPLITS
            if counts[split]
        ]

    def _generate_tables(self, files: list[str]) -> Any:
        for number, file in enumerate(files):
            yield Key(number, 0), pa.Table.from_batches([read_row(file)])


@dataclass
class CTSourcesConfig(datasets.BuilderConfig):
    """``name`` is a source; ``options`` are those of :func:`load_ct_dataset`."""

    options: dict[str, Any] = field(default_factory=dict)


class CTSources(datasets.ArrowBasedBuilder):
    """Every source as a ``datasets`` builder: ``CTSources("lidc_idri", data_dir=...)``.

    Scans are prepared into the cache when the studies are asked for, or found there; then it
    streams (``as_streaming_dataset``, one shard a study) and converts
    (``download_and_prepare(folder, file_format="parquet")``).

    Parameters
    ----------
    config_name : str
        A name in :data:`.sources.SOURCES`.
    data_dir, cache_dir, split_file, workers, progress, **options
        As for :func:`load_ct_dataset`.

    Notes
    -----
    ``datasets`` keys its cache by names and options alone and does not look into ``data_dir``; here
    the key also holds what the table says, and path, size and time of every file of the scans.
    """

    BUILDER_CONFIG_CLASS = CTSourcesConfig
    BUILDER_CONFIGS = [CTSourcesConfig(name=name) for name in SOURCES]  # noqa: RUF012

    def __init__(
        self,
        config_name: str,
        *,
        data_dir: str | os.PathLike | None = None,
        cache_dir: str | os.PathLike | None = None,
        split_file: str | os.PathLike | None = None,
        workers: int = 1,
        progress: bool = True,
        **options: Any,
    ) -> None:
        if config_name not in SOURCES:
            raise CTDataError(f"no source {config_name!r}; known are {', '.join(SOURCES)}")
        self._request = _Request(
            config_name, data_dir, cache_dir, split_file, workers, progress, options
        )
        said = [repr(self._request.source.table)]
        said += [scan_fingerprint(entry.path) for entry in self._request.source.table.entries]
        super().__init__(
            cache_dir=None if cache_dir is None else str(cache_dir),
            config_name=config_name,
            hash=digest_of([*said, self._request.folder.name])[:16],
            options={name: str(value) for name, value in options.items()},
        )

    def _info(self) -> datasets.DatasetInfo:
        provenance = self._request.source.provenance
        return datasets.DatasetInfo(
            description=provenance.description,
            license=provenance.licence,
            features=datasets.Features.from_arrow_schema(SCHEMA),
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        folder = self._request.prepare()
        counts = read_manifest(folder)["splits"]
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"files": study_files(folder, split)})
            for split in SPLITS
            if counts[split]
        ]

    _generate_tables = CTPreparedSet._generate_tables


def load_ct_dataset(
    name_or_path: str | os.PathLike,
    split: str | None = None,
    *,
    data_dir: str | os.PathLike | None = None,
    streaming: bool = False,
    fraction: float | None = None,
    fraction_seed: int = 0,
    cache_dir: str | os.PathLike | None = None,
    split_file: str | os.PathLike | None = None,
    workers: int = 1,
    progress: bool = True,
    revision: str | None = None,
    **options: Any,
) -> Dataset | DatasetDict | IterableDataset | IterableDatasetDict:
    """Load CT studies, one row each.

    Parameters
    ----------
    name_or_path : str or path
        Folder of a prepared set, a dataset repository of the Hub that one was pushed to
        (``"user/name"``), or a source: ``"lidc_idri"``, ``"rsna_pe"``, ``"folder"`` (scans in
        ``data_dir``) or ``"phantom"`` (generated studies). A source is prepared into the cache
        when that has not been done yet or its inputs have changed.
    split : {"train", "validation", "test", "all"}, optional
        None gives all splits in a dictionary.
    data_dir : path, optional
        Where the scans are; the phantom is written into the cache when None.
    streaming : bool
        Give an iterable data set that reads study after study.
    fraction, fraction_seed
        Keep a share of the training patients, see :func:`.splits.nested_fractions`.
    cache_dir : path, optional
        Where sources are prepared; None is ``ct_video_hf`` in the ``datasets`` cache.
    split_file, workers, progress
        Of :func:`.sources.prepare`.
    revision : str, optional
        Commit, branch or tag of a Hub repository.
    **options
        Fields of :class:`.prepare_options.PrepareOptions` (``size``, ``policy``, ...) and options
        of the source, as its function in :mod:`.sources` takes them.

    Returns
    -------
    datasets.Dataset, DatasetDict, or their iterable kinds
        Volumes are memory-mapped: opening reads none of them. Clips come from
        :func:`.clips.build_clip_index` and :class:`.clips.CTClipDataset`.

    Raises
    ------
    CTDataError
        For a name that is neither source nor folder, options that do not apply, and whatever is
        wrong with the table or the set.
    """
    name = str(name_or_path)
    if name in SOURCES:
        if streaming and fraction is None:
            builder = CTSources(
                name, data_dir=data_dir, cache_dir=cache_dir, split_file=split_file,
                workers=workers, progress=progress, **options,
            )  # fmt: skip
            return builder.as_streaming_dataset(split)
        request = _Request(name, data_dir, cache_dir, split_file, workers, progress, options)
        folder = request.prepare()
    else:
        given = sorted(options) + ["data_dir"] * (data_dir is not None)
        given += ["split_file"] * (split_file is not None)
        if given:
            raise CTDataError(
                f"{', '.join(given)}: applies to a source ({', '.join(SOURCES)}), not to a set "
                "that is prepared already"
            )
        folder = Path(name_or_path)
        if not folder.is_dir() and is_repo_id(name):
            where = None if cache_dir is None else str(cache_dir)
            return load_from_hub(
                name, split, streaming=streaming, revision=revision, fraction=fraction,
                fraction_seed=fraction_seed, cache_dir=where,
            )  # fmt: skip
        if not folder.is_dir():
            raise CTDataError(
                f"{name!r} is neither the folder of a prepared set, nor a Hub repository "
                f"(user/name), nor a source ({', '.join(SOURCES)})"
            )
    if revision is not None:
        raise CTDataError("revision belongs to a set on the Hub")
    if not streaming:
        return load_prepared(folder, split, fraction=fraction, fraction_seed=fraction_seed)
    if fraction is not None:
        raise CTDataError("fraction needs a mapped set: leave streaming off")
    return CTPreparedSet(path=str(folder), cache_dir=cache_dir).as_streaming_dataset(split)


class _Request:
    """A source with its options, and the folder in the cache that its set is prepared into."""

    def __init__(
        self,
        name: str,
        data_dir: str | os.PathLike | None,
        cache_dir: str | os.PathLike | None,
        split_file: str | os.PathLike | None,
        workers: int,
        progress: bool,
        options: dict[str, Any],
    ) -> None:
        root = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "ct_video_hf"
        own = {key: value for key, value in options.items() if key not in _OPTIONS}
        self.chosen = PrepareOptions(**{k: v for k, v in options.items() if k in _OPTIONS})
        described = {key: str(value) for key, value in own.items()}
        if data_dir is None:
            if name not in GENERATED:
                raise CTDataError(
                    f"load_ct_dataset({name!r}) needs data_dir, the folder of the scans"
                )
            data_dir = root / f"{name}-dicom-{digest_of(described)[:16]}"
        given = [name, str(Path(data_dir).resolve()), described, str(split_file)]
        self.folder = root / f"{name}-{digest_of([*given, repr(self.chosen)])[:16]}"
        self.split_file, self.workers, self.progress = split_file, workers, progress
        self.source = open_source(name, data_dir, workers=workers, progress=progress, **own)

    def prepare(self) -> Path:
        """Prepare the set, or go on, or find it done."""
        prepare_table(
            self.source.table,
            self.folder,
            self.chosen,
            provenance=self.source.provenance,
            split_file=None if self.split_file is None else read_split_file(self.split_file),
            workers=self.workers,
            prune=True,
            progress=self.progress,
        )
        return self.folder
