"""What a study will cost: from its design alone where its sets are still to be made."""

from __future__ import annotations

import json

import pytest

from ct_video_hf.cli import main
from ct_video_hf.data import PrepareOptions, prepare, summarize_set
from ct_video_hf.data.expected import expected_set
from ct_video_hf.models.hu_clips import clip_start_indices
from ct_video_hf.study import grid_cells, plan_study, read_study
from ct_video_hf.study import plan as plan_module
from ct_video_hf.study.clips import count_clips
from ct_video_hf.study.plan import _validations, format_plan
from ct_video_hf.study.probe import Probe
from tests.support.clip_sets import write_clip_set

from .designs import design, write

#: Networks of a million numbers that take a second for a clip and half of that to score it.
SECOND = Probe(10**6, 1.0, 0.5, 1)


@pytest.fixture
def timed(monkeypatch):
    """Every network takes the same, so that a plan is a sum."""
    monkeypatch.setattr(plan_module, "probe_start", lambda: 0.0)
    monkeypatch.setattr(
        plan_module, "probe_models", lambda config, pairs: dict.fromkeys(pairs, SECOND)
    )


def test_plan_as_json(tmp_path, capsys):
    path = write(tmp_path, design())
    assert main(["study", "plan", str(path), "--no-probe", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    wanted = {"model", "pretraining", "dataset", "fraction", "seed", "learning_rate"}
    assert all(wanted <= cell.keys() for cell in plan["cells"])
    assert plan["counts"]["role"] == {"grid": 12, "source": 1}
    assert plan["hours"] is None


def test_plan_measures_a_probe(tmp_path, capsys):
    data = {"ct": {"set": "sets/ct", "expected": {"train_clips": 100, "scored_clips": 50}}}
    path = write(tmp_path, design(data=data, pretraining={"random": {}}, contrasts=None))
    assert main(["study", "plan", str(path), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    probe = plan["models"]["slow_tiny on ct"]
    assert probe["parameters"] > 1000
    assert probe["training_s_a_clip"] > 0
    whole = next(c for c in plan["cells"] if c["model"] == "slow_tiny" and c["fraction"] == 1.0)
    half = next(c for c in plan["cells"] if c["model"] == "slow_tiny" and c["fraction"] == 0.5)
    assert 0 < half["hours"] < whole["hours"]
    assert plan["hours"] > whole["hours"]


def test_mini_is_planned_before_anything_of_it_is_made(timed, tmp_path, monkeypatch):
    """Its sets are generated, so the design tells what they will hold."""
    monkeypatch.chdir(tmp_path)
    config = read_study("mini")
    plan = plan_study(config)
    assert list(tmp_path.iterdir()) == []
    assert set(plan["models"]) == {
        "slow_tiny on nodules", "slow_tiny on other_ct", "slow_tiny on videos",
        "slow_tiny_2d on nodules",
    }  # fmt: skip
    said = config.training
    rule = (said["num_frames"], said["stride"])
    each = sum(len(clip_start_indices(slices, *rule)) for slices in range(30, 35)) / 5
    assert plan["clips"]["slow_tiny on nodules"] == {
        "train": round(240 * each), "validation": round(40 * each), "test": round(100 * each),
        "how": "worked out",
    }  # fmt: skip
    video = len(clip_start_indices(32, *rule))
    assert plan["clips"]["slow_tiny on videos"]["train"] == 240 * video
    hours = {cell["name"]: cell["hours"] for cell in plan["cells"]}
    other = hours["other_ct/slow_tiny/random/fraction1_seed0_lr0.005"]
    batch, own = said["batch_size"], config.dataset("other_ct").training
    assert own["max_steps"] != said["max_steps"]
    validations = own["max_steps"] // own["eval_steps"] + 1
    seconds = own["max_steps"] * batch + 0.5 * each * (40 * validations + 40)
    assert other == pytest.approx(seconds / 3600)
    small = hours["nodules/slow_tiny/video/fraction0.03_seed0_lr0.005"]
    validations = said["max_steps"] // said["eval_steps"] + 1
    seconds = said["max_steps"] * batch + 0.5 * each * (40 * validations + 100)
    assert small == pytest.approx(seconds / 3600)
    assert plan["hours"] == pytest.approx(sum(hours.values()))
    assert plan["storage_gb"] == pytest.approx(2 * 4e-3, abs=5e-3), (
        "two runs that others begin with"
    )
    assert 0.9 < plan["sets_gb"] < 1.1
    page = format_plan(plan)
    assert "clips of nodules, other_ct, videos as the design's sizes" in page
    assert f"hours: {plan['hours']:.1f} on this machine" in page


@pytest.mark.parametrize(
    ("source", "given"),
    [
        ("phantom", {"parameters": {"slices": [16, 19], "matrix": 48}}),
        ("phantom_video", {}),
    ],
)
def test_a_generated_set_becomes_what_is_expected(tmp_path, source, given):
    counts = {"train": 14, "validation": 4, "test": 4}
    how = {"size": 48} | counts | given
    expected = expected_set(source, how)
    options = PrepareOptions(size=48)
    prepare(
        source, tmp_path / "scans", tmp_path / "set", options=options, progress=False, **counts,
        **given,
    )  # fmt: skip
    splits = summarize_set(tmp_path / "set", num_frames=8, stride=3)["splits"]
    for split, studies in counts.items():
        assert splits[split]["studies"] == studies
        found = splits[split]["clips"]
        assert found / studies == pytest.approx(expected.clips(split, 8, 3, "pad") / studies, abs=1)
    files = [f for part in ("scans", "set") for f in (tmp_path / part).rglob("*") if f.is_file()]
    assert sum(file.stat().st_size for file in files) == pytest.approx(expected.bytes, rel=0.25)


def test_only_generated_sets_are_expected_to_be_anything():
    assert expected_set("folder", {}) is None


def test_a_set_of_which_nothing_is_known_leaves_the_hours_open_and_is_named(timed, tmp_path):
    write_clip_set(tmp_path / "sets" / "ct")
    config = read_study(write(tmp_path, design()))
    plan = plan_study(config)
    assert plan["hours"] is None
    assert plan["unknown_clips"] == ["other"]
    assert "of other neither the set is there" in format_plan(plan)
    known = [cell for cell in plan["cells"] if cell["dataset"] == "ct"]
    assert all(cell["hours"] > 0 for cell in known)


def test_clips_are_counted_for_each_network_by_its_own_rule(tmp_path):
    """18 slices: three clips of 8, the last of them short, or two of 9."""
    write_clip_set(tmp_path / "sets" / "ct")
    nine = {"training": {"num_frames": 9, "test_split": "none"}, "pretraining": ["random"]}
    models = {"slow_tiny": {"pretraining": ["random"]}, "slow_tiny_2d": {"kind": "2d"} | nine}
    config = read_study(write(tmp_path, design(models=models)))
    pairs = dict.fromkeys((cell.model, cell.dataset) for cell in grid_cells(config))
    clips = count_clips(config, pairs)
    assert clips["slow_tiny", "ct"].train == 12 * 3
    assert clips["slow_tiny_2d", "ct"].train == 12 * 2
    assert (clips["slow_tiny", "ct"].test, clips["slow_tiny_2d", "ct"].test) == (7 * 3, 0)


@pytest.mark.parametrize(
    ("said", "times"),
    [
        ({"eval_strategy": "epoch"}, 4),
        ({"eval_strategy": "no"}, 0),
        ({"eval_strategy": "steps", "eval_steps": 10}, 3),
        ({"eval_strategy": "steps", "eval_steps": 0.2}, 5),
        ({"eval_strategy": "steps", "logging_steps": 20}, 1),
    ],
)
def test_validations_of_a_run(said, times):
    options = {"eval_steps": None, "logging_steps": 500} | said
    assert _validations(options, steps=35, epoch=10) == times
