"""What the demo keeps, for how long, and what becomes of a job whose visitor has gone."""

import os
import tempfile
import threading
from dataclasses import replace

import numpy as np
import pytest

from ct_video_hf.demo.limits import DemoLimits
from ct_video_hf.demo.reading import read_apart
from ct_video_hf.demo.store import Store
from ct_video_hf.demo.work import Job, Scorer
from ct_video_hf.dicom.write import write_series
from ct_video_hf.errors import CTVideoError
from tests.support.hostile_uploads import zipped
from tests.support.prediction import SPACING, chest_hu, volume_of


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def store():
    made = Store(DemoLimits(keep_seconds=100.0, keep_bytes=3_000_000), Clock())
    yield made
    made.close()
    assert not made.root.exists()


def keep(store, session):
    kept = store.room(session)
    kept.volume = volume_of(np.zeros((16, 256, 256), np.int16))  # 2 MiB
    (kept.folder / "hu.npy").write_bytes(b"x")
    store.put(kept)
    return kept


def test_a_page_keeps_its_last_scan(store):
    first, second = keep(store, "a"), keep(store, "a")
    assert store.get(first.token) is None
    assert not first.folder.exists()
    assert store.get(second.token) is second


def test_room_is_made_by_what_was_looked_at_least_recently(store):
    first = keep(store, "a")
    second = keep(store, "b")
    assert store.get(first.token) is None
    assert store.get(second.token) is second


def test_time_runs_from_the_last_look(store):
    kept = keep(store, "a")
    store._clock.now = 90.0
    assert store.get(kept.token) is kept
    store._clock.now = 180.0
    store.expire()
    assert kept.folder.exists()
    store._clock.now = 281.0
    store.expire()
    assert store.get(kept.token) is None
    assert not kept.folder.exists()


def test_uploads_that_nobody_reads_go(store):
    place = store.uploads / "hash" / "scan.zip"
    place.parent.mkdir()
    place.write_bytes(bytes(10))
    assert store.room_for(1)
    store.expire()
    assert place.exists()
    store.limits = replace(store.limits, arrived_seconds=-1.0, arriving_bytes=10)
    assert not store.room_for(1)
    store.expire()
    assert not place.exists()
    assert store.uploads.exists()


def test_no_other_place_is_an_upload(store):
    (store.uploads / "link").symlink_to("/etc/hostname")
    for place in ("/etc/hostname", store.uploads / ".." / "x", store.uploads / "link"):
        with pytest.raises(CTVideoError, match="no uploaded file"):
            store.arrival(place)


def test_what_a_killed_server_left_goes_when_the_next_starts(store, tmp_path, monkeypatch):
    """A folder whose lock nobody holds goes; a living server's, and others', stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    living = Store(DemoLimits())
    left, new, other, link = (tmp_path / f"ct-video-demo-{name}" for name in "abcd")
    for folder in (left, new, other):
        (folder / "uploads").mkdir(parents=True)
        (folder / "uploads" / "scan.zip").write_bytes(b"x")
    (left / ".lock").touch()
    (new / ".lock").touch()
    link.symlink_to(other, target_is_directory=True)
    for folder in (left, other, living.root):
        os.utime(folder, (0, 0))
    Store(DemoLimits()).close()
    assert sorted(tmp_path.iterdir()) == sorted([living.root, new, other, link])
    living.close()
    assert not living.root.exists()


def test_a_job_ends_when_its_visitor_goes():
    begun = threading.Event()

    def work(job):
        tell = job.enter("Working")
        begun.set()
        while True:
            tell(1, 2)

    with Job(work) as job:
        assert begun.wait(60)
    assert "closed" in str(job.error)


def test_a_job_has_its_time_and_tells_no_secret():
    def late(job):
        job.enter("Scoring clips", seconds=-1.0)(0, 2)

    def failing(job):
        raise RuntimeError("MILLER^JOHN")

    for work, words in ((late, "longer than"), (failing, "RuntimeError")):
        with Job(work) as job:
            list(job.looks())
        assert words in str(job.error)
        assert "MILLER" not in str(job.error)


class _SlowNetwork:
    """Takes until it is let go to be ready, and scores nothing."""

    def __init__(self):
        self.begun, self.go = threading.Event(), threading.Event()

    def warm(self):
        self.begun.set()
        assert self.go.wait(60)

    def __call__(self, volume, progress):
        raise CTVideoError("scored")


def test_a_scan_that_comes_before_the_network_is_ready_waits_for_it(store, tmp_path):
    write_series(chest_hu(24), tmp_path / "scan", key="a", spacing=SPACING)
    files = {file.name: file.read_bytes() for file in (tmp_path / "scan").iterdir()}
    network = _SlowNetwork()
    scorer = Scorer(network, store, DemoLimits())
    warming = scorer.warm()
    assert network.begun.wait(60)
    seen = set()
    with scorer.example(zipped(tmp_path / "scan.zip", files), "strict", "a") as job:
        for now in job.looks():
            seen.add(now.stage)
            if "Waiting" in now.stage:
                network.go.set()
    assert "Waiting for the network to be ready" in seen
    assert str(job.error) == "scored"
    list(warming.looks())
    assert warming.error is None
    scorer.close()


def test_reading_is_stopped_when_it_takes_too_long(tmp_path):
    write_series(chest_hu(24), tmp_path / "scan", key="a", spacing=SPACING)
    limits = DemoLimits(read_seconds=0.0)
    with pytest.raises(CTVideoError, match="was stopped"):
        read_apart(
            tmp_path / "scan", tmp_path, policy="strict", limits=limits, tell=lambda *_: None
        )


def test_reading_has_its_memory(tmp_path):
    write_series(chest_hu(24), tmp_path / "scan", key="a", spacing=SPACING)
    limits = DemoLimits(read_memory_bytes=200 << 20)
    with pytest.raises(CTVideoError, match=r"memory|ended"):
        read_apart(
            tmp_path / "scan", tmp_path, policy="strict", limits=limits, tell=lambda *_: None
        )
