"""A set as one lazy block: the same as its rows, through everything that datasets does."""

import pickle

import multiprocess
import pyarrow as pa
import pytest
from datasets import Dataset, concatenate_datasets

from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.mapped import MappedSetTable

SPAWN = multiprocess.get_context("spawn")
SCHEMA = pa.schema([("a", pa.int8()), ("volume", pa.large_binary()), ("b", pa.string())])
ROWS = [{"a": n, "volume": f"volume {n}".encode(), "b": f"row {n}"} for n in range(5)]


def write(path, table):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    return path


@pytest.fixture
def files(tmp_path):
    write(tmp_path / "index.arrow", pa.Table.from_pylist(ROWS, SCHEMA).drop(["volume"]))
    return [
        write(tmp_path / f"{n}.arrow", pa.Table.from_pylist([row], SCHEMA))
        for n, row in enumerate(ROWS)
    ]


def table(files, rows=range(5)):
    index = files[0].with_name("index.arrow")
    return MappedSetTable.from_files(index, rows, [files[row] for row in rows], SCHEMA)


@pytest.fixture
def data(files):
    return Dataset(table(files), fingerprint="x")


def test_rows(data, files):
    assert list(data) == ROWS
    assert data[3] == ROWS[3]
    assert data[1:3]["b"] == ["row 1", "row 2"]
    assert data[[3, 0]]["volume"] == [b"volume 3", b"volume 0"]
    assert isinstance(data.data, MappedSetTable)
    assert list(Dataset(table(files, [4, 1]), fingerprint="y")) == [ROWS[4], ROWS[1]]


def test_small_columns_and_single_rows_open_no_other_study(data, files):
    for file in (files[0], *files[2:]):
        file.write_bytes(b"no Arrow at all")
    assert list(data.select_columns(["b", "a"])) == [{"b": r["b"], "a": r["a"]} for r in ROWS]
    assert data[1] == ROWS[1]
    part = data.select(range(1, 3)).select_columns(["volume", "a"])
    assert part[0] == {"volume": b"volume 1", "a": 1}
    copy = pickle.loads(pickle.dumps(part))  # noqa: S301 - made here
    assert copy[0] == part[0]
    with pytest.raises(CTDataError, match=r"2\.arrow of .* is damaged"):
        part[1]


def steps(data):
    yield data.select([4, 0]), [ROWS[4], ROWS[0]]
    yield data.select(range(1, 3)), ROWS[1:3]
    yield data.select_columns(["a"]), [{"a": row["a"]} for row in ROWS]
    yield (
        data.remove_columns(["a", "volume"]).rename_column("b", "c"),
        [{"c": row["b"]} for row in ROWS],
    )
    yield data.filter(is_even), ROWS[::2]
    yield data.map(plus_one), [row | {"a": row["a"] + 1} for row in ROWS]
    yield data.add_column("d", list(range(5))), [row | {"d": row["a"]} for row in ROWS]
    yield data.cast_column("a", pa_feature("int64")), ROWS
    yield data.shard(2, 1, contiguous=True), ROWS[3:]
    yield data.sort("a", reverse=True), ROWS[::-1]
    yield concatenate_datasets([data, data]), ROWS + ROWS
    yield data.train_test_split(test_size=2, shuffle=False)["test"], ROWS[3:]


def is_even(row):
    return row["a"] % 2 == 0


def plus_one(row):
    return {"a": row["a"] + 1}


def pa_feature(name):
    from datasets import Value

    return Value(name)


def test_what_datasets_does_with_rows_and_pickles_of_it(data):
    for changed, expected in steps(data):
        assert list(changed) == expected
        copy = pickle.loads(pickle.dumps(changed))  # noqa: S301 - made here
        assert list(copy) == expected
        assert copy.features == changed.features


def test_saved_and_loaded(data, tmp_path):
    data.save_to_disk(tmp_path / "saved")
    assert list(Dataset.load_from_disk(tmp_path / "saved")) == ROWS
    data.to_parquet(tmp_path / "all.parquet")
    assert list(Dataset.from_parquet(str(tmp_path / "all.parquet"), cache_dir=tmp_path)) == ROWS


def test_map_in_two_processes(data, monkeypatch):
    monkeypatch.setattr("datasets.arrow_dataset.mp.Pool", SPAWN.Pool)  # not a fork with threads
    assert list(data.map(plus_one, num_proc=2)) == [row | {"a": row["a"] + 1} for row in ROWS]


def test_pickle_holds_paths_not_rows(data, files):
    assert b"volume 3" not in pickle.dumps(data.data)
    assert str(files[3]).encode() in pickle.dumps(data.data)


def test_damaged_files_are_named(files):
    files[2].write_bytes(files[2].read_bytes()[:-40])
    with pytest.raises(CTDataError, match=r"2\.arrow of .* is damaged"):
        list(table(files).to_pylist())
    index = files[0].with_name("index.arrow")
    index.write_bytes(index.read_bytes()[:-80])
    with pytest.raises(CTDataError, match=r"index\.arrow cannot be read"):
        table(files)
