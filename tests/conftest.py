"""Settings of the whole suite, made before anything imports torch."""

import logging
import os

import pytest

# xdist gives each core a process of its own, so more threads only get in each other's way. And
# sums in floating point depend on the number of threads: a run in this process equals one in a
# child bit for bit only where both have the same.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"


_LEVEL = logging.root.level


@pytest.fixture(autouse=True)
def _logging_as_before():
    """The command line sets the level of the whole process; the next test must not hear of it.

    Fixtures of a module may have called it before this one is set up.
    """
    logging.root.setLevel(_LEVEL)
    yield
    logging.root.setLevel(_LEVEL)
