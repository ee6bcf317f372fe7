"""Several processes: that they work together, and shards (FSDP2), never claimed where none are.

``accelerate`` (1.15) turns to FSDP for accelerators alone: where its processes train on CPUs it
passes over ``ACCELERATE_USE_FSDP`` and runs DDP without a word. What it does once its state says
FSDP2 (wrapping by ``_no_split_modules``, moving the optimizer to the shards, clipping, checkpoints)
works on CPUs with gloo, so that state is all that :func:`share_on_cpu` sets.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from transformers import TrainerCallback

from ..errors import CTVideoError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .arguments import CTTrainingArguments

__all__ = [
    "ShardsAreThere",
    "check_deepspeed",
    "check_processes",
    "choose_units",
    "share_on_cpu",
    "spread",
    "started_processes",
]


def started_processes() -> int:
    """How many processes the launcher (accelerate, torchrun) says that it has started."""
    if "LOCAL_RANK" not in os.environ:
        return 1
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_processes(args: CTTrainingArguments) -> None:
    """Refuse processes that do not know of each other: each would be the whole run.

    Raises
    ------
    CTVideoError
        The launcher has started several and this one is alone.
    """
    started = started_processes()
    if started != args.world_size:
        raise CTVideoError(
            f"{started} processes were started and this one works with {args.world_size}: they "
            "would all write the same run. Without GPUs add --use-cpu; with GPUs start no more "
            "processes than there are"
        )


def check_deepspeed(args: CTTrainingArguments) -> None:
    """Refuse what DeepSpeed breaks, before it does so in the middle.

    Raises
    ------
    CTVideoError
        16 bits: it turns weights and batch norm statistics themselves into them, where everything
        else here keeps them in 32. Weights channels last: it cannot send them.
    """
    if args.deepspeed_plugin is None:
        return
    if args.bf16 or args.fp16:
        raise CTVideoError(
            "under DeepSpeed 16 bits would be those of the weights and of what is saved, too: use "
            "precision fp32, or DDP or FSDP"
        )
    if args.channels_last:
        raise CTVideoError("DeepSpeed cannot send weights that lie channels last: leave that out")


def _wanted(args: CTTrainingArguments) -> bool:
    """Whether FSDP was asked for: by accelerate's configuration, or by the option ``fsdp``."""
    said = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    return said or args.fsdp_plugin_args is not None


def share_on_cpu(accelerator: Accelerator, args: CTTrainingArguments) -> None:
    """Make accelerate shard on CPUs where that is asked for; a word where it cannot be done.

    Called between making the accelerator and preparing the model.

    Raises
    ------
    CTVideoError
        FSDP is asked for and the run would go on without it: a single process, FSDP 1, or CPUs of
        a machine whose GPUs torch sees (it would place the shards there).
    """
    if not _wanted(args):
        return
    state = accelerator.state
    if state.num_processes < 2:
        raise CTVideoError(
            "FSDP is asked for and there is one process, which has nothing to share: start several "
            "with `accelerate launch --num_processes N`, or use a configuration without FSDP"
        )
    plugin = getattr(state, "fsdp_plugin", None)
    on_cpu = state.distributed_type == DistributedType.MULTI_CPU
    if plugin is None and on_cpu:
        plugin = FullyShardedDataParallelPlugin(**(args.fsdp_plugin_args or {}))
    if plugin is None:
        raise CTVideoError(
            f"FSDP is asked for and accelerate goes on with {state.distributed_type.value}; see "
            "scripts/accelerate/fsdp.yaml for a configuration that shards"
        )
    if plugin.fsdp_version != 2:
        raise CTVideoError(
            "this is FSDP 1, whose flat parameters know no layers: set fsdp_version: 2, as "
            "scripts/accelerate/fsdp.yaml does"
        )
    if on_cpu:
        if torch.accelerator.is_available():
            raise CTVideoError(
                "shards on CPUs where torch sees an accelerator would be placed there: hide it "
                "(CUDA_VISIBLE_DEVICES=''), or leave out use_cpu"
            )
        plugin.cpu_ram_efficient_loading = False  # every process has read the weights already
        state.fsdp_plugin = plugin
        for shared in (state, PartialState()):
            shared.distributed_type = DistributedType.FSDP


def choose_units(accelerator: Accelerator, model: torch.nn.Module) -> None:
    """Name the blocks that get shards of their own, where the configuration does not.

    accelerate takes all of ``_no_split_modules`` and then the input embedding; in VideoMAE and
    ViViT the one lies inside a block of the others, and torch refuses to shard it twice.
    """
    plugin, embedding = accelerator.state.fsdp_plugin, model.get_input_embeddings()
    if plugin.transformer_cls_names_to_wrap is not None:
        return
    around = {
        type(module).__name__
        for module in model.modules()
        if embedding is not None and any(part is embedding for part in module.modules())
    }
    there = {type(module).__name__ for module in model.modules()}
    plugin.transformer_cls_names_to_wrap = sorted({*model._no_split_modules} & there - around)


class ShardsAreThere(TrainerCallback):
    """Refuses to train as FSDP what is not sharded."""

    def __init__(self, trainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        """Look at the model once it is prepared."""
        from torch.distributed.fsdp import FSDPModule
        from torch.distributed.tensor import DTensor

        model = self._trainer.model
        whole = [n for n, value in model.named_parameters() if not isinstance(value, DTensor)]
        if not isinstance(model, FSDPModule) or whole:
            raise CTVideoError(
                f"FSDP is asked for and the model is not sharded: {len(whole)} of its parameters "
                f"are whole in every process, such as {', '.join(whole[:3]) or 'none'}"
            )


def spread(accelerator: Accelerator, model: torch.nn.Module) -> dict[str, Any]:
    """How a training was spread over processes, as it really was.

    Returns
    -------
    dict
        ``kind``: ``one process``, ``DDP``, ``FSDP2`` or accelerate's name of another one;
        ``backend`` of torch.distributed; for FSDP2 also ``units`` (modules with shards of their
        own) and ``share`` (of the parameters that the main process keeps).
    """
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    if accelerator.num_processes == 1:
        return {"kind": "one process"}
    told: dict[str, Any] = {"backend": str(torch.distributed.get_backend())}
    if isinstance(model, FSDPModule):
        values = list(model.parameters())
        kept = sum(v.to_local().numel() if isinstance(v, DTensor) else v.numel() for v in values)
        units = sum(isinstance(module, FSDPModule) for module in model.modules())
        share = kept / sum(value.numel() for value in values)
        return {"kind": "FSDP2", **told, "units": units, "share": round(share, 4)}
    if accelerator.distributed_type in _DDP:
        return {"kind": "DDP", **told}
    return {"kind": accelerator.distributed_type.value, **told}


_DDP = (
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_NPU,
    DistributedType.MULTI_XPU,
    DistributedType.MULTI_HPU,
    DistributedType.MULTI_MLU,
    DistributedType.MULTI_MUSA,
    DistributedType.MULTI_SDAA,
)
