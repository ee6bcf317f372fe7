"""One of two processes that shard tiny models as accelerate does with FSDP2; see test_sharding.

accelerate shards on accelerators only, so here its own wrapping policy, which reads
``_no_split_modules``, is applied on CPUs with gloo.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from accelerate import FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import get_module_children_bottom_up
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.models.backbone_cases import tiny_clip, tiny_model


def shard(model, mesh):
    """Shard in place; how many modules became a unit of their own."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    plugin.set_auto_wrap_policy(model)
    is_unit = fsdp2_prepare_auto_wrap_policy(plugin, model)
    units = [module for module in get_module_children_bottom_up(model)[:-1] if is_unit(module)]
    for module in units:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return len(units)


def step(model, clip):
    """Logits, and one step of gradient descent."""
    output = model(clip, labels=torch.tensor([1.0, 0.0]))
    output.loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return output.logits.detach()


def main(folder: Path, names: list[str]) -> None:
    """Compare sharded with whole models and save what was learned."""
    state = PartialState(cpu=True)
    mesh = init_device_mesh("cpu", (state.num_processes,))
    for name in names:
        clip = tiny_clip(name)
        whole, sharded = tiny_model(name, dropout=0.0), tiny_model(name, dropout=0.0)
        units = shard(sharded, mesh)
        expected, found = step(whole, clip), step(sharded, clip)
        torch.testing.assert_close(found, expected, msg=name)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        gathered = get_model_state_dict(sharded, options=options)
        local = sum(parameter.to_local().numel() for parameter in sharded.parameters())
        said = {
            "units": units,
            "share": local / sum(parameter.numel() for parameter in whole.parameters()),
            "processes": state.num_processes,
        }
        if state.is_main_process:
            whole.save_pretrained(folder / name / "whole")
            tiny_model(name).save_pretrained(folder / name / "sharded", state_dict=gathered)
            (folder / name / "said.json").write_text(json.dumps(said))
    state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
