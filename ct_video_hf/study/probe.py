"""A short look at how long a network takes on this machine."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

from .clips import run_options
from .config import StudyConfig

__all__ = ["Probe", "probe_models", "probe_start"]

#: Whole batches are timed where a training step of one takes no longer than this, in seconds.
_QUICK = 10.0
#: What a training run imports.
_IMPORTS = "import ct_video_hf.training.runner, ct_video_hf.hub.card"


@dataclass(frozen=True)
class Probe:
    """Measured on this machine for one network on one data set's clips.

    Attributes
    ----------
    parameters : int
    step_s, forward_s : float
        Seconds for one clip in training (forward, backward, optimizer) and in evaluation.
    batch : int
        Clips that were timed at once.
    """

    parameters: int
    step_s: float
    forward_s: float
    batch: int


def probe_start() -> float:
    """Seconds that a process takes to import what training needs."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", _IMPORTS], check=True, capture_output=True)
    return time.perf_counter() - began


def probe_models(
    config: StudyConfig, pairs: Iterable[tuple[str, str]], *, repeats: int = 2
) -> dict[tuple[str, str], Probe]:
    """Time a few clips of each (model, data set), on random input and weights.

    Clips have the sizes of the design.
    """
    import torch

    from ..evaluation.score import default_device
    from ..models import create_model
    from ..training.inputs import model_overrides
    from ..training.memory import prepare_cpu_training, to_channels_last

    device = default_device()
    found: dict[tuple, Probe] = {}
    probes: dict[tuple[str, str], Probe] = {}
    for name, data in pairs:
        options = run_options(config, config.dataset(data), name)
        sizes = {**model_overrides(options), "weights": None}
        how = (options["precision"], options["channels_last"], options["batch_size"])
        key = (name, *sorted(map(str, sizes.items())), *how)
        if key not in found:
            model = create_model(name, num_labels=1, **sizes).to(device)
            dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(options["precision"])
            if options["channels_last"]:
                to_channels_last(model)
            if device.type == "cpu":
                prepare_cpu_training(model, dtype or torch.float32)
            found[key] = _probe(model, dtype, device, repeats, options["batch_size"])
            del model
            if device.type == "cuda":
                torch.cuda.empty_cache()
        probes[name, data] = found[key]
    return probes


def _seconds(work, repeats: int) -> float:
    work()  # the first call allocates
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _probe(model, dtype, device, repeats: int, most: int) -> Probe:
    import torch

    config = model.config
    shape = (config.num_frames, config.num_channels, config.image_size, config.image_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def autocast():
        return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)

    def step():
        with autocast():
            loss = model(pixel_values=pixels, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        float(loss.detach())

    def score():
        with torch.inference_mode(), autocast():
            float(model(pixel_values=pixels).logits.sum())

    batch = 1
    while True:
        pixels = torch.rand((batch, *shape), device=device)
        labels = torch.ones(batch, 1, device=device)
        model.train()
        step_s = _seconds(step, repeats) / batch
        if batch == most or step_s * most > _QUICK:
            break
        batch = most
    model.eval()
    parameters = sum(value.numel() for value in model.parameters())
    return Probe(parameters, step_s, _seconds(score, repeats) / batch, batch)
