"""The pointing game against cases counted by hand, and the script on generated scans."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ct_video_hf.data.phantom import PhantomParameters
from ct_video_hf.data.phantom_files import write_phantom
from ct_video_hf.evaluation.pointing import pointing_game, share_within, wilson_interval
from tests.support.prediction import tiny_model_folder

ROOT = Path(__file__).resolve().parents[2]


def test_hits_misses_and_points_nowhere():
    points = np.array([[0, 0, 0], [0, 0, 12.0], [0, 0, 40], [np.nan] * 3])
    ball = np.array([[0, 0, 0, 10.0]])
    far = np.array([[0, 0, 100, 10.0], [0, 0, 30, 5.0]])
    strict = pointing_game(points, [ball, ball, far, ball], np.full(4, 0.25))
    assert (strict.hits, strict.studies, strict.accuracy) == (1, 4, 0.25)
    assert strict.distances_mm.tolist() == [-10, 2, 5, np.inf]
    assert strict.chance == 0.25
    # Of 12 swapped pairs the point of the first study lies in the ball of the second and fourth.
    assert strict.swapped == pytest.approx(2 / 12)
    wide = pointing_game(points, [ball, ball, far, ball], np.full(4, 0.25), 5.0)
    assert wide.hits == 3
    assert wide.swapped == pytest.approx(4 / 12)


def test_the_share_of_the_volume_that_would_hit():
    axes = [np.arange(-20, 21) * 1.0] * 3
    ball = np.array([[0, 0, 0, 10.0]])
    share = share_within(axes, ball) * 41**3
    assert share == pytest.approx(4 / 3 * np.pi * 1000, rel=0.02)
    twice = np.concatenate([ball, ball])
    assert share_within(axes, twice) == share_within(axes, ball)
    assert share_within(axes, ball, 2.0) > share_within(axes, ball)


def test_wilson():
    from scipy.stats import binomtest

    for hits, count in ((0, 10), (7, 10), (49, 50), (50, 50)):
        expected = binomtest(hits, count).proportion_ci(method="wilson")
        np.testing.assert_allclose(wilson_interval(hits, count), expected, atol=1e-9)
    assert np.isnan(wilson_interval(0, 0)).all()


def test_the_script_plays_on_generated_scans(tmp_path):
    """A random network points anywhere: what is tested is that the game is played to its end."""
    parameters = PhantomParameters(matrix=64, slices=(20, 22))
    write_phantom(
        tmp_path / "dicom", train=0, validation=0, test=4, parameters=parameters, workers=1,
        progress=False,
    )  # fmt: skip
    model = tiny_model_folder(tmp_path / "tiny")
    command = [
        sys.executable, "scripts/pointing_game.py", str(model), str(tmp_path / "dicom"),
        "--tolerance-mm", "400", "--json", str(tmp_path / "game.json"),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "HiResCAM" in done.stdout
    strict, everywhere = json.loads((tmp_path / "game.json").read_text())["games"]
    assert strict["studies"] == everywhere["studies"] == 2
    assert everywhere["hits"] == 2  # 400 mm reach from one end of the chest to the other
    assert everywhere["chance"] == 1.0
    assert 0 < strict["chance"] < 0.1
    other = subprocess.run(
        [*command[:3], str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert other.returncode == 1
    assert "has no labels.csv" in other.stderr
