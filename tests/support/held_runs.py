"""The command line for tests that stop it from outside: ``python -m tests.support.held_runs``.

It heeds Ctrl-C even where a shell in the background hands on that the signal is ignored. (A
``preexec_fn`` would do so too, but forks the test's process with all its threads.) And it does not
come to its end by itself, so that a busy machine cannot let the signal come too late: preparing
waits in the study that ``HELD_STUDY`` names, training at the step that ``HELD_STEP`` names.
"""

from __future__ import annotations

import os
import signal
import sys
import time

_HOLD_S = 900.0  # longer than a test may take


def prepare_study(task, file):
    """What a worker does, but it waits with one of the studies."""
    from ct_video_hf.data import worker

    if task.entry.study == os.environ.get("HELD_STUDY"):
        time.sleep(_HOLD_S)
    return worker.prepare_study(task, file)


def _hold_study() -> None:
    from ct_video_hf.data import prepared
    from tests.support import held_runs  # workers find the function under this name

    prepared.prepare_study = held_runs.prepare_study


def _hold_step(step: int) -> None:
    from ct_video_hf.training.callbacks import TrainingLog

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == step:
            time.sleep(_HOLD_S)

    TrainingLog.on_step_end = on_step_end


def main() -> int:
    """Hold what is to be held and go on as the command line does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "HELD_STUDY" in os.environ:
        _hold_study()
    if "HELD_STEP" in os.environ:
        _hold_step(int(os.environ["HELD_STEP"]))
    from ct_video_hf.cli import main as command_line

    return command_line(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
