"""A tiny model folder, shared by the tests of prediction."""

import pytest

from tests.support.prediction import tiny_model_folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny")
