"""Preparing on a real Ray cluster of two nodes on this machine, and what is refused."""

import csv
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ct_video_hf.cli import main
from ct_video_hf.data import prepared, worker
from ct_video_hf.data.engine import DEATHS, engine, engine_results, in_cluster
from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.loading import load_prepared, verify_set
from ct_video_hf.data.stored_volume import StoredVolume
from tests.data.test_prepared import content
from tests.support.dicom_folders import write_folder_set
from tests.support.tiny_runs import environment

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


#: A head with one worker and a second node with two, until its input ends. In a process of its
#: own: Ray starts its servers by forking, which a process with the threads of other tests must not.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
small = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **small})
nodes.add_node(num_cpus=2, object_store_memory=80 * 2**20)
print("address", nodes.address, flush=True)
sys.stdin.read()
nodes.shutdown()
"""


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="ray is not installed (the extra ct-video-hf[ray])")
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], env=environment(), text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield next(line.split()[1] for line in process.stdout if line.startswith("address "))
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return write_folder_set(tmp_path_factory.mktemp("scans") / "in", studies=10)


@pytest.fixture
def words(scans, tmp_path):
    (tmp_path / "salt").write_text("a salt for tests")
    common = ["prepare", "folder", "--data-dir", str(scans), "--size", "32", "--quiet"]
    return [*common, "--salt-file", str(tmp_path / "salt"), "--out"]


def where(seen):
    """The node that runs this; it waits until another one has come to work, for minutes."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    (seen / node).touch()
    deadline = time.monotonic() + 300
    while len(list(seen.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    return node


def killed_in_the_middle(task, file):
    """As a worker does, but one that has begun to write s3 is killed; s4 kills whoever takes it."""
    place = Path(file).parents[2]
    deaths = len(list(place.glob(f"killed-{task.entry.study}-*")))
    if (task.entry.study, deaths) == ("s3", 0) or task.entry.study == "s4":
        (place / f"killed-{task.entry.study}-{deaths}").touch()
        parts = StoredVolume.parts

        def until_killed(self):
            yield next(parts(self))
            os.kill(os.getpid(), signal.SIGKILL)

        StoredVolume.parts = until_killed
    return worker.prepare_study(task, file)


def test_workers_that_are_killed_cost_no_study(cluster, words, tmp_path, monkeypatch):
    """The other workers go on, and the set is the one of a single process."""
    out = tmp_path / "ray"
    on_cluster = [*words, str(out), "--engine", "ray", "--address", cluster]
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "prepare_study", killed_in_the_middle)
        assert main(on_cluster) == 0
    assert len(list(tmp_path.glob("killed-s3-*"))) == 1
    assert len(list(tmp_path.glob("killed-s4-*"))) == DEATHS
    (reject,) = csv.DictReader((out / "rejects.csv").open())
    assert (reject["study"], reject["code"]) == ("s4", "worker_died")
    assert verify_set(out) == 9
    assert main(on_cluster) == 0  # nobody dies of s4 now
    assert main([*words, str(tmp_path / "local")]) == 0
    assert content(out) == content(tmp_path / "local")
    assert verify_set(out) == 10


def test_every_node_works_and_results_come_one_by_one(cluster, tmp_path):
    with engine("ray", cluster):
        assert in_cluster()
        with engine_results(where, [(tmp_path,)] * 9, -1, where) as results:
            assert len({next(results) for _ in range(9)}) == 2
    assert not in_cluster()


def test_a_driver_that_is_killed_goes_on_from_the_journal(cluster, words, tmp_path):
    out = tmp_path / "set"
    command = [sys.executable, "-m", "ct_video_hf", *words, str(out)]
    command[command.index("32")] = "512"
    command += ["--engine", "ray", "--address", cluster, "--workers", "2"]
    process = subprocess.Popen(command, env=environment())
    deadline = time.monotonic() + 120
    while not list(out.glob("studies/*.arrow")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(command[3:]) == 0
    assert verify_set(out) == len(load_prepared(out, "all")) == 10


def test_a_cluster_that_is_not_there(words, tmp_path, capsys):
    pytest.importorskip("ray", reason="ray is not installed (the extra ct-video-hf[ray])")
    gone = ["--engine", "ray", "--address", "127.0.0.1:1"]
    assert main([*words, str(tmp_path / "set"), *gone]) == 1
    said = capsys.readouterr().err
    assert "no Ray cluster answers at 127.0.0.1:1" in said
    assert "RAY_AUTH_MODE=token" in said
    with (
        pytest.raises(CTDataError, match="address belongs to the engine ray"),
        engine("local", "x"),
    ):
        pass
    with pytest.raises(SystemExit):
        main([*words, str(tmp_path / "set"), "--address", "x"])
    assert "--address belongs to --engine ray" in capsys.readouterr().err
