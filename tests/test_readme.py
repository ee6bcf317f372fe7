"""Every code block of the README runs: Python as it stands, commands in a reader's folder.

A command is never edited. What it names is placed there instead: a scan, a folder of scans, a
model, in the sizes of a test. What cannot run here is listed with its reason.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import metadata
from pathlib import Path
from unittest import mock

import httpx
import pytest
import torch
import yaml

from ct_video_hf.cli import build_parser, main
from ct_video_hf.models import create_model, download, get_backbone
from ct_video_hf.study import config as designs
from tests.cli.test_convert import registry_row
from tests.support.checkpoint_server import CheckpointServer
from tests.support.code_blocks import blocks
from tests.support.dicom_folders import write_study, write_table
from tests.support.hub_client import client_of
from tests.support.hub_server import HubServer
from tests.support.lidc import write_collection
from tests.support.rsna_tree import write_rsna_tree
from tests.support.tiny_runs import REPOSITORY, environment

BLOCKS = blocks((REPOSITORY / "README.md").read_text(encoding="utf-8"))
BASH = [block for block in BLOCKS if block.language == "bash"]
PYTHON = [block for block in BLOCKS if block.language == "python"]

#: Commands that are not run, each with its reason; what they say is still checked.
NOT_RUN = {
    "python3 scripts/quickstart.py": "minutes: the fixture quickstart_place runs it on fewer "
    "studies, and tests/test_quickstart.py looks at what it leaves",
    "python3 scripts/test.py": "it is what runs this test",
}
#: A command that serves until it is interrupted, with what it says when it is ready.
SERVES = {"demo": r"The demo is at (http://\S+)"}

_ME = {"hf_write": {"name": "me", "role": "write", "orgs": []}}


def write_scans(folder: Path) -> None:
    """Six studies of 8 slices with their table, as "Train on your own scans" describes it."""
    rows = []
    for number, split in enumerate(["train"] * 2 + ["validation"] * 2 + ["test"] * 2):
        name = f"case_{number + 12}"
        write_study(folder / name, number, slices=8)
        row = {"study": name, "label": number % 2, "patient": f"p{number}", "split": split}
        rows.append(row | ({"slice_start": 0, "slice_stop": 8} if number % 2 else {}))
    write_table(folder / "labels.csv", rows)


def write_label_archive(path: Path) -> None:
    """The XML files of a small LIDC-IDRI, packed as TCIA packs them."""
    root = path.with_name("lidc-for-archive")
    write_collection(root)
    with tarfile.open(path, "w:xz") as archive:
        for file in sorted(root.rglob("*.xml")):
            archive.add(file, f"tcia-lidc-xml/{file.relative_to(root)}")
    shutil.rmtree(root)


class Desk:
    """A reader's working folder; :meth:`lay` puts there what a command names."""

    def __init__(self, folder: Path, quickstart: Path) -> None:
        self.folder = folder
        output = quickstart / "quickstart_output"
        self.makers = {
            "quickstart_output": lambda path: path.symlink_to(output),
            "scripts": lambda path: path.symlink_to(REPOSITORY / "scripts"),
            "tests": lambda path: path.symlink_to(REPOSITORY / "tests"),
            "scan": lambda path: write_study(path, 1),
            "scans": write_scans,
            "my_model": lambda path: shutil.copytree(output / "slow_tiny", path),
            "my_other": lambda path: shutil.copytree(output / "slow_tiny_2d", path),
            "my_set": self.prepare,
            "slow_r50_kinetics": lambda path: call("convert", "slow_r50", "kinetics", path.name),
            "rsna": lambda path: write_rsna_tree(path, 8),
            "LIDC-IDRI": lambda path: write_collection(path.parent),
            "tcia-lidc-xml.tar.xz": write_label_archive,
        }

    def prepare(self, path: Path) -> None:
        self.lay("scans")
        call("prepare", "folder", "--data-dir", "scans", "--out", path.name)

    def lay(self, word: str) -> None:
        name = word.split("/")[0]
        path = self.folder / name
        if name in self.makers and not path.exists():
            self.makers[name](path)


def call(*words: str) -> None:
    assert main([*words, "--quiet"]) == 0, shlex.join(words)


def parsed(command: str):
    words = shlex.split(command)[1:]
    args = build_parser(words[0]).parse_args(words)
    assert args.command == words[0]
    assert not getattr(args, "extras", None), f"unknown options in {command}"
    return args


