"""Tight limits, a full queue, and how a server ends: nothing hangs, nothing stays."""

import signal
import time
from http.client import HTTPConnection

import pytest

from tests.data.test_privacy import SEARCHED, plant
from tests.support.demo_server import PATIENCE, Demo, Visitor
from tests.support.hostile_uploads import chest_files, excerpt, zipped
from tests.support.prediction import tiny_model_folder

pytestmark = pytest.mark.slow

TIGHT = {
    "upload_bytes": 6_000_000, "files": 40, "scans": 2, "waiting": 1, "score_seconds": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def tight(model, tmp_path_factory):
    running = Demo(model, tmp_path_factory.mktemp("tight"), limits=TIGHT)
    yield running
    assert running.close(signal.SIGHUP) == 0  # its terminal was closed
    assert not list(running.tmp.glob("ct-video-demo*"))


def planted(folder):
    """A zip of a chest with an identifier in every field of every header, and in its names."""
    chest_files(folder / "files")
    assert plant(folder / "files") > 24 * 1500
    files = {f"ZQSCANS_{path.name}": path.read_bytes() for path in (folder / "files").iterdir()}
    return zipped(folder / "ZQSTUDY.zip", files)


def test_a_full_queue_is_told_and_empties(tight, tmp_path):
    """Two are at work and one waits; who comes then is told at once, the others are answered."""
    scan = excerpt(tmp_path)
    visitors = [Visitor(tight) for _ in range(8)]
    uploads = [visitor.upload(scan) for visitor in visitors]
    assert len({upload["path"] for (upload,) in uploads}) == 8  # each has a file of its own
    answers = [
        visitor.join("ctv-run", upload) for visitor, upload in zip(visitors, uploads, strict=True)
    ]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    for answer in refused:
        assert answer.status_code == 503
        assert "full" in answer.json()["detail"]
    taken = [v for v, answer in zip(visitors, answers, strict=True) if answer.status_code == 200]
    assert len(taken) >= 2
    for visitor in taken:
        assert 'role="alert"' in visitor.outcome()[0]
    late = visitors[answers.index(refused[0])]
    html = late.press("ctv-run", uploads[answers.index(refused[0])])
    assert "longer than 0 seconds" in html


def test_a_scan_that_takes_too_long_is_stopped_and_told(tight, tmp_path):
    visitor = Visitor(tight)
    for button in ("ctv-run", "ctv-batch-run"):
        html = visitor.press(button, visitor.upload(excerpt(tmp_path)))
        assert "Scoring clips took longer than 0 seconds" in html
        assert "ct-video-hf predict" in html
        assert "ct-viewer" not in html


def test_what_is_too_large_is_told(tight, tmp_path):
    visitor = Visitor(tight)
    host = tight.url.removeprefix("http://")
    connection = HTTPConnection(host, timeout=PATIENCE)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Length", str(8_000_000))
    connection.endheaders(b"--x")
    answer = connection.getresponse()
    assert answer.status == 413
    assert b"more than is taken" in answer.read()
    connection.close()

    half = tmp_path / "half.zip"
    half.write_bytes(bytes(4_000_000))
    uploads = [*visitor.upload(half), *visitor.upload(excerpt(tmp_path))]
    assert "at most 6 MB are taken" in visitor.press("ctv-run", uploads)
    files = chest_files(tmp_path / "many", 41)
    uploads = visitor.upload(*files)
    assert "41 files were given; at most 40 are taken" in visitor.press("ctv-run", uploads)
    uploads = visitor.upload(*files[:3])
    assert "at most 2 go at a time" in visitor.press("ctv-batch-run", uploads)
    wide = {f"{number}.dcm": b"x" for number in range(41)}
    uploads = visitor.upload(zipped(tmp_path / "wide.zip", wide))
    assert "above the limit of 40" in visitor.press("ctv-run", uploads)


def test_nothing_of_a_scan_stays_when_the_server_ends(model, tmp_path):
    """One scan is shown, one is being read, one has arrived, one was refused; then it ends."""
    running = Demo(model, tmp_path)
    scan = planted(tmp_path / "scans")
    shown, busy = Visitor(running), Visitor(running)
    html = shown.press("ctv-run", shown.upload(scan))
    assert shown.look(html, "facts").status_code == 200
    broken = tmp_path / "scans" / "ZQSTUDY_broken.zip"
    broken.write_bytes(scan.read_bytes()[:50_000])
    assert 'role="alert"' in busy.press("ctv-run", busy.upload(broken))
    shown.upload(scan)
    assert busy.join("ctv-run", busy.upload(scan)).status_code == 200
    left = [path for path in running.files() if "ct-video-demo" in str(path)]
    assert len(left) >= 2  # a volume and an upload at least
    running.process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    assert running.close(signal.SIGINT) == 0  # an impatient second Ctrl-C
    assert not [path for path in running.tmp.rglob("*") if "ct-video-demo" in path.name]
    for path in [running.log, *running.tmp.rglob("*"), *running.home.rglob("*")]:
        if path.is_file():
            assert not SEARCHED.search(path.read_bytes()), path
        assert not SEARCHED.search(path.name.encode()), path
    assert "Traceback" not in running.log.read_text()
