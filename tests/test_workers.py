"""Ctrl-C while worker processes start or work: the parent answers, the workers are silent."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ct_video_hf.workers import interrupts_held, worker_results
from tests.support.tiny_runs import environment

#: Starts workers, and says so long before they can work.
RUN = """
import signal, sys
from tests import test_workers
from ct_video_hf.workers import worker_results
# said in so many words, for a shell in the background hands on that Ctrl-C is ignored
deaf = sys.argv[1] == "deaf"
signal.signal(signal.SIGINT, (lambda *_: None) if deaf else signal.default_int_handler)
try:
    with worker_results(test_workers.rest, [(float(t),) for t in sys.argv[2:]], 2) as results:
        print("started", flush=True)
        for pid in results:
            print(pid, flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


def rest(seconds):
    time.sleep(seconds)
    return os.getpid()


def twice(number):
    return 2 * number


def add(left, right):
    return left + right


def batch(number):
    """How many calls came with this one in a message of joblib's."""
    frame = sys._getframe()
    while frame is not None:
        held = frame.f_locals.get("self")
        if type(held).__name__ == "BatchedCalls":
            return len(held.items)
        frame = frame.f_back
    return 0


def running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # dead but not yet waited for, where nobody does so at once
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *words], env=environment(), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to a process group")
def test_workers_leave_control_c_to_the_parent():
    process = start("deaf", "1", "1", "1", "1")
    said = [process.stdout.readline()]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does; the workers are not yet up
    said += [process.stdout.readline() for _ in range(2)]
    os.killpg(process.pid, signal.SIGINT)  # now they work
    rest, error = process.communicate(timeout=240)
    assert said[0] == "started\n"
    assert (len(said) + len(rest.split()), process.returncode, error) == (5, 0, "")


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to a process group")
@pytest.mark.parametrize("lines", [1, 3])  # while the workers start; while they work
def test_control_c_ends_the_workers(lines):
    process = start("attentive", "0", "0", *["600"] * 6)
    said = [process.stdout.readline().strip() for _ in range(lines)]
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=240)
    assert (said[0], process.returncode, error) == ("started", 130, "")
    deadline = time.monotonic() + 240
    while any(map(running, map(int, said[1:]))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(running, map(int, said[1:])))


@pytest.mark.skipif(os.name == "nt", reason="an orphan has the same parent there")
def test_workers_end_when_their_parent_is_killed():
    process = start("attentive", "0", "0", *["600"] * 6)
    said = [process.stdout.readline().strip() for _ in range(3)]
    workers = set(map(int, said[1:]))
    process.kill()
    process.communicate(timeout=120)  # they hold its pipes
    assert not any(map(running, workers))


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs signal masks")
def test_an_interrupt_that_was_held_arrives():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("arrived"))
    try:
        with interrupts_held():
            # to this thread: another one, left by another test, would take the process's at once
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            assert seen == []
        assert seen == ["arrived"]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("workers", [1, 2])
def test_results(workers, recwarn):
    with worker_results(twice, [(n,) for n in range(20)], workers, ordered=True) as results:
        assert list(results) == list(range(0, 40, 2))
    with worker_results(add, [(n, 1) for n in range(20)], workers) as results:
        assert sorted(results) == list(range(1, 21))
    with worker_results(twice, [(n,) for n in range(20)], workers, ordered=True) as results:
        assert next(results) == 0  # the others are given up without a word
    told = [warning for warning in recwarn if "joblib" in warning.filename]
    assert [str(warning.message) for warning in told] == []


def test_no_worker_holds_calls_back():
    """Results come one by one, and no worker idles while another has several calls to go."""
    with worker_results(batch, [(n,) for n in range(200)], 2) as results:
        assert set(results) == {1}
