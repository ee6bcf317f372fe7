"""The largest batch that fits into memory, with the global batch kept by accumulation."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import find_executable_batch_size

from ..errors import CTVideoError

__all__ = ["fit_batch"]

logger = logging.getLogger(__name__)

#: Numbers that an optimizer keeps for each one that learns (Adam's two moments).
_MOMENTS = 2


def fit_batch(trainer: Any, checkpoint: Path | None = None) -> tuple[int, int]:
    """Find the largest batch for each process and set it, and its accumulation, in the arguments.

    Batches are tried from the one asked for downwards through its divisors, each with a forward
    and a backward pass of that many clips beside the memory that the optimizer will take, on every
    process; what did not fit anywhere is taken nowhere. The accumulation makes up for it, so that
    the clips of a step stay the same, in the same order. (Batch norms see the smaller batches.)
    Weights, statistics and random numbers are as before. A resumed run keeps what it found.

    Parameters
    ----------
    trainer : CTTrainer
        Before its first step.
    checkpoint : path, optional
        Of the run that is resumed.

    Returns
    -------
    (int, int)
        Clips in a batch of one process, and batches to a step.

    Raises
    ------
    CTVideoError
        Not even one clip fits.
    """
    args = trainer.args
    wanted = args.per_device_train_batch_size
    if checkpoint is not None:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        found = int(state["train_batch_size"]) // max(1, args.n_gpu)
    else:
        found = _on_every_process(trainer, _search(trainer, wanted))
    if found < 1 or wanted % found:
        raise CTVideoError(
            f"no batch fits into memory, not even one clip of "
            f"{tuple(trainer.train_dataset[0]['pixel_values'].shape)}: use smaller clips or "
            "planes, a smaller network, gradient_checkpointing or precision bf16"
        )
    args.gradient_accumulation_steps *= wanted // found
    args.per_device_train_batch_size = found
    trainer._train_batch_size = args.train_batch_size
    if found != wanted:
        logger.warning(
            "batches of %d clips do not fit into memory; %d do, %d to a step",
            wanted, found, args.gradient_accumulation_steps,
        )  # fmt: skip
    return found, args.gradient_accumulation_steps


def _search(trainer: Any, wanted: int) -> int:
    """The largest divisor of ``wanted`` that this process can take, 0 for none."""
    sizes = iter([size for size in range(wanted, 0, -1) if wanted % size == 0][1:])
    search = find_executable_batch_size(
        lambda batch_size: _try(trainer, batch_size),
        starting_batch_size=wanted,
        reduce_batch_size_fn=lambda: next(sizes, 0),
    )
    try:
        return search()
    except RuntimeError as error:
        if "No executable batch size found" not in str(error):
            raise
        return 0


def _on_every_process(trainer: Any, found: int) -> int:
    if trainer.args.world_size == 1:
        return found
    size = torch.tensor([found], device=trainer.args.device)
    return int(trainer.accelerator.gather(size).min())


def _try(trainer: Any, size: int) -> int:
    """One pass forward and back; raises what an exhausted memory raises."""
    args, model = trainer.args, trainer.model
    item = trainer.train_dataset[0]
    clips = item["pixel_values"].unsqueeze(0).repeat(size, 1, 1, 1, 1).to(args.device)
    labels = torch.as_tensor(item["labels"]).float().clamp(0, 1).repeat(size, 1).to(args.device)
    learning = [value for value in model.parameters() if value.requires_grad]
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    mode, copies = model.training, _MOMENTS + (args.world_size > 1)  # DDP's buckets
    devices = [args.device] if args.device.type == "cuda" else []
    dtype = torch.bfloat16 if args.bf16 else torch.float16
    try:
        held = [torch.empty_like(value) for value in learning for _ in range(copies)]
        with torch.random.fork_rng(devices):
            model.train()
            with torch.autocast(args.device.type, dtype, enabled=args.bf16 or args.fp16):
                loss = trainer.loss(model(pixel_values=clips)["logits"], labels)
            loss.backward()
        del held
    finally:
        model.zero_grad(set_to_none=True)
        model.train(mode)
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
    return size
