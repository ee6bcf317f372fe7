"""Freed memory stays in the process where the C library allows it."""

import platform
import subprocess
import sys

import pytest
import torch

from ct_video_hf.training.memory import prepare_cpu_training

from ..models.backbone_cases import tiny_clip, tiny_model

CODE = """
import resource, sys
from ct_video_hf.training.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
import numpy as np
np.ones(1 << 22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(1 << 22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is a function of glibc")
def test_large_blocks_are_used_again():
    faults = {
        mode: int(
            subprocess.run(
                [sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True
            ).stdout
        )
        for mode in ("keep", "return")
    }
    assert faults["keep"] < 0.1 * faults["return"]


@pytest.mark.parametrize(("dtype", "laid_out"), [(torch.float32, False), (torch.bfloat16, True)])
def test_16_bit_training_on_a_cpu_is_channels_last_with_the_same_gradients(dtype, laid_out):
    plain, prepared = tiny_model("slow_tiny").train(), tiny_model("slow_tiny").train()
    prepare_cpu_training(prepared, dtype)
    weight = prepared.backbone.blocks[1].res_blocks[0].branch2.conv_b.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d) is laid_out
    clip = tiny_clip("slow_tiny", model=plain)
    for model in (plain, prepared):
        torch.manual_seed(0)  # dropout
        model(clip).logits.square().sum().backward()
    for one, other in zip(plain.parameters(), prepared.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-4)
