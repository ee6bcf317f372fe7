"""SIGKILL at random moments, many of them: nothing is lost, doubled, or half-written."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from ct_video_hf.data import load_prepared, verify_set
from tests.data.test_prepared import content
from tests.support.dicom_folders import write_folder_set
from tests.support.tiny_runs import environment

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, so that a start is quick")

#: Imports once, then forks a run for each line of input: a kill hits the work, not the imports.
SERVER = """
import os, sys
from ct_video_hf.data import PrepareOptions, prepare
import ct_video_hf.dicom.reader, ct_video_hf.data.prepared, joblib, sklearn.model_selection
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        options = PrepareOptions(size=96, salt="a salt for tests")
        prepare("folder", sys.argv[1], line.strip(), options=options, progress=False)
        os._exit(0)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(status, flush=True)
"""


@pytest.fixture
def scans(tmp_path):
    return write_folder_set(tmp_path / "scans", studies=12, slices=24, side=48)


@pytest.fixture
def server(scans):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(scans)], env=environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    yield process
    process.stdin.close()
    process.wait(timeout=120)


def start(server, out):
    server.stdin.write(f"{out}\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def seen_by_readers(out, expected):
    """Whatever a kill left is refused, or is whole."""
    if not (out / "manifest.json").exists():
        return
    names = list(load_prepared(out, "all")["study_id"])
    assert names == expected
    assert verify_set(out) == len(expected)


def test_killed_again_and_again_it_becomes_the_same_set(scans, server, tmp_path):
    whole = tmp_path / "whole"
    for out in (tmp_path / "warm", whole):  # the first one takes longer
        began = time.monotonic()
        start(server, out)
        assert int(server.stdout.readline()) == 0
        full = time.monotonic() - began
    expected = list(load_prepared(whole, "all")["study_id"])
    dice = random.Random(20)
    kills, sets = 0, 0
    while kills < 60:
        out = tmp_path / f"set-{sets}"
        sets += 1
        for _ in range(40):
            child = start(server, out)
            time.sleep(dice.uniform(0, 0.4 * full))
            with suppress(ProcessLookupError):  # finished
                os.kill(child, signal.SIGKILL)
            status = int(server.stdout.readline())
            assert status in (0, signal.SIGKILL), "it failed by itself"
            seen_by_readers(out, expected)
            if status == 0:
                break
            kills += 1
        else:
            start(server, out)
            assert int(server.stdout.readline()) == 0
        assert content(out) == content(whole)
        studies = [record["study_id"] for record in json.loads(
            (out / "manifest.json").read_text())["studies"]]  # fmt: skip
        assert studies == expected
        assert len(list((out / "studies").iterdir())) == len(expected)
