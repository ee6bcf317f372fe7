"""Where studies are prepared: processes of this machine, or the workers of a Ray cluster.

On a cluster every node needs the package, and sees the scans and the set's folder under the same
paths (a shared file system). A study there is a task of Ray's: one whose worker or node dies is
begun again on another. On this machine the studies that were in work when a worker died are begun
again one by one, so that the one which ends its worker is known.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any

from ..workers import worker_results
from .errors import CTDataError

__all__ = ["DEATHS", "ENGINES", "engine", "engine_results", "in_cluster"]

ENGINES = ("local", "ray")

#: On a cluster a study is given up when so many workers have died of it.
DEATHS = 4

_in_cluster = ContextVar("_in_cluster", default=False)

logger = logging.getLogger(__name__)

_INSTALL = "Ray is not installed; pip install 'ct-video-hf[ray]' on every node of the cluster"

_NO_CLUSTER = (
    "no Ray cluster answers at {}: start one with `ray start --head` (and `ray start --address "
    "HEAD:6379` on the other nodes). One that asks for a token needs RAY_AUTH_MODE=token and its "
    "~/.ray/auth_token here, too. Ray says: {}"
)


@contextmanager
def engine(name: str = "local", address: str | None = None) -> Iterator[None]:
    """Let :func:`engine_results` work with an engine while the block runs.

    Parameters
    ----------
    name : {"local", "ray"}
    address : str, optional
        Of the cluster: ``host:port`` of its head, ``"auto"`` for the one that this node belongs
        to; None starts Ray on this machine and stops it afterwards.

    Raises
    ------
    CTDataError
        When Ray is not installed, or no cluster answers at the address.
    """
    if name not in ENGINES:
        raise CTDataError(f"engine is {name!r}; known are {', '.join(ENGINES)}")
    if name == "local":
        if address is not None:
            raise CTDataError("an address belongs to the engine ray; the local engine has none")
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # and its warning
    try:
        import ray
    except ImportError as error:
        raise CTDataError(_INSTALL) from error
    ours = not ray.is_initialized()
    if ours:
        _knock(address)
        try:
            ray.init(
                address=address or "local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise CTDataError(_NO_CLUSTER.format(address, error)) from error
    before = _in_cluster.set(True)
    try:
        yield
    finally:
        _in_cluster.reset(before)
        if ours:
            ray.shutdown()


def _knock(address: str | None) -> None:
    """Fail at once where nothing listens; Ray itself tries for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not (host and port.isdigit()) or "//" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise CTDataError(_NO_CLUSTER.format(address, error)) from error


def in_cluster() -> bool:
    """Whether the block of :func:`engine` works with a cluster now."""
    return _in_cluster.get()


@contextmanager
def engine_results(
    function: Callable[..., Any],
    arguments: Iterable[tuple],
    workers: int,
    lost: Callable[..., Any],
) -> Iterator[Iterator[Any]]:
    """Results of a function as workers of the engine come by them.

    Parameters
    ----------
    function, arguments, workers
        As for :func:`ct_video_hf.workers.worker_results`. On a cluster ``workers`` is how many
        calls run at a time, each with a core; -1 is as many as it has cores while it runs.
    lost : callable
        Takes what ``function`` takes; its result stands for a call of which :data:`DEATHS` workers
        of a cluster have died, or of this machine one that had nothing else to do.

    Raises
    ------
    CTDataError
        When the cluster is gone.
    """
    if in_cluster():
        with _cluster_results(function, arguments, workers, lost) as results:
            yield results
    elif workers == 1:
        with worker_results(function, arguments, workers) as results:
            yield results
    else:
        with closing(_local_results(function, arguments, workers, lost)) as results:
            yield results


def _local_results(
    function: Callable[..., Any],
    arguments: Iterable[tuple],
    workers: int,
    lost: Callable[..., Any],
) -> Iterator[Any]:
    """A worker that dies takes its pool with it: nobody knows which of the calls in work it had."""
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    calls = enumerate(arguments)
    given: dict[int, tuple] = {}

    def noted() -> Iterator[tuple]:
        for number, call in calls:
            given[number] = call
            yield function, number, call

    whole = False
    while not whole:
        try:
            with worker_results(_numbered, noted(), workers) as results:
                for number, result in results:
                    del given[number]
                    yield result
            whole = True
        except TerminatedWorkerError:
            logger.warning("a worker process died; what was in work is begun again, one by one")
        for number in sorted(given):
            try:  # two workers, for one alone would be this process; the other stays idle
                with worker_results(function, [given[number]], 2) as results:
                    (result,) = results
            except TerminatedWorkerError:
                result = lost(*given[number])
            del given[number]
            yield result


def _numbered(function: Callable[..., Any], number: int, call: tuple) -> tuple[int, Any]:
    return number, function(*call)


@contextmanager
def _cluster_results(
    function: Callable[..., Any],
    arguments: Iterable[tuple],
    workers: int,
    lost: Callable[..., Any],
) -> Iterator[Iterator[Any]]:
    import ray

    task = ray.remote(num_cpus=1, max_retries=DEATHS - 1)(function)
    calls = iter(arguments)
    given: dict[ray.ObjectRef, tuple] = {}

    def results() -> Iterator[Any]:
        while True:
            at_once = int(ray.cluster_resources().get("CPU", 1)) if workers == -1 else workers
            for call in islice(calls, max(0, at_once - len(given))):
                given[task.remote(*call)] = call
            if not given:
                return
            (done,), _ = ray.wait(list(given))
            call = given.pop(done)
            try:
                result = ray.get(done)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                result = lost(*call)
            except ray.exceptions.RayTaskError as error:  # what the function raised
                raise error.cause from error
            except ray.exceptions.RayError as error:
                raise CTDataError(
                    "the Ray cluster has lost a study's task. What is finished is kept: run the "
                    f"same command again. Ray says: {type(error).__name__}"
                ) from error
            yield result

    try:
        yield results()
    finally:
        for left in given:
            ray.cancel(left, force=True)
