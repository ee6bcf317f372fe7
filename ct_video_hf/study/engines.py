"""Who runs the cells: this machine, a Ray cluster, or SLURM."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from tqdm.auto import tqdm

from ..errors import CTVideoError
from ..files import replacing
from .execute import allow_runs, drop_weights, execute, stop_runs
from .grid import Cell, levels
from .state import StudyState

__all__ = ["run_local", "run_ray", "write_slurm"]

logger = logging.getLogger(__name__)

_OPEN = ("ready", "waiting", "running")


def _todo(state: StudyState, retry_failed: bool) -> list[Cell]:
    """Cells without a result; failures are forgotten first when they are to be tried again."""
    if retry_failed:
        for cell in state.cells:
            state.folder(cell).failure.unlink(missing_ok=True)
    return [cell for cell in state.cells if state.status(cell) in (*_OPEN, "blocked")]


def _drain(
    state: StudyState,
    todo: list[Cell],
    submit: Callable[[Cell], Future],
    slots: int,
    progress: bool,
) -> dict[str, int]:
    """Start cells as they become ready, ``slots`` at a time, until none is left that can start."""
    allow_runs()
    left = {cell.name: cell for cell in todo}
    running: dict[Future, Cell] = {}
    counts = {"finished": 0, "failed": 0}
    with tqdm(total=len(todo), unit="cell", disable=None if progress else True) as bar:
        try:
            while True:
                for cell in list(left.values()):
                    if len(running) >= slots:
                        break
                    if state.status(cell) == "ready":
                        running[submit(left.pop(cell.name))] = cell
                if not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    running.pop(future)
                    counts["finished" if future.result() else "failed"] += 1
                    bar.set_postfix(failed=counts["failed"], refresh=False)
                    bar.update()
                drop_weights(state)
        except BaseException:
            for future in running:
                future.cancel()
            stop_runs()
            raise
    return counts | {"not_started": len(left)}


def run_local(
    state: StudyState,
    *,
    jobs: int = 1,
    retry_failed: bool = False,
    progress: bool = True,
) -> dict[str, int]:
    """Run what is not finished on this machine, ``jobs`` cells at a time.

    Several may run at once, here or on machines that share the folder: each cell is locked while it
    runs. Returns how many were ``finished``, ``failed`` and ``not_started`` (they wait for
    something that failed or that another process runs).
    """
    if jobs < 1:
        raise CTVideoError(f"jobs is {jobs}; at least 1 is needed")
    threads = None if jobs == 1 else max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs, thread_name_prefix="cell") as pool:
        return _drain(
            state,
            _todo(state, retry_failed),
            lambda cell: pool.submit(execute, state, cell, threads=threads),
            jobs,
            progress,
        )


def run_ray(
    state: StudyState,
    *,
    address: str | None = None,
    gpus: float = 0,
    cpus: float = 1,
    retry_failed: bool = False,
    progress: bool = True,
) -> dict[str, int]:
    """Run what is not finished on a Ray cluster; the study's folder lies on a shared disk.

    Parameters
    ----------
    address : str, optional
        Of the cluster, as ``ray.init`` takes it; None starts Ray on this machine.
    gpus, cpus : float
        What each cell takes.
    """
    try:
        import ray
    except ImportError as error:
        raise CTVideoError(
            "Ray is not installed: pip install 'ct-video-hf[ray]', on every machine"
        ) from error
    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    try:
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=1)(execute)
        slots = max(1, int(ray.cluster_resources().get("CPU", 1) // cpus)) if cpus else 64
        threads = max(1, int(cpus))
        return _drain(
            state,
            _todo(state, retry_failed),
            lambda cell: remote.remote(state, cell, threads=threads).future(),
            slots,
            progress,
        )
    finally:
        ray.shutdown()


_SLURM = """\
#!/bin/bash
#SBATCH --job-name={job}
#SBATCH --array=0-{last}{limit}
#SBATCH --output={folder}/slurm/{job}_%a.out
{lines}set -euo pipefail
mapfile -t cells < {folder}/slurm/{job}.txt
cell="${{cells[$SLURM_ARRAY_TASK_ID]}}"
exec {python} -m ct_video_hf study run {design} --folder {folder} --cell "$cell"
"""


def write_slurm(
    state: StudyState,
    design: str,
    *,
    sbatch: list[str] | None = None,
    at_once: int | None = None,
    retry_failed: bool = False,
) -> list[Path]:
    """Write an array script for each wave of cells, and ``submit.sh``, which queues them in order.

    Parameters
    ----------
    design : str
        The design's file or name, for ``study run``.
    sbatch : list of str, optional
        Further options, such as ``--gres=gpu:1``; one ``#SBATCH`` line each.
    at_once : int, optional
        Most cells at a time.

    Returns
    -------
    list of Path
        The scripts, ``submit.sh`` last. Nothing is queued.
    """
    folder = state.config.folder.resolve()
    open_cells = {cell.name for cell in _todo(state, retry_failed)}
    waves = [
        [cell for cell in wave if cell.name in open_cells]
        for wave in levels(state.config, state.cells)
    ]
    written = []
    for number, wave in enumerate(wave for wave in waves if wave):
        job = f"wave{number}"
        listing = folder / "slurm" / f"{job}.txt"
        with replacing(listing) as partial:
            partial.write_text("".join(f"{cell.name}\n" for cell in wave), encoding="utf-8")
        script = folder / "slurm" / f"{job}.sh"
        with replacing(script) as partial:
            partial.write_text(
                _SLURM.format(
                    job=job,
                    last=len(wave) - 1,
                    limit=f"%{at_once}" if at_once else "",
                    folder=shlex.quote(str(folder)),
                    lines="".join(f"#SBATCH {option}\n" for option in sbatch or []),
                    python=shlex.quote(sys.executable),
                    design=shlex.quote(str(design)),
                ),
                encoding="utf-8",
            )
        written.append(script)
    submit = folder / "slurm" / "submit.sh"
    lines, after = ["#!/bin/bash", "set -euo pipefail"], ""
    for script in written:
        name = shlex.quote(str(script))
        lines.append(f"job=$(sbatch --parsable{after} {name}); echo {script.stem} $job")
        after = " --dependency=afterany:$job"  # a failed cell must not hold the others up
    with replacing(submit) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [*written, submit]
