"""Where studies are prepared: processes of this machine, or the workers of a Ray cluster.

Both go through joblib, so that preparing is the same code. On a cluster every node needs the
package, and sees the scans and the set's folder under the same paths (a shared file system).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import CTDataError

__all__ = ["ENGINES", "engine", "in_cluster"]

ENGINES = ("local", "ray")

_INSTALL = "Ray is not installed; pip install 'ct-video-hf[ray]' on every node of the cluster"

_NO_CLUSTER = (
    "no Ray cluster answers at {}: start one with `ray start --head` (and `ray start --address "
    "HEAD:6379` on the other nodes). One that asks for a token needs RAY_AUTH_MODE=token and its "
    "~/.ray/auth_token here, too. Ray says: {}"
)


@contextmanager
def engine(name: str = "local", address: str | None = None) -> Iterator[None]:
    """Let joblib work with an engine while the block runs.

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
    from joblib import parallel_config, register_parallel_backend

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
    try:
        register_parallel_backend("ct_video_hf_ray", _ray_backend())
        with parallel_config("ct_video_hf_ray"):
            yield
    finally:
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


def _ray_backend() -> type:
    """Ray's joblib backend, whose results are taken as they come instead of all at the end.

    A worker holds one core of its node. Ray's actors hold none while they run unless told so, and
    all of them may come to lie on one node while the others idle.
    """
    from ray.util.joblib.ray_backend import RayBackend

    class StreamingRayBackend(RayBackend):
        supports_return_generator = True

        def __init__(self, *args, ray_remote_args: dict | None = None, **kwargs) -> None:
            holds = {"num_cpus": 1, **(ray_remote_args or {})}
            super().__init__(*args, ray_remote_args=holds, **kwargs)

        def compute_batch_size(self) -> int:
            return 1  # a study is long enough, and each is journalled when it is done

    return StreamingRayBackend


def in_cluster() -> bool:
    """Whether the block of :func:`engine` works with a cluster now."""
    from joblib.parallel import get_active_backend

    return type(get_active_backend()[0]).__name__ == "StreamingRayBackend"
