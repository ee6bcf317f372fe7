"""Data sets by name or path, and the ``datasets`` builder over prepared sets.

:func:`load_ct_dataset` maps the study files of a prepared set as they are. The builder
:class:`CTPreparedSet` is for what copies anyway: streaming in shards, and conversion to Parquet.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa
from datasets.builder import Key

from .errors import CTDataError
from .labels import SPLITS
from .loading import load_prepared, study_files
from .manifest import digest_of, read_manifest
from .prepared import PrepareOptions, prepare_table
from .rows import SCHEMA
from .sources import SOURCES, open_source
from .splits import read_split_file

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

__all__ = ["CTPreparedSet", "CTPreparedSetConfig", "load_ct_dataset"]

_OPTIONS = tuple(field.name for field in fields(PrepareOptions))


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
            with pa.memory_map(file) as source:
                yield Key(number, 0), pa.ipc.open_stream(source).read_all()


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
    **options: Any,
) -> Dataset | DatasetDict | IterableDataset | IterableDatasetDict:
    """Load CT studies, one row each.

    Parameters
    ----------
    name_or_path : str or path
        Folder of a prepared set, or a source (:data:`.sources.SOURCES`): ``"folder"``,
        ``"rsna_pe"`` and ``"lidc_idri"`` (scans in ``data_dir``), ``"phantom"`` (generated
        studies). A source is prepared into the cache when that has not been done yet or its inputs
        have changed.
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
    **options
        Fields of :class:`.prepared.PrepareOptions` (``size``, ``policy``, ...) and options of the
        source, as its function in :mod:`.sources` takes them.

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
    if str(name_or_path) in SOURCES:
        folder = _prepared_in_cache(
            str(name_or_path), data_dir, cache_dir, split_file, workers, progress, options
        )
    else:
        given = sorted(options) + ["data_dir"] * (data_dir is not None)
        given += ["split_file"] * (split_file is not None)
        if given:
            raise CTDataError(
                f"{', '.join(given)}: applies to a source ({', '.join(SOURCES)}), not to a set "
                "that is prepared already"
            )
        folder = Path(name_or_path)
        if not folder.is_dir():
            raise CTDataError(
                f"{str(name_or_path)!r} is neither the folder of a prepared set nor a source "
                f"({', '.join(SOURCES)})"
            )
    if not streaming:
        return load_prepared(folder, split, fraction=fraction, fraction_seed=fraction_seed)
    if fraction is not None:
        raise CTDataError("fraction needs a mapped set: leave streaming off")
    return CTPreparedSet(path=str(folder), cache_dir=cache_dir).as_streaming_dataset(split)


def _prepared_in_cache(
    name: str,
    data_dir: str | os.PathLike | None,
    cache_dir: str | os.PathLike | None,
    split_file: str | os.PathLike | None,
    workers: int,
    progress: bool,
    options: dict[str, Any],
) -> Path:
    """Prepare a source into the cache, or go on, or find it done; returns the set's folder."""
    root = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "ct_video_hf"
    chosen = PrepareOptions(**{key: options.pop(key) for key in _OPTIONS if key in options})
    described = {key: str(value) for key, value in options.items()}
    if data_dir is None:
        if name != "phantom":
            raise CTDataError(f"load_ct_dataset({name!r}) needs data_dir, the folder of the scans")
        data_dir = root / f"phantom-dicom-{digest_of(described)[:16]}"
    given = [name, str(Path(data_dir).resolve()), described, str(split_file), repr(chosen)]
    folder = root / f"{name}-{digest_of(given)[:16]}"
    source = open_source(name, data_dir, workers=workers, progress=progress, **options)
    prepare_table(
        source.table,
        folder,
        chosen,
        provenance=source.provenance,
        split_file=None if split_file is None else read_split_file(split_file),
        workers=workers,
        prune=True,
        progress=progress,
    )
    return folder
