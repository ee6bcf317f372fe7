"""The demo over HTTP, as a page's script speaks to it: answers, refusals, what it deletes."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import nibabel
import numpy as np
import pytest

from ct_video_hf import read_ct
from tests.support.demo_server import PATIENCE, Demo, Visitor
from tests.support.hostile_uploads import (
    EXCERPT,
    HOSTILE,
    MARKUP,
    NAME,
    chest_files,
    excerpt,
    marked_up,
    zipped,
)
from tests.support.prediction import tiny_model_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    running = Demo(tiny_model_folder(folder / "tiny"), folder)
    yield running
    code = running.close()
    assert code == 0
    assert not [path for path in running.files() if "ct-video-demo" in str(path)]
    said = running.log.read_text()
    assert NAME not in said
    assert "127.0.0.1" in said
    assert running.outside == 0


@pytest.fixture
def visitor(demo):
    return Visitor(demo)


def words_of(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def gone(uploads):
    return not any(Path(upload["path"]).exists() for upload in uploads)


def as_nifti(volume, path):
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(volume.hu, lps_to_ras @ volume.affine), path)
    return path


def slice_of(answer, rows, columns):
    """HU of a slice as it is sent, put together as the viewer does."""
    data = np.frombuffer(answer.content, np.uint8).reshape(2, rows, columns).astype(np.uint16)
    return np.cumsum((data[0] << 8) | data[1], axis=1, dtype=np.uint16).view(np.int16)


def test_a_real_scan_is_read_scored_and_shown(visitor, tmp_path):
    uploads = visitor.upload(excerpt(tmp_path, f"{NAME}.zip"))
    html = visitor.press("ctv-run", uploads)
    facts = visitor.look(html, "facts").json()
    volume = read_ct(EXCERPT)
    assert facts["slices"] == len(volume) == 30
    assert facts["z_mm"] == pytest.approx(volume.z_mm.tolist(), abs=0.01)
    shown = slice_of(visitor.look(html, "slice/14"), facts["rows"], facts["columns"])
    np.testing.assert_array_equal(shown, volume.hu[14].clip(-1024, 3071))
    assert facts["map"]
    maps = [np.frombuffer(visitor.look(html, f"map/{i}").content, np.uint8) for i in range(30)]
    assert {len(each) for each in maps} == {facts["rows"] * facts["columns"]}
    assert max(each.max() for each in maps) > 100
    result = visitor.look(html, "get/result.json").json()
    assert f"{result['study_probability']:.3f}" in html
    assert [clip["score"] for clip in facts["clips"]] == [clip["score"] for clip in result["clips"]]
    report = visitor.look(html, "get/report.html")
    assert "attachment" in report.headers["content-disposition"]
    assert "Not for clinical use" in report.text
    for text in (html, report.text, visitor.look(html, "facts").text, str(result)):
        assert NAME not in text
    assert gone(uploads)


def test_dicom_files_and_nifti_are_taken(visitor, tmp_path):
    files = chest_files(tmp_path / "files")
    nifti = as_nifti(read_ct(tmp_path / "files"), tmp_path / "scan.nii.gz")
    scores = []
    for given in (files, [nifti]):
        uploads = visitor.upload(*given)
        result = visitor.look(visitor.press("ctv-run", uploads), "get/result.json").json()
        scores.append(result["study_score"])
        assert gone(uploads)
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_upload_is_an_answer_and_no_end(demo, visitor, tmp_path, name):
    make, about = HOSTILE[name]
    path = tmp_path / name
    make(path)
    uploads = visitor.upload(path)
    html = visitor.press("ctv-run", uploads)
    assert 'role="alert"' in html, html
    words = words_of(html)
    assert re.search(about, words), words
    assert str(demo.tmp) not in words
    assert "/tmp" not in words
    assert "Traceback" not in words
    assert "limits=" not in words
    assert NAME not in words
    assert gone(uploads)
    assert demo.process.poll() is None


def test_markup_in_headers_and_names_stays_text(visitor, tmp_path):
    uploads = visitor.upload(marked_up(tmp_path / "scan.zip"))
    html = visitor.press("ctv-run", uploads)
    report = visitor.look(html, "get/report.html").text
    assert "ct-viewer" in html
    assert "&lt;img" in html  # the name of the scanner is shown
    for text in (html, report):
        assert MARKUP not in text
        assert "<img src=x" not in text


def test_thousands_of_files_are_taken_or_told(visitor, tmp_path):
    """As many as a page names to the server with all that it knows of each."""
    (tmp_path / "tiny.dcm").write_bytes(b"x")
    (upload,) = visitor.upload(tmp_path / "tiny.dcm")
    place = Path(upload["path"])
    many = []
    for number in range(10_000):
        path = place.with_name(f"slice_{number:05d}.dcm")
        path.write_bytes(b"x")
        many.append(upload | {
            "path": str(path), "orig_name": path.name, "size": 1, "mime_type": "application/dicom",
            "url": f"{visitor.demo.url}/gradio_api/file={path}",
        })  # fmt: skip
    assert "DICOM" in words_of(visitor.press("ctv-run", many[:4000]))
    assert "10,000 files" in words_of(visitor.press("ctv-run", many))
    assert gone(many)


def test_nothing_and_too_much_at_once(visitor, tmp_path):
    assert "No file has arrived" in words_of(visitor.press("ctv-run", []))
    both = visitor.upload(excerpt(tmp_path), chest_files(tmp_path / "f")[0])
    assert "other tab" in words_of(visitor.press("ctv-run", both))


@pytest.mark.parametrize("place", ["/etc/hostname", "../store.py"])
def test_only_what_was_uploaded_is_read(visitor, place):
    named = [{"path": place, "meta": {"_type": "gradio.FileData"}}]
    html = visitor.press("ctv-run", named)
    assert html.startswith("refused") or 'role="alert"' in html
    assert "ct-viewer" not in html


def test_no_address_is_fetched(visitor):
    for place in ("http://127.0.0.1:1/scan.zip", "https://hub.example/scan.zip"):
        data = [[{"path": place, "meta": {"_type": "gradio.FileData"}}], "strict"]
        body = {"fn_index": 1, "data": data, "session_hash": visitor.session}
        answer = visitor.http.post("/gradio_api/queue/join", json=body)
        assert answer.status_code == 422
        assert "not fetched" in answer.text


def test_an_upload_that_is_gone_is_told_without_its_name(demo, visitor, tmp_path):
    uploads = visitor.upload(excerpt(tmp_path, f"{NAME}.zip"))
    Path(uploads[0]["path"]).unlink()
    html = visitor.press("ctv-run", uploads)
    assert "ct-viewer" not in html
    assert NAME not in demo.log.read_text()


def test_too_large_a_request_is_turned_away(demo, visitor):
    connection = HTTPConnection(demo.url.removeprefix("http://"), timeout=PATIENCE)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Length", str(3 << 30))
    connection.endheaders(b"--x")
    assert connection.getresponse().status == 413
    connection.close()
    answer = visitor.http.post("/gradio_api/queue/join", content=bytes(9 << 20))
    assert answer.status_code == 413


def test_two_visitors_at_once_get_their_own(demo, tmp_path):
    """Each its own scan, under addresses of their own; the page answers meanwhile."""
    real = excerpt(tmp_path)
    files = {path.name: path.read_bytes() for path in chest_files(tmp_path / "files")}
    made = zipped(tmp_path / "made.zip", files)

    def visit(scan):
        visitor = Visitor(demo)
        html = visitor.press("ctv-run", visitor.upload(scan))
        return html, visitor.look(html, "facts").json(), visitor

    with ThreadPoolExecutor(2) as pool:
        visits = [pool.submit(visit, scan) for scan in (real, made)]
        assert Visitor(demo).http.get("/").status_code == 200
        (first, facts, one), (second, other, two) = (visit.result(PATIENCE) for visit in visits)
    assert (facts["slices"], other["slices"]) == (30, 24)
    places = [re.search(r'<ct-viewer src="([^"]+)"', html)[1] for html in (first, second)]
    assert places[0] != places[1]
    assert one.look(first, "slice/29").status_code == 200
    assert two.look(second, "slice/29").status_code == 404


def test_what_belongs_to_a_page_goes_with_it(demo, tmp_path):
    visitor = Visitor(demo)
    with visitor.http.stream("GET", f"/gradio_api/heartbeat/{visitor.session}") as heartbeat:
        lines = heartbeat.iter_lines()
        next(lines)
        html = visitor.press("ctv-run", visitor.upload(*chest_files(tmp_path / "files")))
        assert visitor.look(html, "facts").status_code == 200
        unread = visitor.upload(excerpt(tmp_path))
        visitor.arrived("ctv-upload", unread)
        assert Path(unread[0]["path"]).is_file()
        assert visitor.look(html, "facts").status_code == 200
    end = time.monotonic() + PATIENCE
    while visitor.look(html, "facts").status_code == 200 or Path(unread[0]["path"]).exists():
        assert time.monotonic() < end, demo.files()
        time.sleep(0.2)
    answer = visitor.look(html, "slice/3")
    assert answer.status_code == 404
    assert "no longer kept" in answer.text


def test_a_batch_has_a_row_a_scan_and_an_error_where_one_is_bad(visitor, tmp_path):
    good = zipped(
        tmp_path / f"{NAME}.zip",
        {path.name: path.read_bytes() for path in chest_files(tmp_path / "files")},
    )
    (tmp_path / "bad.zip").write_bytes(b"PK no zip")
    uploads = visitor.upload(good, tmp_path / "bad.zip")
    html = visitor.press("ctv-batch-run", uploads)
    assert "2 scans" in html
    assert html.count("<tr>") == 3
    assert "not scored" in words_of(html)
    table = visitor.http.get("/" + re.search(r'href="([^"]+)"', html)[1])
    lines = table.text.splitlines()
    assert [line.split(",")[0] for line in lines] == ["study", "scan 1", "scan 2"]
    assert NAME not in html + table.text
    assert gone(uploads)
