"""The benchmark of a whole study gives both ways the same clips, and sees where logits differ."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from ct_video_hf import read_ct
from ct_video_hf.dicom.write import write_series
from ct_video_hf.models import CTVideoProcessor, create_model, get_backbone
from ct_video_hf.models.weights import load_published
from tests.models.backbone_cases import enliven
from tests.models.originals import all_originals
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


def small_networks(name, which):
    """As ``benchmark_models.networks``, of the small original."""
    reference = all_originals()[name]
    original = enliven(reference.small())
    if which == "original":
        return original
    model = create_model(name, num_labels=5, **reference.sizes)
    assert load_published(model, original.state_dict(), get_backbone(name)) == []
    return model


@pytest.fixture(scope="module")
def measured():
    """What was measured of a way, for all tests here."""
    return {}


@pytest.fixture
def small_benchmark(scripts, measured, monkeypatch, capsys):
    """Runs the script in this process, on 9 slices and a small network: exit status and results."""
    import benchmark_models
    import benchmark_study

    monkeypatch.setattr(benchmark_models, "networks", small_networks)
    monkeypatch.setattr(benchmark_models, "clip_of", lambda name: (4, 224, 224))
    arguments = ["--slices", "9", "--side", "300", "--stride", "2", "--ways", "ours", "--json"]
    monkeypatch.setattr(sys, "argv", ["benchmark_study.py", *arguments])

    def start(change=None, again=()):
        def in_this_process(name, way, *rest):
            if way not in measured or way in again:
                found = benchmark_study.run(name, way, *rest) | {"peak_mb": 1.0}
                if way in again:
                    return found
                measured[way] = json.dumps(found)
            found = json.loads(measured[way])
            return found if change is None else change(way, found)

        monkeypatch.setattr(benchmark_study, "in_a_process", in_this_process)
        status = benchmark_study.main()
        return status, json.loads(capsys.readouterr().out)

    return start


def test_float32_is_exact_on_the_same_clips(small_benchmark):
    import benchmark_study

    status, results = small_benchmark()
    entry = results["backbones"]["slow_r50"]
    assert entry["exact"] == [[words, True] for words, _ in entry["exact"]]
    assert len(entry["exact"]) == 2
    assert status == 0
    assert entry["clips"] == 4
    assert entry["compared"] == [0, 2, 3]
    assert 0 < entry["clips_apart_hu"] <= 0.501
    assert entry["ways"]["ours"]["computed_by"].endswith("shared")
    assert entry["ways"]["ours"]["same_clips"] < 1e-5 < entry["ways"]["ours"]["own_clips"]
    assert entry["spread_of_a_clip"] > 0.1  # otherwise nothing here could fail
    text = "\n".join(benchmark_study.lines_of(results))
    assert "slow_r50, ours: logits of the same clips within 1e-05 of a clip's spread" in text
    assert text.count(": met\n") == 2


def test_other_logits_are_said_and_end_with_1(small_benchmark):
    import benchmark_study

    def worse(way, found):
        if way == "ours":
            found["logits"][-1][1] += 1e-3 * float(np.std(found["logits"][-1]))
        return found

    status, results = small_benchmark(worse)
    assert status == 1
    assert [holds for _, holds in results["backbones"]["slow_r50"]["exact"]] == [True, False]
    text = "\n".join(benchmark_study.lines_of(results))
    assert text.count(": NOT met\n") == 1


def test_other_clips_are_said_and_end_with_1(small_benchmark, monkeypatch):
    import benchmark_study

    cut = benchmark_study.published_clip

    def shifted(volume, start, processor):
        return cut(volume, start, processor).roll(1, -1)

    monkeypatch.setattr(benchmark_study, "published_clip", shifted)
    status, results = small_benchmark(again=["reference"])
    assert status == 1
    assert [holds for _, holds in results["backbones"]["slow_r50"]["exact"]] == [False, True]
