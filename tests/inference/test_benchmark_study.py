"""The benchmark of a whole study gives both ways the same clips."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from ct_video_hf import read_ct
from ct_video_hf.dicom.write import write_series
from ct_video_hf.models import CTVideoProcessor
from tests.support.prediction import SPACING, chest_hu
from tests.support.tiny_runs import REPOSITORY


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")


@pytest.mark.parametrize("side", [256, 300, 512])
def test_both_ways_see_the_same_clips(side, scripts, tmp_path):
    """Equal inputs to equal networks; ours rounds planes to whole Hounsfield units."""
    import benchmark_study
    from benchmark_reading import published

    hu = chest_hu(12, side).clip(-1024)  # what is below is air, which ours keeps at -1024
    write_series(hu, tmp_path / "scan", spacing=SPACING)
    processor = CTVideoProcessor(size=256, crop_size=224, num_frames=8, stride=8)
    theirs = published()(tmp_path / "scan")
    hu = read_ct(tmp_path / "scan", in_plane=256).hu
    assert abs(hu - theirs).max() <= 0.501
    starts = processor.clip_starts(len(hu))
    assert len(starts) == 2  # the second one ends in air
    width = processor.windows[0][1]
    for start in starts:
        clip = benchmark_study.published_clip(theirs, start, processor)
        padded = np.concatenate([hu[start : start + 8], np.full_like(hu[:8], -1024)])[:8]
        ours = processor(padded, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(
            ours.expand_as(clip), clip.float(), rtol=0, atol=0.501 / width, check_dtype=False
        )


def test_enlarged_planes_are_refused(scripts, monkeypatch, capsys):
    """The published way's INTER_AREA repeats pixels then, and ours interpolates."""
    import benchmark_study

    monkeypatch.setattr(sys, "argv", ["benchmark_study.py", "--side", "64"])
    with pytest.raises(SystemExit) as stopped:
        benchmark_study.main()
    assert stopped.value.code == 2
    assert "--side 64: at least 256" in capsys.readouterr().err
