"""Pushing prepared sets and reading them back through the real clients, against a loopback Hub."""

import csv
import io
import json
import subprocess
import sys

import pytest
import yaml

from ct_video_hf.data import PrepareOptions, load_prepared, prepare
from ct_video_hf.data.manifest import read_manifest
from ct_video_hf.errors import CTVideoError
from ct_video_hf.hub import HubError, push_set
from tests.support.dicom_folders import write_folder_set
from tests.support.hub_client import client_of
from tests.support.hub_server import HubServer
from tests.support.tiny_runs import REPOSITORY

READ = """
import hashlib, json, sys
import numpy as np, torch
from ct_video_hf import load_ct_dataset
from ct_video_hf.data import ClipTransform, CTClipDataset, CTClipStream, build_clip_index
from ct_video_hf.models.processing_ct import CTVideoProcessor

def digest(item):
    found = hashlib.sha256(item["pixel_values"].numpy().tobytes()).hexdigest()
    return [item["clip_start"], item["labels"].tolist(), found]

def clips_of(data):
    index = build_clip_index(data, 8, 6)
    return [digest(item) for item in CTClipDataset(data, index, transform)]

processor = CTVideoProcessor(size=32, crop_size=28, num_frames=8, num_channels=1)
transform = ClipTransform(processor, False)
folder, repo = sys.argv[1:]
mine = load_ct_dataset(folder, "train")
theirs = load_ct_dataset(repo, "train")
stream = load_ct_dataset(repo, split="train", streaming=True)
hashed = [row["study_id"] for row in theirs]
assert [row | {"study_id": None} for row in theirs] == [row | {"study_id": None} for row in mine]
assert [row["study_id"] for row in stream] == hashed
assert stream.features == theirs.features, (stream.features, theirs.features)
assert stream.num_shards == 2, stream.num_shards
expected = clips_of(mine)
assert clips_of(theirs) == expected
clips = CTClipStream(stream, transform, 8, 6)
assert [digest(item) for item in clips] == expected
loader = torch.utils.data.DataLoader(
    clips, batch_size=None, num_workers=2, multiprocessing_context="spawn"
)
assert sorted(map(str, map(digest, loader))) == sorted(map(str, expected))
half = load_ct_dataset(repo, fraction=0.5)
assert {name: len(part) for name, part in half.items()} == {"train": 2, "test": 2}
print(json.dumps(hashed))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    scans = write_folder_set(root / "scans")
    (scans / "broken").mkdir()
    with (scans / "labels.csv").open("a") as table:
        table.write("broken,0,,,p9,train\n")
    options = PrepareOptions(size=32)
    prepare("folder", scans, root / "set", options=options, licence="CC0", progress=False)
    return root / "set"


def call(hub, home, *words):
    environment = hub.env(home) | {
        "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CT_VIDEO_HF_PAUSE": "0.01",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *map(str, words)], env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def push(hub, home, folder, *more):
    words = ("-m", "ct_video_hf", "push", folder, "tester/ct-set", "--json", "-q", *more)
    return call(hub, home, *words)


def test_pushed_and_read_back_and_streamed_the_same(folder, tmp_path):
    with HubServer(tmp_path / "hub", busy_commits=2, cut_puts=1) as hub:
        done = push(hub, tmp_path, folder, "--shard-mb", "1")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["studies"], told["shards"], told["kept"]) == (6, 2, 0)
        assert told["verified"] == 2
        assert hub.store.load("dataset", "tester/ct-set")["private"]
        # a smaller shard size makes other shards; the first ones go with the same commit
        first = {path for path in files_of(hub) if path.endswith(".parquet")}
        hub.set_faults(lose_commits=3)  # the third one is the card's, which takes a shard away
        code = (
            "import sys; from ct_video_hf.hub.set_repo import push_set;"
            "print(push_set(sys.argv[1], 'tester/ct-set', shard_bytes=130_000, progress=False))"
        )
        done = call(hub, tmp_path, "-c", code, folder)
        assert done.returncode == 0, done.stderr
        assert hub.faults["lose_commits"] == 0
        second = {path for path in files_of(hub) if path.endswith(".parquet")}
        assert len(second) == 3
        assert len(first - second) == 1
        read = call(hub, tmp_path, "-c", READ, folder, "tester/ct-set")
        assert read.returncode == 0, read.stderr
        names = json.loads(read.stdout.splitlines()[-1])
        check_files(files_of(hub), names, folder)
        requests = len(hub.log)
        done = call(hub, tmp_path, "-c", code, folder)
        assert "kept=3" in done.stdout
        assert not [line for line in hub.log[requests:] if line["method"] == "PUT"]


def files_of(hub):
    return hub.files("tester/ct-set", "dataset")


def check_files(files, names, folder):
    """What lies in the repository, and that nothing else does."""
    others = sorted(path for path in files if not path.endswith(".parquet"))
    assert others == ["README.md", "fractions.csv", "set.json", "splits.csv"]
    card = files["README.md"].decode()
    head = yaml.safe_load(card.split("---")[1])
    assert head["dataset_info"]["splits"][0]["num_examples"] == 4
    listed = [path for part in head["configs"][0]["data_files"] for path in part["path"]]
    assert set(listed) == {path for path in files if path.endswith(".parquet")}
    assert 'load_ct_dataset("tester/ct-set"' in card
    splits = list(csv.DictReader(io.StringIO(files["splits.csv"].decode())))
    assert [row["study"] for row in splits[:4]] == names
    salt = (folder / "private" / "salt").read_bytes().strip()
    secrets = [salt, b"s0", b"s5", b"broken", b"salt_check", b"fingerprint"]
    plain = b"\n".join(files[path] for path in others)
    assert not [secret for secret in secrets if secret in plain]
    assert not [name for name in names if name.startswith("s") or len(name) != 16]


def test_a_push_that_is_cut_off_goes_on(folder, tmp_path):
    code = (
        "import sys; from ct_video_hf.hub.set_repo import push_set;"
        "print(push_set(sys.argv[1], 'tester/ct-set', shard_bytes=1, study_names=True,"
        " progress=False))"
    )
    with HubServer(tmp_path / "hub", commits_left=3) as hub:
        done = call(hub, tmp_path, "-c", code, folder)
        assert done.returncode == 1
        assert "push to tester/ct-set: the Hub did not answer 5 times (status 503)" in done.stderr
        assert len(files_of(hub)) == 3  # no card: nothing that a reader takes for the set
        hub.clear_faults()
        done = call(hub, tmp_path, "-c", code, folder)
        assert done.returncode == 0, done.stderr
        assert "shards=6, kept=3" in done.stdout
        assert b"s0,train" in files_of(hub)["splits.csv"]


def test_what_must_not_be_public_stays_private(folder, tmp_path):
    manifest = read_manifest(folder)
    closed = tmp_path / "closed"
    closed.mkdir()
    for entry in folder.iterdir():
        if entry.name != "manifest.json":
            (closed / entry.name).symlink_to(entry)
    manifest["provenance"] |= {"name": "rsna_pe", "redistributable": False}
    (closed / "manifest.json").write_text(json.dumps(manifest))
    with HubServer(tmp_path / "hub") as hub:
        done = push(hub, tmp_path, closed, "--public")
        assert done.returncode == 1
        assert "images of rsna_pe must not be redistributed" in done.stderr
        assert hub.log == []  # refused before anything was said
        make = (
            "from huggingface_hub import create_repo;"
            "create_repo('tester/ct-set', repo_type='dataset', private=False)"
        )
        assert call(hub, tmp_path, "-c", make).returncode == 0
        done = push(hub, tmp_path, closed)
        assert "images of rsna_pe must not be redistributed" in done.stderr
        assert files_of(hub) == {}
        done = push(hub, tmp_path, folder)  # may be public, but private was asked for
        assert "tester/ct-set is public, and private was asked for" in done.stderr
        assert files_of(hub) == {}
        done = push(hub, tmp_path, folder, "--public")
        assert done.returncode == 0, done.stderr


def test_shards_that_are_not_what_was_sent(folder, tmp_path):
    with (
        HubServer(tmp_path / "hub", misstate="data/*") as hub,
        client_of(hub),
        pytest.raises(HubError, match="6 shards on the Hub are not what was sent, such as data/"),
    ):
        push_set(folder, "tester/ct-set", shard_bytes=1, progress=False)


DAMAGED = """
import sys
from ct_video_hf import load_ct_dataset
from ct_video_hf.data import CTClipStream
from ct_video_hf.data.errors import CTDataError