def check_words(command: str) -> None:
    """That a command which is not run exists, and each of its options."""
    program, *words = shlex.split(command)
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    if program == "ct-video-hf":
        parsed(command)
    elif program.startswith("python"):
        assert (REPOSITORY / words[0]).is_file(), command
        if options:
            done = run([sys.executable, words[0], "--help"], REPOSITORY)
            assert all(option in done.stdout for option in options), command
    elif program == "pip":
        extras = re.findall(r"ct-video-hf\[([\w,-]+)\]", command)
        known = metadata("ct-video-hf").get_all("Provides-Extra")
        assert all(extra in known for found in extras for extra in found.split(",")), command
    else:
        raise AssertionError(f"nothing here knows how to check {command!r}")


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess:
    done = subprocess.run(
        words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def serve(words: list[str], ready: str, folder: Path) -> None:
    """Start a server, ask it for its page, and tell it to end."""
    log = folder / "served.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "ct_video_hf", *words],
            cwd=folder, env=environment(), stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        end = time.monotonic() + 200
        while not (found := re.search(ready, log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        assert httpx.get(found[1], trust_env=False, timeout=100).status_code == 200
        process.terminate()
        assert process.wait(100) == 0, log.read_text()
    finally:
        process.kill()


def several(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def perform(command: str, desk: Desk) -> None:
    """Run one command of the README; what it says it writes is there afterwards."""
    program, *words = shlex.split(command)
    if program == "python3":
        desk.lay(words[0])
        run([sys.executable, *words], desk.folder)
        return
    assert program == "ct-video-hf", f"neither run nor listed in NOT_RUN: {command}"
    args = vars(parsed(command))
    made = {str(path) for name in ("out", "output") for path in several(args.get(name))}
    for word in words:
        if word not in made:
            desk.lay(word)
        elif (desk.folder / word).is_dir():
            shutil.rmtree(desk.folder / word)
    if words[0] in SERVES:
        serve(words, SERVES[words[0]], desk.folder)
        return
    assert main(words) == 0, command
    paths = [path for value in args.values() for path in several(value)]
    named = {str(path) for path in paths if isinstance(path, Path)}
    assert all((desk.folder / name).exists() for name in named | made), command


def small_mini(folder: Path) -> Path:
    """The shipped design "mini" with a single cell of two steps."""
    design = yaml.safe_load(designs.shipped()["mini"].read_text(encoding="utf-8"))
    for data in design["data"].values():
        data["prepare"] |= {"train": 6, "validation": 4, "test": 4}
        data.pop("training", None)
    design["models"] = {"slow_tiny": {"pretraining": ["random"]}}
    design |= {"fractions": [1.0], "seeds": [0], "resamples": 50}
    design["training"] |= dict.fromkeys(("max_steps", "eval_steps", "save_steps"), 2)
    path = folder / "mini.yaml"
    path.write_text(yaml.safe_dump(design), encoding="utf-8")
    return path


@pytest.fixture
def desk(tmp_path, quickstart_place, monkeypatch):
    """An empty folder, a Hub of the user "me", and a Slow-R50 of few channels at its address."""
    record = get_backbone("slow_r50")
    sizes = {**record.overrides, **record.tiny, "num_frames": 8, "image_size": 224}
    weights = io.BytesIO()
    torch.save(create_model("slow_r50", 5, **sizes).state_dict(), weights)
    server = CheckpointServer(weights.getvalue(), "SLOW_8x8_R50.pyth")
    kinetics = replace(record.weights["kinetics"], url=server.url, sha256=None)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(download.constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    with ExitStack() as stack:
        hub = stack.enter_context(HubServer(tmp_path / "hub", tokens=_ME))
        stack.enter_context(client_of(hub))
        row = registry_row("slow_r50", overrides=sizes, weights={"kinetics": kinetics})
        stack.enter_context(row)
        shipped = {"mini": small_mini(tmp_path)}
        stack.enter_context(mock.patch.object(designs, "shipped", return_value=shipped))
        yield Desk(folder, quickstart_place)
    server.close()


def test_every_block_is_run_or_listed():
    assert {block.language for block in BLOCKS} == {"bash", "python"}
    commands = [command for block in BASH for command in block.commands]
    assert len(commands) > 20
    assert set(NOT_RUN) <= set(commands), "listed, but not in the README"
    assert all(re.match(r"(ct-video-hf|python3) ", command) for command in commands)


@pytest.mark.parametrize("command", NOT_RUN)
def test_what_is_not_run_exists(command):
    check_words(command)


@pytest.mark.slow
@pytest.mark.parametrize("block", BASH, ids=[block.section for block in BASH])
def test_commands(block, desk):
    for command in block.commands:
        if command not in NOT_RUN:
            perform(command, desk)


@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON, ids=[block.section for block in PYTHON])
def test_python(block, desk):
    for name in ("quickstart_output", "tests"):
        desk.lay(name)
    assert run([sys.executable, "-c", block.text], desk.folder).stdout.strip()
