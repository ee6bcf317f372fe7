"""Tables beside the studies travel with a set, and come back from folder, repository and stream."""

import json

import pytest
import yaml

from ct_video_hf.data import CTDataError, PrepareOptions, load_prepared, load_side_table, prepare
from tests.hub.test_set_repo import call, files_of, push
from tests.support.hub_server import HubServer
from tests.support.lidc import write_collection

READ = """
import json, sys
from ct_video_hf import load_ct_dataset
from ct_video_hf.data import CTDataError, load_side_table

folder, repo = sys.argv[1:]
mine, theirs = (load_side_table(source, "nodules") for source in (folder, repo))
stream = load_side_table(repo, "nodules", streaming=True)
assert theirs.features == mine.features == stream.features, (theirs.features, mine.features)
rows = list(mine)
assert list(theirs) == rows and list(stream) == rows
studies = load_ct_dataset(repo)
names = {name for part in studies.values() for name in part["study_id"]}
assert {row["study"] for row in rows} <= names
assert sum(map(len, studies.values())) == 4
streamed = load_ct_dataset(repo, split="train", streaming=True)
assert [row["study_id"] for row in streamed] == list(studies["train"]["study_id"])
for wrong in ("default", "vessels"):
    try:
        load_side_table(repo, wrong)
    except CTDataError as error:
        assert "there are: nodules" in str(error), error
    else:
        raise AssertionError(wrong)
print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("lidc")
    collection = write_collection(root / "tcia")
    options = PrepareOptions(size=32, salt="s")
    prepare("lidc_idri", collection.root, root / "set", options=options, progress=False)
    return root / "set"


def test_from_the_folder(folder):
    table = load_side_table(folder, "nodules")
    assert set(table["study"]) <= set(load_prepared(folder, "all")["study_id"])
    assert len(table) == 3
    assert list(load_side_table(folder, "nodules", streaming=True)) == list(table)
    with pytest.raises(CTDataError, match="no table 'x' beside its studies; there are: nodules"):
        load_side_table(folder, "x")
    card = (folder / "README.md").read_text()
    assert 'load_side_table("path/to/this/folder", "nodules")' in card


def test_pushed_and_read_back_and_streamed(folder, tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        done = push(hub, tmp_path, folder)
        assert done.returncode == 0, done.stderr
        files = files_of(hub)
        assert "tables/nodules.parquet" in files
        head = yaml.safe_load(files["README.md"].decode().split("---")[1])
        assert [part["config_name"] for part in head["configs"]] == ["default", "nodules"]
        assert b'load_side_table("tester/ct-set", "nodules")' in files["README.md"]
        read = call(hub, tmp_path, "-c", READ, folder, "tester/ct-set")
        assert read.returncode == 0, read.stderr
        assert len(json.loads(read.stdout.splitlines()[-1])) == 3
        # a set without tables in its place takes the old ones away
        bare = tmp_path / "bare"
        bare.mkdir()
        for entry in folder.iterdir():
            if entry.name != "manifest.json":
                (bare / entry.name).symlink_to(entry)
        manifest = json.loads((folder / "manifest.json").read_text())
        (bare / "manifest.json").write_text(json.dumps(manifest | {"side_tables": {}}))
        done = push(hub, tmp_path, bare)
        assert done.returncode == 0, done.stderr
        assert not [path for path in files_of(hub) if path.startswith("tables/")]
