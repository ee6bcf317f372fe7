"""One scan that fails stops no other, and its words tell no place on a disk."""

from __future__ import annotations

import pytest
import torch

import ct_video_hf
from ct_video_hf.dicom import CTReadError
from ct_video_hf.errors import CTVideoError
from ct_video_hf.inference.failures import PredictionFailed, failure
from tests.support.prediction import chest_hu, volume_of


@pytest.fixture
def predict(model_folder):
    return ct_video_hf.pipeline(model_folder, device="cpu")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "Memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "Memory ran out"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "GPU's memory ran out"),
        (PermissionError(13, "Permission denied", "/data/MILLER/1.dcm"), "Permission denied"),
        (KeyError("pixels"), "KeyError: 'pixels'"),
    ],
)
def test_whatever_the_network_raises_the_others_go_on(predict, monkeypatch, error, words):
    volumes = [volume_of(chest_hu(24, seed=seed)) for seed in range(3)]
    expected = [predict(volume)["study_logit"] for volume in volumes]
    study, calls = predict.scorer.study, []

    def sometimes(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise error
        return study(*arguments)

    monkeypatch.setattr(predict.scorer, "study", sometimes)
    first, second, third = predict.predict_many(volumes)
    assert [first.result["study_logit"], third.result["study_logit"]] == [expected[0], expected[2]]
    assert isinstance(second.error, PredictionFailed)
    assert second.error.__cause__ is error
    assert words in str(second.error)
    assert "MILLER" not in str(second.error)


def test_an_interrupt_ends_the_work(predict, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(predict.scorer, "study", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(predict.predict_many([volume_of(chest_hu(24))] * 2))


def test_a_scan_that_cannot_be_read_is_named_without_its_folders(predict, tmp_path):
    scan = tmp_path / "MILLER" / "scan7"
    scan.mkdir(parents=True)
    (scan / "1.dcm").write_bytes(b"nothing")
    missing = tmp_path / "MILLER" / "no.nii.gz"
    for outcome in predict.predict_many([scan, missing, str(missing)]):
        assert isinstance(outcome.error, CTVideoError)
        assert "MILLER" not in str(outcome.error)
        assert str(tmp_path) not in str(outcome.error)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cannot open /home/u/MILLER/scan.nii: broken", "cannot open scan.nii: broken"),
        (r"cannot open 'C:\data\MILLER\scan.nii'", "cannot open 'scan.nii'"),
        ("1/2 of the slices, 3 mm/s, https://example.org/a/b", None),
        ("the folder MILLER/series is empty", None),
    ],
)
def test_places_leave_the_words(text, told):
    error = CTReadError(text, code="unreadable")
    found = failure("scan", error)
    assert found is error
    assert found.code == "unreadable"
    assert str(found) == (told or text)


def test_the_scan_itself_is_called_by_its_last_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = CTReadError("MILLER/a: no slices, nor in MILLER/a/b", code="unreadable")
    assert str(failure("MILLER/a", error)) == "a: no slices, nor in a/b"
