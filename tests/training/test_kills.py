"""SIGKILL at chosen moments, one after the other in one run: its result is as if none had been.

The process kills itself where it would hurt, each time in another way: with half a checkpoint on
the disk, so that it goes on in the middle of an epoch; with an old checkpoint half deleted; and
with half the finished folder in place. Then the folder is moved, too.
"""

import json
import signal
import subprocess
import sys

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from ct_video_hf.training import run
from ct_video_hf.training.checkpoints import last_complete
from tests.support.tiny_runs import OPTIONS, PATIENCE, environment

pytestmark = pytest.mark.slow

#: 36 clips, 8 to a step: 5 steps an epoch, and checkpoints in the middle of epochs.
GIVEN = OPTIONS | {
    "epochs": 3, "accumulate": 2, "save_steps": 3, "save_strategy": "steps", "eval_steps": 3,
    "eval_strategy": "steps", "logging_strategy": "steps", "logging_steps": 3, "early_stopping": 0,
    "lr": 0.01, "metric": "loss", "ema": 0.8, "optimizer": "adam", "scheduler": "plateau",
    "warmup": 0.0,
}  # fmt: skip

#: Runs with a patch that kills the process in a call of the function that the moment names.
KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
from ct_video_hf.training import ema, finish, run, saving
moment, count, given = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
left = [count]

def kill_in(owner, name, before=lambda *args, **kwargs: None):
    plain = getattr(owner, name)
    def patched(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            before(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*args, **kwargs)
    setattr(owner, name, patched)

def half_deleted(output_dir, best_model_checkpoint, **_):
    order = lambda path: int(path.name.partition("-")[2])
    older = sorted(Path(output_dir).glob("checkpoint-*"), key=order)[:-1]
    doomed = next(path for path in older if str(path) != best_model_checkpoint)
    (doomed / "model.safetensors").unlink()

def half_moved(stage, target, **_):
    for entry in sorted(stage.iterdir())[::2]:
        shutil.move(entry, target / entry.name)

moments = {
    "half a checkpoint": lambda: kill_in(ema, "replacing"),
    "half deleted": lambda: kill_in(saving, "rotate_checkpoints", half_deleted),
    "half moved": lambda: kill_in(finish, "move_into_place", half_moved),
}
moments[moment]()
run(**given)
"""


def killed(moment, count, given):
    """Run until the moment comes for the ``count``-th time."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, moment, str(count), json.dumps(given)], env=environment(),
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]


#: Moment, which time it comes, and the step of the whole checkpoint that is there then.
MOMENTS = [("half a checkpoint", 4, 3), ("half deleted", 2, 9), ("half moved", 1, 15)]


def test_a_run_killed_again_and_again_gives_the_same(clip_set, tmp_path):
    said = GIVEN | {"data": str(clip_set)}
    straight = run(output=str(tmp_path / "straight"), keep_checkpoints=True, **said)
    assert straight.config["best_epoch"] < 3, "or the last weights would pass for the best"
    out = tmp_path / "killed"
    for number, (moment, count, step) in enumerate(MOMENTS):
        killed(moment, count, said | {"output": str(out), "resume": number > 0})
        assert last_complete(out).name == f"checkpoint-{step}", moment
    out = out.rename(tmp_path / "moved")
    resumed = run(output=str(out), resume=True, keep_checkpoints=True, **said)
    for name in ("predictions.csv", "predictions_validation.csv"):
        pd.testing.assert_frame_equal(
            *(pd.read_csv(result.folder / name) for result in (straight, resumed))
        )
    assert resumed.metrics == straight.metrics
    columns = ["step", "loss", "eval_loss", "eval_study/auroc", "learning_rate"]
    logs = [pd.read_csv(r.folder / "training_log.csv")[columns] for r in (straight, resumed)]
    pd.testing.assert_frame_equal(*logs)
    last = "checkpoint-15"
    for name in ("model", f"{last}/model", f"{last}/learning_weights"):
        states = [load_file(r.folder / f"{name}.safetensors") for r in (straight, resumed)]
        assert same(*states), name
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        states = [
            torch.load(result.folder / last / name, weights_only=False)
            for result in (straight, resumed)
        ]
        assert same(*states), name


def same(first, second):
    """Whether two saved states are equal, tensors and arrays in them bit for bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if hasattr(first, "shape"):
        return bool((torch.as_tensor(first) == torch.as_tensor(second)).all())
    return first == second
