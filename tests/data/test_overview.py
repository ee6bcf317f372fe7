"""The overview of a set: what it counts and shows, and what it must not hold."""

import json
import re

import cv2
import numpy as np
import pytest

from ct_video_hf.cli import main
from ct_video_hf.data import PrepareOptions, load_prepared, prepare
from ct_video_hf.data.overview import describe_set, draw_contact_sheet
from ct_video_hf.data.overview_page import render_page
from tests.support.dicom_folders import write_folder_set


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    scans = write_folder_set(tmp_path_factory.mktemp("scans") / "in")
    (scans / "broken").mkdir()
    with (scans / "labels.csv").open("a") as table:
        table.write("broken,0,,,p9,train\n")
    return scans


@pytest.fixture(scope="module")
def folder(scans, tmp_path_factory):
    out = tmp_path_factory.mktemp("sets") / "set"
    prepare("folder", scans, out, options=PrepareOptions(size=64), progress=False)
    return out


def test_counts_and_clips(folder):
    overview = describe_set(folder, clips=2)
    assert sorted(overview.slices) == list(range(24, 30))
    assert overview.spacing.tolist() == [2.5] * 6
    assert overview.pixel == pytest.approx([0.75] * 6)
    assert overview.rejects == {"empty_folder": 1}
    assert overview.labels[0] == {
        "label": "label", "split": "train", "positive": 2, "negative": 2, "unknown": 0,
    }  # fmt: skip
    assert [clip.positive for clip in overview.clips] == [True, True, False, False]
    for clip in overview.clips:
        assert clip.marked == tuple(clip.positive and 4 <= n < 12 for n in clip.shown)
        assert clip.length == min(32, clip.slices)
        assert {picture.shape for picture in clip.pictures} == {(148, 148)}


def test_pictures_show_the_stored_slices(folder):
    """A slice of the sheet is the windowed slice of the volume."""
    clip = describe_set(folder, clips=1).clips[0]
    rows = load_prepared(folder, clip.split)
    row = next(r for r in rows if r["shape"][0] == clip.slices)
    hu = np.frombuffer(row["volume"], "<u2").reshape(row["shape"]).astype(float) - 1024
    plane = np.clip((hu[clip.shown[2]] + 1350) / 1500, 0, 1) * 255
    expected = cv2.resize(plane.astype(np.uint8), (148, 148), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(clip.pictures[2], expected)
    sheet = draw_contact_sheet([clip])
    left = 6 + 2 * (148 + 6)
    assert np.array_equal(sheet[6:154, left : left + 148, 0], expected)
    assert (sheet[155, left + 5] == (230, 159, 0)).all() == clip.marked[2]


def test_eight_bits_are_shown_as_they_are(scans, tmp_path):
    options = PrepareOptions(size=32, store_window=(40, 400))
    prepare("folder", scans, tmp_path / "set", options=options, progress=False)
    overview = describe_set(tmp_path / "set", clips=1)
    overview.summary["provenance"]["description"] = "See `a<b.csv`."
    assert "<p>See <code>a&lt;b.csv</code>.</p>" in render_page(overview)
    assert overview.window == (40.0, 400.0)
    assert "centre 40 HU, width 400 HU" in render_page(overview)


def test_the_page_stands_alone_and_names_nobody(folder, tmp_path, capsys):
    page, sheet = tmp_path / "set.html", tmp_path / "sheet.png"
    assert main(["inspect", str(folder), "--report", str(page), "--picture", str(sheet)]) == 0
    assert "positive clips" in capsys.readouterr().out
    assert cv2.imread(str(sheet)).shape == (2 * (26 + 3 * 158 + 6), 930, 3)
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"(?:https?:|src=\"(?!data:)|href=|<script|@import|url\()", text)
    assert "prefers-color-scheme: dark" in text
    plain = re.sub(r"data:image/png;base64,[^\"]*", "", text)
    data = load_prepared(folder, "all")
    secrets = [*data["study_id"][:], *data["patient_hash"][:], str(tmp_path), str(folder)]
    assert not [secret for secret in secrets if re.search(rf"\b{re.escape(secret)}\b", plain)]
    assert plain.count("<figure") == 6 * 6
    with pytest.raises(SystemExit):
        main(["inspect", str(folder), "--report", str(tmp_path / "set.pdf")])
    with pytest.raises(SystemExit):
        main(["inspect", str(folder / "studies"), "--report", str(page)])


def test_studies_too_short_for_a_clip(tmp_path, capsys, caplog):
    """A split without clips, and a set without any, are counted and shown all the same."""
    scans = write_folder_set(tmp_path / "scans", studies=3, slices=14)  # 14, 15; test: 16
    prepare("folder", scans, tmp_path / "set", options=PrepareOptions(size=32), progress=False)
    page, sheet = tmp_path / "set.html", tmp_path / "sheet.png"
    words = ["inspect", str(tmp_path / "set"), "--report", str(page)]
    assert main([*words, "--picture", str(sheet), "--json"]) == 0
    splits = json.loads(capsys.readouterr().out)["splits"]
    counts = ("studies", "clips", "studies_without_clips")
    assert [splits["train"][name] for name in counts] == [2, 0, 2]
    assert [splits["test"][name] for name in counts] == [1, 1, 0]
    assert "2 studies have no clip" in page.read_text(encoding="utf-8")
    assert not caplog.records
    (scans / "labels.csv").write_text("study,label\ns0,0\ns1,1\n")
    options = PrepareOptions(size=32, fractions=(1, 0, 0))
    prepare("folder", scans, tmp_path / "none", options=options, progress=False)
    words[1] = str(tmp_path / "none")
    assert main(words) == 0
    assert "No study has a clip" in page.read_text(encoding="utf-8")
    assert main([*words, "--picture", str(sheet)]) == 1
    assert "there is no clip to show" in capsys.readouterr().err
