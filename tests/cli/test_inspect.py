"""ct-video-hf inspect: the answer for people, the answer for machines, the exit code."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ct_video_hf.cli import main
from ct_video_hf.dicom import read_ct, write_series
from tests.support.scans import body

RELIED_ON = {
    "slices", "rows", "columns", "spacing_mm", "orientation", "modality", "transfer_syntaxes",
    "hu_min", "hu_max", "policy", "findings",
}  # fmt: skip


@pytest.fixture
def scan(tmp_path):
    write_series(body(), tmp_path / "scan", spacing=(2.5, 0.8, 0.6))
    return tmp_path / "scan"


@pytest.fixture
def gap(tmp_path):
    kept = np.delete(np.arange(12), 5)
    positions = np.column_stack([np.zeros((11, 2)), 2.5 * kept])
    write_series(body()[kept], tmp_path / "gap", positions=positions)
    return tmp_path / "gap"


def run(capfd, *arguments) -> tuple[int, str, str]:
    code = main(["inspect", *map(str, arguments)])
    out = capfd.readouterr()
    return code, out.out, out.err


def test_json(scan, capfd):
    code, out, err = run(capfd, scan, "--json")
    report = json.loads(out)
    assert code == 0
    assert err == ""
    assert set(report) >= RELIED_ON
    assert report["slices"] == 12
    assert report["spacing_mm"] == [2.5, 0.8, 0.6]
    assert report["policy"] == "strict"
    assert report["findings"] == []


def test_text(scan, capfd):
    code, out, err = run(capfd, scan)
    assert code == 0
    assert err == ""
    for word in ("12 slices of 48 x 40", "2.5 x 0.8 x 0.6 mm", "Explicit VR", "Not for clinical"):
        assert word in out
    assert len(out.splitlines()) < 25
    assert max(map(len, out.splitlines())) <= 100


def test_the_policy_reaches_the_reader(gap, capfd):
    code, out, _ = run(capfd, gap, "--json")
    document = json.loads(out)
    assert code == 1
    assert document["code"] == "missing_slice"
    assert "5.000 mm" in document["error"]
    assert document["findings"][0]["code"] == "missing_slice"
    assert document["findings"][0]["severity"] == "error"
    slices = {}
    for policy in ("warn", "repair"):
        code, out, _ = run(capfd, gap, "--json", "--policy", policy)
        document = json.loads(out)
        assert code == 0
        assert document["policy"] == policy
        slices[policy] = document["slices"]
        assert {finding["code"] for finding in document["findings"]} >= {"missing_slice"}
    assert slices == {"warn": 11, "repair": 12}


def test_an_error_in_words(gap, capfd):
    code, out, err = run(capfd, gap)
    assert code == 1
    assert "missing_slice" in out
    assert err.startswith("ct-video-hf inspect: error: 1 slice missing between IM0004.dcm")
    assert "Traceback" not in err


def test_a_path_that_is_not_there(tmp_path, capfd):
    code, out, err = run(capfd, tmp_path / "nowhere", "--json")
    assert code == 1
    assert json.loads(out)["code"] == "path_not_found"
    assert err == ""


def test_an_unknown_policy_is_wrong_use(scan, capfd):
    with pytest.raises(SystemExit) as caught:
        main(["inspect", str(scan), "--policy", "lenient"])
    assert caught.value.code == 2
    capfd.readouterr()


def test_series(tmp_path, capfd):
    for key, count, number in (("a", 6, 3), ("b", 12, 5)):
        write_series(body(count), tmp_path / key, key=key, study_key="s",
                     extra={"SeriesNumber": number})  # fmt: skip
    code, out, _ = run(capfd, tmp_path, "--list-series")
    assert code == 0
    assert "  #1 (number 3): 6 axial slices" in out
    assert "* #2 (number 5): 12 axial slices" in out
    _, out, _ = run(capfd, tmp_path, "--list-series", "--json")
    assert [series["chosen"] for series in json.loads(out)["series"]] == [False, True]
    for name in ("#1", "3"):
        _, out, _ = run(capfd, tmp_path, "--json", "--series", name)
        assert json.loads(out)["slices"] == 6
    code, out, _ = run(capfd, tmp_path, "--json", "--series", "9")
    assert code == 1
    assert json.loads(out)["code"] == "no_such_series"


def test_a_picture(scan, tmp_path, capfd):
    import cv2

    path = tmp_path / "picture.png"
    code, out, _ = run(capfd, scan, "--picture", path)
    assert code == 0
    assert str(path) in out
    picture = cv2.imread(str(path))
    assert picture is not None
    assert picture.shape[0] > 200
    assert picture.std() > 20
    assert [file.name for file in tmp_path.iterdir()] == ["scan", "picture.png"] or len(
        list(tmp_path.iterdir())
    ) == 2
    for wrong in ("picture.jpg", "no/such/folder/picture.png"):
        with pytest.raises(SystemExit) as caught:
            run(capfd, scan, "--picture", tmp_path / wrong)
        assert caught.value.code == 2


def test_a_picture_shows_the_right_way_up(scan):
    from ct_video_hf.dicom.picture import _panels

    volume = read_ct(scan)
    volume.hu[-1] = 1000  # towards the head
    axial, coronal, sagittal = _panels(volume)
    assert (coronal["plane"][0] == 1000).all()
    assert (sagittal["plane"][0] == 1000).all()
    np.testing.assert_array_equal(axial["plane"], volume.hu[6])
    assert coronal["extent"] == pytest.approx((0, 24.0, -1.25, 28.75))


def test_a_prepared_set_is_handed_on(tmp_path, capfd, monkeypatch):
    data = pytest.importorskip("ct_video_hf.data")
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "studies").mkdir()
    summary = {"splits": {"train": {"studies": 3, "patients": 2}}, "size": 32}
    monkeypatch.setattr(data, "summarize_set", lambda path: summary, raising=False)
    code, out, _ = run(capfd, tmp_path, "--json")
    assert code == 0
    assert json.loads(out) == summary
    code, out, _ = run(capfd, tmp_path)
    assert "studies                3" in out
    assert "size             32" in out


def test_a_manifest_beside_dicom_files_is_no_prepared_set(scan, capfd):
    (scan / "manifest.json").write_text("[]")
    code, out, _ = run(capfd, scan, "--json")
    assert code == 0
    assert json.loads(out)["slices"] == 12


def test_every_failure_is_json_when_asked(tmp_path, capfd):
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "studies").mkdir()
    for path in (tmp_path, tmp_path / "nowhere", ""):
        code, out, _ = run(capfd, path, "--json")
        assert code == 1
        assert json.loads(out)["error"]
