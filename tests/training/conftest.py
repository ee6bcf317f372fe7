import pytest

from tests.support.clip_sets import write_clip_set


@pytest.fixture(scope="session")
def clip_set(tmp_path_factory):
    return write_clip_set(tmp_path_factory.mktemp("sets") / "noise")
