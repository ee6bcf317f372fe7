import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ct_video_hf.cli import main
from ct_video_hf.cli.prepare import NAMES
from ct_video_hf.data import prepared, worker
from ct_video_hf.data.loading import load_prepared
from ct_video_hf.data.sources import SOURCES
from tests.support.dicom_folders import write_folder_set
from tests.support.tiny_runs import environment


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return write_folder_set(tmp_path_factory.mktemp("scans") / "in")


def arguments(scans, out, *more):
    return ["prepare", "folder", "--data-dir", str(scans), "--out", str(out), "--size", "32", *more]


def test_names_are_the_sources():
    assert tuple(SOURCES) == NAMES


def test_prepares_and_says_so(scans, tmp_path, capsys):
    assert main(arguments(scans, tmp_path / "set", "--quiet")) == 0
    out = capsys.readouterr().out
    assert "6 studies (train 4, validation 0, test 2)" in out
    assert "6 prepared now, 0 kept, 0 left out" in out
    assert len(load_prepared(tmp_path / "set", "all")) == 6
    assert main(arguments(scans, tmp_path / "set", "--quiet")) == 0
    assert "0 prepared now, 6 kept" in capsys.readouterr().out


def test_json_is_one_document(scans, tmp_path, capsys):
    assert main(arguments(scans, tmp_path / "set", "--json")) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["studies"], answer["splits"]["test"]) == (6, 2)


def test_dry_run_writes_nothing(scans, tmp_path, capsys):
    assert main(arguments(scans, tmp_path / "set", "--dry-run")) == 0
    assert "6 studies" in capsys.readouterr().out
    assert main(arguments(scans, tmp_path / "set", "--dry-run", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["estimated_output_bytes"] > 0
    assert not (tmp_path / "set").exists()


def test_fail_on_reject(tmp_path, capsys):
    scans = write_folder_set(tmp_path / "scans")
    for file in (scans / "s0").iterdir():
        file.write_bytes(b"broken")
    assert main(arguments(scans, tmp_path / "set", "--quiet")) == 0
    assert "1 left out" in capsys.readouterr().out
    assert main(arguments(scans, tmp_path / "set", "--quiet", "--fail-on-reject")) == 1


def test_split_options(scans, tmp_path):
    splits = tmp_path / "splits.csv"
    splits.write_text("study,split\ns0,test\ns5,train\n")
    assert main(arguments(scans, tmp_path / "set", "--split-file", str(splits), "-q")) == 0
    rows = load_prepared(tmp_path / "set", "all")
    assert (rows[0]["split"], rows[5]["split"]) == ("test", "train")


def test_phantom_beside_the_set(tmp_path):
    words = ["prepare", "phantom", "--out", str(tmp_path / "set"), "--studies", "2", "1", "1"]
    assert main([*words, "--size", "96", "--seed", "3", "--quiet"]) == 0
    assert len(load_prepared(tmp_path / "set", "all")) == 4
    assert (tmp_path / "set_dicom" / "labels.csv").is_file()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["folder", "--out", "x"], "folder needs --data-dir"),
        (["folder", "--out", "x", "--data-dir", ".", "--seed", "1"], "--seed does not apply"),
        (["phantom", "--out", "x", "--labels", "t.csv"], "--labels does not apply to phantom"),
        (["folder", "--out", "x", "--data-dir", ".", "--workers", "0"], "--workers must be"),
        (["lidc", "--out", "x"], "invalid choice"),
        (["folder", "--data-dir", "."], "required: --out"),
    ],
)
def test_wrong_use_exits_with_2(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["prepare", *words])
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_errors_have_no_traceback(scans, tmp_path, capsys):
    table = tmp_path / "labels.csv"
    table.write_text("study,label\ns0,7\n")
    assert main(arguments(scans, tmp_path / "set", "--labels", str(table))) == 1
    error = capsys.readouterr().err
    assert "labels.csv row 2: label is '7'" in error
    assert "Traceback" not in error


def killed_by_some(task, file):
    """As a worker does, but s3 ends whoever decodes it, and s1 the first who does."""
    study, once = task.entry.study, Path(file).parents[2] / "once"
    if study == "s3" or (study == "s1" and not once.exists()):
        if study == "s1":
            once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return worker.prepare_study(task, file)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL")
def test_a_study_that_ends_its_worker_is_a_reject(scans, tmp_path, monkeypatch, capsys):
    """The others are prepared, as they would be without it, and it is tried again."""
    words = [*arguments(scans, tmp_path / "set"), "--workers", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "prepare_study", killed_by_some)
        assert main(words) == 0
    assert "a worker process died; what was in work is begun again" in capsys.readouterr().err
    (reject,) = csv.DictReader((tmp_path / "set" / "rejects.csv").open())
    assert (reject["study"], reject["code"]) == ("s3", "worker_died")
    assert sorted(load_prepared(tmp_path / "set", "all")["study_id"]) == [
        "s0", "s1", "s2", "s4", "s5"
    ]  # fmt: skip
    assert main(words) == 0
    assert len(load_prepared(tmp_path / "set", "all")) == 6


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to a process group")
@pytest.mark.parametrize("workers", [1, 2])
def test_control_c_leaves_a_set_that_goes_on(tmp_path, workers):
    scans = write_folder_set(tmp_path / "scans", studies=30, slices=24, side=64)
    out = tmp_path / "set"
    words = [*arguments(scans, out), "--workers", str(workers)]
    words[words.index("--size") + 1] = "320"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.held_runs", *words], start_new_session=True,
        stderr=subprocess.PIPE, text=True, env=environment() | {"HELD_STUDY": "s29"},
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not list(out.glob("studies/*.arrow")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, error = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "stopped. What is finished is kept in" in error
    assert "resource_tracker" not in error  # no word of semaphores that workers left
    assert "Traceback" not in error
    assert "FutureWarning" not in error
    assert not (out / "manifest.json").exists()
    assert main([*words, "--quiet"]) == 0
    assert len(load_prepared(out, "all")) == 30
