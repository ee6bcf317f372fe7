"""The HTML report of a study: whole, self-contained, without identifiers."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

import ct_video_hf
from ct_video_hf.cli import main
from ct_video_hf.dicom.report import Finding
from ct_video_hf.dicom.write import write_series
from ct_video_hf.errors import CTVideoError
from ct_video_hf.inference import render_report, write_html_report
from tests.support.prediction import SPACING, chest_hu, volume_of


@pytest.fixture(scope="module")
def predict(model_folder):
    return ct_video_hf.pipeline(model_folder, device="cpu", batch_size=8)


class Page(HTMLParser):
    """Elements that were closed in order, addresses that a browser would ask for, and words."""

    _VOID = ("meta", "img", "line", "circle", "polyline", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.words = [], [], []
        self.feed(text)
        assert self.open == [], self.open

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href", "data")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self._VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def picture(address):
    data = base64.b64decode(address.partition(",")[2])
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def test_the_page_needs_nothing_else_and_tells_the_result(predict, tmp_path):
    volume = volume_of(chest_hu(40))
    result = predict(volume, include_ids=True)
    path = write_html_report(volume, result, tmp_path / "deep" / "study.html")
    assert [file.name for file in path.parent.iterdir()] == ["study.html"]
    text = path.read_text()
    page = Page(text)
    assert "<script" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert page.addresses
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert "prefers-color-scheme: dark" in text
    assert f"{result['study_probability']:.3f}" in page.text
    assert "score (not calibrated) for “positive”" in page.text
    assert page.text.count("Not for clinical use") >= 2
    for clip in result["clips"]:
        assert f"{clip['score']:.4f}" in page.text
    assert not any(identifier in text for identifier in volume.slice_ids)


def test_pictures_are_those_of_the_key_slices(predict):
    volume = volume_of(chest_hu(40))
    result = predict(volume)
    keys = [result["key_slices"][0] | {"index": index} for index in (4, 28)]
    shown = []
    for key in keys:
        page = Page(render_report(volume, result | {"key_slices": [key]}))
        shown.append(picture(page.addresses[0]).astype(int))
    assert max(shown[0].shape) == 560
    assert (abs(shown[0] - shown[1]) > 40).sum() > 2000


def test_a_plane_of_oblong_pixels_is_shown_in_proportion(predict):
    volume = volume_of(chest_hu(40), (2.5, 2.8, 1.4))
    volume.hu[1:] = 40  # the whole plane counts as body
    volume.hu[0] = -1000
    grey = picture(Page(render_report(volume, predict(volume))).addresses[0])
    assert grey.shape[0] / grey.shape[1] == pytest.approx(2.0, rel=0.01)


def test_words_from_the_scan_cannot_become_markup(predict):
    volume = volume_of(chest_hu(40))
    hostile = "<img src=http://x.example/y onerror=alert(1)>"
    volume.report.findings.append(Finding("odd", "warning", hostile))
    volume.report.manufacturer = hostile
    page = Page(render_report(volume, predict(volume), title=hostile))
    assert not any("x.example" in address for address in page.addresses)
    assert page.text.count(hostile) >= 4  # as words


def test_a_result_of_another_scan_is_refused(predict, tmp_path):
    result = predict(volume_of(chest_hu(40)))
    with pytest.raises(CTVideoError, match="40 slices"):
        write_html_report(volume_of(chest_hu(30)), result, tmp_path / "p.html")
    assert not list(tmp_path.iterdir())


def test_relevance_along_the_body(predict):
    result = predict(volume_of(chest_hu(40)))
    along = np.array(result["slice_relevance"])
    assert along.shape == (40,)
    assert 0 <= along.min() <= along.max() <= max(clip["score"] for clip in result["clips"]) + 1e-4
    first = result["key_slices"][0]
    assert int(along.argmax()) == first["index"]
    assert along.max() == pytest.approx(first["score"] * first["relevance"], abs=1e-4)


def test_the_command_line_writes_a_page_a_study(model_folder, tmp_path, capsys):
    scans = tmp_path / "scans"
    for name in ("a", "b"):
        write_series(chest_hu(24), scans / name, key=name, spacing=SPACING, patient_id="MILLER")
    out = tmp_path / "html"
    words = ["predict", str(model_folder), str(scans), "--html", str(out), "--device", "cpu"]
    assert main([*words, "--quiet"]) == 0
    assert f"reports: {out}" in capsys.readouterr().out
    pages = sorted(out.iterdir())
    assert [path.name for path in pages] == ["a.html", "b.html"]
    assert all("MILLER" not in Path(path).read_text() for path in pages)


def test_a_callable_hears_of_slices_and_clips(predict, tmp_path):
    write_series(chest_hu(24), tmp_path / "a", key="a", spacing=SPACING)
    heard = []
    result = predict(tmp_path / "a", progress=lambda done, total: heard.append((done, total)))
    clips = len(result["clips"])
    assert heard[:25] == [(done, 24) for done in range(25)]
    assert heard[25] == (0, clips)
    assert heard[-1] == (clips, clips)
    json.dumps(result)

    class Stop(Exception):
        pass

    def stop(done, total):
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        predict(tmp_path / "a", progress=stop)


def test_no_colour_is_named_outside_of_the_palette():
    """Every colour of the page that stands on paper has a twin for the dark."""
    source = Path(ct_video_hf.__file__).parent / "inference" / "templates" / "report.html.jinja"
    light, dark = re.findall(r":root \{([^}]*)\}", source.read_text())
    names = [set(re.findall(r"--([\w-]+):", part)) for part in (light, dark)]
    assert names[0] == names[1]
