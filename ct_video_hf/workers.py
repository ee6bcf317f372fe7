"""Worker processes: Ctrl-C is the parent's to answer, and none of them outlives it.

A terminal sends Ctrl-C to every process of a command. A worker that answers it by itself prints a
traceback and dies in the middle of its work, wherever that is; one that ignores it as its first act
does so too late, for a new process imports for seconds before. The signal is therefore blocked in
the thread that starts workers: a new process inherits the mask, and a Ctrl-C that came meanwhile
reaches the parent through another thread, or as soon as the block ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

__all__ = [
    "QuietSpawnContext",
    "clear_away_quietly",
    "dismiss_workers",
    "end_with",
    "interrupts_held",
    "worker_results",
]

#: Seconds between looks at whether the parent is alive.
_LOOK_EVERY = 0.5


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while the block runs; processes that it starts never hear of one.

    Windows has no signal masks; there only :func:`worker_results` keeps workers quiet, once they
    work.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    from joblib.externals.loky.backend import resource_tracker as loky_tracker

    # starting one of these would end the block: they unblock what they block
    resource_tracker.ensure_running()
    loky_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def worker_results(
    function: Callable[..., Any],
    arguments: Iterable[tuple],
    workers: int,
    *,
    ordered: bool = False,
) -> Iterator[Iterator[Any]]:
    """Results of a function as worker processes come by them.

    However the block ends, no worker is at work afterwards: what was not taken is given up. Idle
    ones wait a few minutes for the next call; :func:`dismiss_workers` ends them at once.

    Parameters
    ----------
    function : callable
        Picklable, like what it takes and returns.
    arguments : iterable of tuple
        One call each, of some milliseconds at least.
    workers : int
        Processes, each with one thread of OpenMP and BLAS; -1 takes all cores, 1 works in this
        process.
    ordered : bool
        Results in the order of ``arguments`` instead of as they are ready.

    Yields
    ------
    iterator
    """
    from joblib import Parallel, delayed, parallel_config

    # one call a message: joblib would join calls below 0.2 s, and workers idle at the end
    how = {"return_as": "generator" if ordered else "generator_unordered", "batch_size": 1}
    begin = {"initializer": _begin_worker, "initargs": (os.getpid(),)}
    with parallel_config("loky", inner_max_num_threads=1, **begin):
        pool = Parallel(n_jobs=workers, **how)
    with interrupts_held():
        results = pool(delayed(function)(*each) for each in arguments)
    try:
        yield results
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib's, that results were not taken
            results.close()


def dismiss_workers() -> None:
    """End idle workers, so that a process that is done need not wait for them as it exits."""
    if "joblib" not in sys.modules:
        return
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor(reuse=True).shutdown(wait=True)


def clear_away_quietly() -> None:
    """For a process that ends because of Ctrl-C, as its first act: nothing half-made is told of.

    torch's loaders, interrupted while they start workers, fail as they are cleared away, and Python
    writes "Exception ignored in" with a traceback for each. A worker that is still starting looks
    for locks that this process has taken along, and would write one, too: workers go first.
    """
    sys.unraisablehook = _say_nothing
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises where a worker is ended
    workers = [child for child in active_children() if isinstance(child, _QuietProcess)]
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(10)


def _say_nothing(_unraisable: Any) -> None:
    pass


def _begin_worker(parent: int) -> None:
    """First act of a worker: Ctrl-C is its parent's, and it ends when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)


def end_with(parent: int) -> None:
    """Let this process end once another has adopted it: its parent was killed, without a farewell.

    A worker would otherwise wait minutes for calls, and write beside the run that goes on.
    """
    if os.name != "nt":  # where an orphan's parent stays the same
        threading.Thread(target=_look_after, args=(parent,), daemon=True).start()


def _look_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY)
    os._exit(1)


class _QuietProcess(SpawnProcess):
    def start(self) -> None:
        with interrupts_held():
            super().start()


class QuietSpawnContext(SpawnContext):
    """``multiprocessing``'s "spawn", whose processes leave Ctrl-C to their parent."""

    Process = _QuietProcess
