"""The shipped configurations are ones that accelerate reads, each with its command."""

import argparse

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from tests.support.tiny_runs import REPOSITORY

FILES = sorted((REPOSITORY / "scripts" / "accelerate").glob("*.yaml"))
KINDS = {
    "one_cpu": "NO", "one_gpu": "NO", "two_cpu": "MULTI_GPU", "multi_gpu": "MULTI_GPU",
    "several_nodes": "MULTI_GPU", "fsdp": "FSDP", "two_cpu_fsdp": "FSDP",
    "deepspeed": "DEEPSPEED",
}  # fmt: skip


def test_there_is_one_for_each_way_to_train():
    assert {path.stem for path in FILES} == set(KINDS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_it_and_knows_every_key(path):
    config = load_config_from_file(str(path))  # refuses keys that it does not know
    assert str(config.distributed_type.value) == KINDS[path.stem]
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    parser: argparse.ArgumentParser = launch_command_parser()
    known = {action.dest for action in parser._actions}
    for part in ("fsdp_config", "deepspeed_config"):
        assert set(content.get(part, {})) <= known, part
    if content["num_processes"] > 1:
        assert "accelerate launch --config_file" in path.read_text(encoding="utf-8")
