"""Sets of the sources with terms or labels of their own, pushed and read back."""

import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub import HfApi

from ct_video_hf.cli import main
from ct_video_hf.data import PrepareOptions, load_prepared, prepare
from ct_video_hf.data.errors import CTDataError
from ct_video_hf.hub import push_set, set_repo
from tests.data.test_ct_rate import FINDINGS, NAMES, hu_of, labels_of, recipe, write_rate
from tests.support.hub_client import client_of
from tests.support.hub_server import HubServer
from tests.support.rsna_tree import write_rsna_tree
from tests.support.tiny_runs import REPOSITORY

REPO = "tester/ct-set"


@pytest.fixture
def hub(tmp_path):
    with HubServer(tmp_path / "hub") as hub, client_of(hub):
        yield hub


@pytest.fixture(scope="module")
def rsna(tmp_path_factory):
    root = tmp_path_factory.mktemp("rsna")
    write_rsna_tree(root / "tree")
    options = PrepareOptions(size=32)
    prepare("rsna_pe", root / "tree", root / "set", options=options, progress=False)
    return root / "set"


def push(folder, **options):
    return push_set(folder, REPO, progress=False, shard_bytes=1, **options)


def test_rsna_goes_to_private_repositories_alone(hub, rsna):
    with pytest.raises(CTDataError, match="images of rsna_pe must not be redistributed"):
        push(rsna, private=False)
    assert hub.log == []  # before anything was said
    pushed = push(rsna)
    assert pushed.studies == pushed.verified == len(load_prepared(rsna, "all"))
    api = HfApi()
    assert api.repo_info(REPO, repo_type="dataset").private
    api.update_repo_settings(REPO, private=False, repo_type="dataset")
    commits = hub.commits(REPO, "dataset")
    for asked in (True, False):
        with pytest.raises(CTDataError, match="images of rsna_pe must not be redistributed"):
            push(rsna, private=asked)
    assert hub.commits(REPO, "dataset") == commits


def test_a_repository_that_is_made_public_while_a_set_is_pushed(hub, rsna, monkeypatch):
    push_shard = set_repo._push_shard

    def then_publish(api, repo, *rest):
        sent = push_shard(api, repo, *rest)
        api.update_repo_settings(repo, private=False, repo_type="dataset")
        return sent

    monkeypatch.setattr(set_repo, "_push_shard", then_publish)
    with pytest.raises(CTDataError, match="images of rsna_pe must not be redistributed"):
        push(rsna)
    files = hub.files(REPO, "dataset")
    assert len(files) == 1  # one shard, which the owner has published; no card


#: What a reader of a stream sees; to a process of its own, for datasets keeps the Hub's address.
READ = """
import sys
import numpy as np
from ct_video_hf import load_ct_dataset
from ct_video_hf.data import CTClipStream, load_prepared
from ct_video_hf.data.label_choice import choose_labels

folder, repo, out = sys.argv[1:]
found = {}
for split in ("train", "validation"):
    for row in load_ct_dataset(repo, split=split, streaming=True):
        found["volume " + row["study_id"]] = np.frombuffer(row["volume"], "<u2")
        found["labels " + row["study_id"]] = np.array(row["labels"])
    stream = load_ct_dataset(repo, split=split, streaming=True)
    clips = [clip["labels"] for clip in CTClipStream(stream, lambda clip, **_: clip, 8)]
    found["clips " + split] = np.array(clips)
rows = load_ct_dataset(repo)
assert {name: len(part) for name, part in rows.items()} == {"train": 5, "validation": 2}
found["names"] = np.array(choose_labels(repo, rows["train"]).names)
assert choose_labels(folder, load_prepared(folder, "train")).names == tuple(found["names"])
np.savez(out, **found)
"""


def test_ct_rate_with_its_eighteen_labels(hub, tmp_path):
    root = write_rate(tmp_path / "dataset")
    assert main(recipe(root, tmp_path / "set")) == 0
    pushed = push(tmp_path / "set", study_names=True)
    assert (pushed.studies, pushed.private) == (7, True)
    out = tmp_path / "read.npz"
    environment = hub.env(tmp_path / "home") | {"PYTHONPATH": str(REPOSITORY)}
    words = [sys.executable, "-c", READ, str(tmp_path / "set"), REPO, str(out)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = dict(np.load(out))
    assert tuple(found["names"]) == FINDINGS
    for split, names in (("train", NAMES["train"]), ("validation", NAMES["valid"])):
        for name in names:
            stored = found[f"volume {name}.nii.gz"].astype(int) - 1024
            assert np.array_equal(stored, hu_of(name).reshape(-1))
            assert found[f"labels {name}.nii.gz"].tolist() == labels_of(name)
        assert found[f"clips {split}"][::2].tolist() == [labels_of(name) for name in names]