def told(read):
    try:
        read()
    except CTDataError as error:
        return str(error)

repo = sys.argv[1]
print(told(lambda: load_ct_dataset(repo, "train")))
stream = lambda: load_ct_dataset(repo, split="test", streaming=True)
print(told(lambda: list(CTClipStream(stream(), str, 8))))
"""


def test_damaged_shards_on_the_hub(folder, tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        with client_of(hub):
            push_set(folder, "tester/ct-set", shard_bytes=1, progress=False)
        for path, file in stored(hub).items():
            if path.startswith("data/"):
                file.write_bytes(file.read_bytes()[:-100] + bytes(100))
        read = call(hub, tmp_path, "-c", DAMAGED, "tester/ct-set")
        assert read.returncode == 0, read.stderr
        mapped, streamed = read.stdout.splitlines()
        assert "a shard of tester/ct-set is damaged, or was on its way: " in mapped
        assert "a shard of the streamed set is damaged or gone: " in streamed


def stored(hub):
    """Path -> where a file of the repository lies on the Hub."""
    store = hub.store
    held = store.load("dataset", "tester/ct-set")
    tree = store.get_commit(store.resolve(held, "main")[0])["tree"]
    return {path: store.blob(entry) for path, entry in tree.items()}


def test_a_path_in_the_description_of_a_set(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for entry in folder.iterdir():
        if entry.name != "manifest.json":
            (copy / entry.name).symlink_to(entry)
    manifest = read_manifest(folder)
    manifest["provenance"] |= {"description": "Scans in /home/ada/scans."}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with HubServer(tmp_path / "hub") as hub, client_of(hub):
        with pytest.raises(CTVideoError, match=r"set\.json is not pushed: it holds a place") as no:
            push_set(copy, "tester/ct-set", progress=False)
        assert "ada" not in str(no.value)
        assert hub.log == []


def test_a_copy_without_its_salt_cannot_hash(folder, tmp_path):
    from ct_video_hf.data.errors import CTDataError

    copy = tmp_path / "copy"
    copy.mkdir()
    for entry in folder.iterdir():
        if entry.name != "private":
            (copy / entry.name).symlink_to(entry)
    assert len(load_prepared(copy, "all")) == 6
    with pytest.raises(CTDataError, match="has no private/salt"):
        push_set(copy, "tester/ct-set")
