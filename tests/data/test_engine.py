"""Preparing on a real Ray cluster of two nodes on this machine, and what is refused."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from ct_video_hf.cli import main
from ct_video_hf.data.engine import engine, in_cluster
from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.loading import load_prepared, verify_set
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


def test_two_nodes_write_the_same_set_as_one_process(cluster, words, tmp_path):
    on_cluster = [*words, str(tmp_path / "ray"), "--engine", "ray", "--address", cluster]
    assert main(on_cluster) == 0
    assert main([*words, str(tmp_path / "local")]) == 0
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    assert verify_set(tmp_path / "ray") == 10


def test_every_node_works_and_results_come_one_by_one(cluster, tmp_path):
    from joblib import Parallel, delayed

    with engine("ray", cluster):
        assert in_cluster()
        results = Parallel(n_jobs=-1, return_as="generator_unordered")(
            delayed(where)(tmp_path) for _ in range(9)
        )
        assert len(set(results)) == 2  # each worker holds a core: none is left out
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
