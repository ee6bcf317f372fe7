import os

import multiprocess
import pytest
from datasets import DatasetDict, IterableDataset, load_dataset

from ct_video_hf import load_ct_dataset
from ct_video_hf.data.builders import CTPreparedSet, CTSources
from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.prepare_options import PrepareOptions
from ct_video_hf.data.sources import SOURCES, prepare
from tests.support.dicom_folders import write_folder_set

SPAWN = multiprocess.get_context("spawn")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return write_folder_set(tmp_path_factory.mktemp("scans") / "in")


@pytest.fixture(scope="module")
def prepared(scans, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "set"
    prepare("folder", scans, out, options=PrepareOptions(size=32), progress=False)
    return out


def test_prepared_set_by_path(prepared):
    data = load_ct_dataset(prepared)
    assert isinstance(data, DatasetDict)
    assert {name: len(rows) for name, rows in data.items()} == {"train": 4, "test": 2}
    assert len(load_ct_dataset(str(prepared), split="test")) == 2
    assert len(load_ct_dataset(prepared, "train", fraction=0.5)) == 2


def test_same_set_has_the_same_fingerprint(prepared):
    first, second = (load_ct_dataset(prepared, "train") for _ in range(2))
    assert first._fingerprint == second._fingerprint
    assert first._fingerprint != load_ct_dataset(prepared, "test")._fingerprint


def test_folder_is_prepared_into_the_cache_once(scans, tmp_path):
    options = {"data_dir": scans, "cache_dir": tmp_path, "size": 32, "progress": False}
    first = load_ct_dataset("folder", "all", **options)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("studies/*.arrow")}
    assert len(files) == len(first) == 6
    load_ct_dataset("folder", **options)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("studies/*.arrow")} == files
    other = load_ct_dataset("folder", "all", **options | {"size": 24})
    assert other[0]["shape"] == [24, 24, 24]
    assert len(list(tmp_path.rglob("studies/*.arrow"))) == 12


def test_cache_follows_the_inputs(tmp_path):
    """The trap of builder caches: a changed file in data_dir must not give the old set."""
    scans = write_folder_set(tmp_path / "scans")
    options = {"data_dir": scans, "cache_dir": tmp_path / "c", "size": 32, "progress": False}
    assert load_ct_dataset("folder", "all", **options)[0]["study_label"] == 0
    table = (scans / "labels.csv").read_text().replace("s0,0", "s0,1")
    (scans / "labels.csv").write_text(table)
    assert load_ct_dataset("folder", "all", **options)[0]["study_label"] == 1


def test_phantom_by_name(tmp_path):
    data = load_ct_dataset(
        "phantom", cache_dir=tmp_path, train=2, validation=1, test=1, size=96, progress=False
    )
    assert {name: len(rows) for name, rows in data.items()} == {
        "train": 2,
        "validation": 1,
        "test": 1,
    }


def test_streaming_gives_the_rows_one_by_one(prepared):
    stream = load_ct_dataset(prepared, "train", streaming=True)
    assert isinstance(stream, IterableDataset)
    assert stream.num_shards == 4
    assert list(stream) == list(load_ct_dataset(prepared, "train"))


def test_builder_converts_to_parquet_that_needs_no_package(prepared, tmp_path):
    builder = CTPreparedSet(path=str(prepared), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare(str(tmp_path / "parquet"), file_format="parquet")
    data = load_dataset(str(tmp_path / "parquet"), cache_dir=str(tmp_path / "cache"))
    assert list(data["train"]) == list(load_ct_dataset(prepared, "train"))


def test_builder_cache_key_follows_the_set(tmp_path):
    scans = write_folder_set(tmp_path / "scans")
    out = tmp_path / "set"
    keys = set()
    for label in (0, 1):
        table = (scans / "labels.csv").read_text().replace("s0,0", f"s0,{label}")
        (scans / "labels.csv").write_text(table)
        prepare("folder", scans, out, options=PrepareOptions(size=32), progress=False)
        keys.add(CTPreparedSet(path=str(out), cache_dir=str(tmp_path / "cache")).cache_dir)
    assert len(keys) == 2


def sources(scans, tmp_path, **options):
    return CTSources(
        "folder", data_dir=scans, cache_dir=tmp_path / "cache", progress=False, size=32, **options
    )


def test_every_source_is_a_configuration_of_the_builder():
    assert [config.name for config in CTSources.BUILDER_CONFIGS] == list(SOURCES)
    with pytest.raises(CTDataError, match="no source 'lidc'; known are folder"):
        CTSources("lidc", data_dir=".")


def test_builder_streams_and_converts_scans(scans, tmp_path, monkeypatch):
    mapped = load_ct_dataset(
        "folder", data_dir=scans, cache_dir=tmp_path / "cache", size=32, progress=False
    )
    builder = sources(scans, tmp_path)
    stream = builder.as_streaming_dataset("train")
    assert stream.num_shards == 4
    assert list(stream) == list(mapped["train"])
    through = load_ct_dataset(
        "folder", "test", data_dir=scans, cache_dir=tmp_path / "cache", size=32, progress=False,
        streaming=True,
    )  # fmt: skip
    assert list(through) == list(mapped["test"])
    monkeypatch.setattr("datasets.builder.Pool", SPAWN.Pool)  # not a fork with threads
    builder.download_and_prepare(str(tmp_path / "parquet"), file_format="parquet", num_proc=2)
    data = load_dataset(str(tmp_path / "parquet"), cache_dir=str(tmp_path / "cache"))
    assert list(data["train"]) == list(mapped["train"])
    assert len(list((tmp_path / "cache").glob("ct_video_hf/folder-*"))) == 1  # prepared once


def test_builder_key_follows_the_scans_the_table_and_the_options(tmp_path):
    scans = write_folder_set(tmp_path / "scans")
    keys = [sources(scans, tmp_path).cache_dir, sources(scans, tmp_path).cache_dir]
    assert len(set(keys)) == 1
    os.utime(next((scans / "s1").iterdir()), ns=(0, 1))
    keys.append(sources(scans, tmp_path).cache_dir)
    table = (scans / "labels.csv").read_text().replace("s0,0", "s0,1")
    (scans / "labels.csv").write_text(table)
    keys.append(sources(scans, tmp_path).cache_dir)
    keys.append(sources(scans, tmp_path, policy="warn").cache_dir)
    keys.append(sources(scans, tmp_path, licence="CC0").cache_dir)
    assert len(set(keys)) == 5


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("nowhere", {}, "neither the folder of a prepared set, nor a Hub repo"),
        ("folder", {}, "needs data_dir"),
        ("folder", {"data_dir": ".", "sise": 3}, "no option sise"),
        (".", {"size": 3}, "size: applies to a source"),
        (".", {"data_dir": "x"}, "data_dir: applies to a source"),
        (".", {}, "is not a prepared set"),
    ],
)
def test_slips(name, options, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CTDataError, match=expected):
        load_ct_dataset(name, cache_dir=tmp_path, **options)
