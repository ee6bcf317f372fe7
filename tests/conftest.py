"""Settings of the whole suite, made before anything imports torch."""

import logging
import os
import random
import shutil
import sys
import tempfile
import warnings
import zlib

import pytest

# xdist gives each core a process of its own, so more threads only get in each other's way. And
# sums in floating point depend on the number of threads: a run in this process equals one in a
# child bit for bit only where both have the same.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

# no two processes of the suite share a cache, and none sees the user's, with its token
_HOME = tempfile.mkdtemp(prefix="ct_video_hf-tests-")
os.environ["HF_HOME"] = _HOME

_LEVEL = logging.root.level


def pytest_unconfigure():
    """Not at exit: workers of xdist never come to that."""
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def _process_as_before():
    """The command line changes the whole process; the next test must not hear of it.

    Fixtures of a module may have called it before this one is set up.
    """
    logging.root.setLevel(_LEVEL)
    variables = dict(os.environ)
    yield
    logging.root.setLevel(_LEVEL)
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    """Each fixture draws the same numbers, whatever was run before it in this process."""
    _own_dice(f"{fixturedef.baseid}::{fixturedef.argname}")
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """So does each test, and none draws what another one has made its network of."""
    _own_dice(pyfuncitem.nodeid)
    return (yield)


def _own_dice(name):
    seed = zlib.crc32(f"{name} {os.environ.get('CT_VIDEO_HF_DICE', '')}".encode())
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@pytest.fixture(autouse=True, scope="module")
def _no_process_is_left():
    """Worker processes of a module end with it; what else it has left is named and killed."""
    yield
    if "joblib.externals.loky" in sys.modules:
        from ct_video_hf.workers import dismiss_workers

        dismiss_workers()
    import psutil

    left = [child for child in psutil.Process().children(recursive=True) if not _helps(child)]
    _, left = psutil.wait_procs(left, timeout=10)
    for child in left:
        try:
            words = " ".join(child.cmdline())
            child.kill()
        except psutil.NoSuchProcess:
            continue
        warnings.warn(f"this module left a process: {words[:300]}", stacklevel=1)


def _helps(process):
    """A helper of multiprocessing or joblib, which lives as long as its parent."""
    import psutil

    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "resource_tracker" in words or "forkserver" in words


@pytest.fixture(scope="session")
def quickstart_place(tmp_path_factory):
    """See :func:`tests.support.quickstart.quickstart_place`."""
    from tests.support.quickstart import quickstart_place

    return quickstart_place(tmp_path_factory.getbasetemp())
