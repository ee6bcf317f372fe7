"""From annotations to nodules and to labels of slices, against counting by hand."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace

import numpy as np
import pytest

from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.lidc import (
    TARGETS,
    LabelRule,
    group_annotations,
    nodule_rows,
    scan_row,
    stretch_rows,
    study_label,
)
from ct_video_hf.data.lidc.rules import rate_nodule
from ct_video_hf.data.lidc.tables import outlined_labels
from ct_video_hf.data.lidc.tree import SeriesPlace
from ct_video_hf.data.lidc.xml_file import parse_lidc_xml
from tests.support.lidc import (
    SPACING,
    Line,
    Mark,
    Scan,
    nodule,
    positive,
    small,
    square,
    three_of_four,
    xml_text,
)

SCAN = Scan("labels", slices=30)
IDS = [SCAN.slice_uid(index) for index in range(SCAN.slices)]
Z = np.array([SCAN.z(index) for index in range(SCAN.slices)])


def read(readers, scan=SCAN):
    return parse_lidc_xml(xml_text(scan, readers).encode(), "7.xml")


def labels(readers, rule=None, ids=IDS, z=Z, scan=SCAN):
    label, marks = study_label(read(readers, scan), rule or LabelRule())
    return label, marks.resolve(ids, z).tolist()


CONSENSUS = LabelRule(rule="consensus")


# ---- the two rules -------------------------------------------------------------------------------


def test_annotations_of_different_nodules_add_up_in_the_papers_rule_only():
    readers = [[nodule("1", 3, 9)], [nodule("2", 5, 12)], [nodule("3", 8, 20, column=25)], []]
    assert labels(readers) == (1.0, positive(30, (8, 9)))
    assert labels(readers, CONSENSUS) == (0.0, [0] * 30)


def test_three_annotations_of_one_reader_are_enough_for_the_paper_only():
    readers = [[nodule(name, 4, 6) for name in "123"], [], [], []]
    assert labels(readers) == (1.0, positive(30, (4, 6)))
    assert labels(readers, CONSENSUS) == (0.0, [0] * 30)


def test_slices_between_outlines_are_covered():
    gappy = Mark("1", [Line(2, square(10, 12)), Line(8, square(10, 12))])
    readers = [[gappy], [nodule("2", 1, 9)], [nodule("3", 1, 9)], []]
    for rule in (None, CONSENSUS):
        assert labels(readers, rule) == (1.0, positive(30, (2, 8)))


def test_the_order_of_outlines_in_the_file_does_not_matter():
    mark = nodule("1", 3, 9)
    turned = Mark("1", list(mark.lines)[::-1])
    assert labels([[turned], [turned], [mark]]) == (1.0, positive(30, (3, 9)))


def test_consensus_asks_for_three_readers_of_one_nodule_on_the_slice():
    readers = [[nodule("1", 3, 9)], [nodule("2", 5, 12)], [nodule("3", 8, 20)], [nodule("4", 1, 8)]]
    assert labels(readers, CONSENSUS) == (1.0, positive(30, (5, 9)))
    two = replace(CONSENSUS, readers=2)
    assert labels(readers, two) == (1.0, positive(30, (3, 12)))
    four = replace(CONSENSUS, readers=4)
    assert labels(readers, four) == (1.0, positive(30, (8, 8)))


def test_a_reader_with_two_pieces_of_a_nodule_counts_once_and_covers_both():
    pieces = [nodule("1a", 3, 5), nodule("1b", 9, 11)]
    readers = [pieces, [nodule("2", 3, 11)], [nodule("3", 3, 11)]]
    assert len(group_annotations(read(readers).annotations)) == 1
    assert labels(readers, CONSENSUS) == (1.0, positive(30, (3, 5), (9, 11)))
    assert labels([*readers[:2], []], CONSENSUS) == (0.0, [0] * 30)


def test_small_nodules_other_lesions_single_points_and_holes_make_no_label():
    point = [Line(2, [(12, 14)])]
    hole = [Line(5, square(11, 13, 3), "FALSE")]
    large = Mark("1", [*point, *nodule("1", 4, 6).lines, *hole])
    readers = [[large, small("9", 20)]] * 3
    assert labels(readers) == (1.0, positive(30, (4, 6)))
    assert labels([[small("9", 20)]] * 4) == (0.0, [0] * 30)


def test_a_scan_that_nobody_marked_is_negative():
    for target in ("nodule", "malignancy"):
        assert labels([[], [], [], []], LabelRule(target)) == (0.0, [0] * 30)


def counted_by_hand(readers, least=3):
    """The paper's rule, slice by slice, on indices alone."""
    ends = [
        (min(line.index for line in mark.lines), max(line.index for line in mark.lines))
        for marks in readers
        for mark in marks
        if len(mark.lines[0].points) > 1
    ]
    return [int(sum(a <= i <= b for a, b in ends) >= least) for i in range(SCAN.slices)]


@pytest.mark.parametrize("seed", range(12))
def test_random_scans_against_counting_by_hand(seed):
    draw = random.Random(seed)
    readers = []
    for reader in range(draw.choice([3, 4, 8])):
        marks = []
        for number in range(draw.randrange(4)):
            low = draw.randrange(25)
            marks.append(nodule(f"{reader}-{number}", low, low + draw.randrange(5)))
        marks.append(small(f"{reader}-s", draw.randrange(30)))
        readers.append(marks)
    expected = counted_by_hand(readers)
    assert labels(readers) == (float(any(expected)), expected)
    # the label is known before the slices are
    for target in TARGETS:
        for rule in (LabelRule(target), LabelRule(target, readers=1)):
            label, marks = labels(readers, rule)
            assert (label == 1.0) == (1 in marks)


# ---- nodules -------------------------------------------------------------------------------------


def test_nodules_are_what_shares_a_pixel_on_a_slice():
    together = [[nodule("1", 3, 5, column=5)], [nodule("2", 5, 9, column=9)]]  # corners touch
    apart = [[nodule("1", 3, 5, column=5)], [nodule("2", 5, 9, column=10)]]
    above = [[nodule("1", 3, 5, column=5)], [nodule("2", 6, 9, column=5)]]
    within = [[nodule("1", 3, 5, column=5, size=20)], [nodule("2", 4, 4, column=12, row=20)]]
    for readers, count in ((together, 1), (apart, 2), (above, 2), (within, 1)):
        assert len(group_annotations(read(readers).annotations)) == count


def test_chains_are_one_nodule_and_order_is_by_height():
    chain = [[nodule("1", 8, 9, column=4)], [nodule("2", 8, 9, column=7)]]
    chain += [[nodule("3", 8, 9, column=10)], [nodule("low", 2, 3, column=4)]]
    nodules = group_annotations(read(chain).annotations)
    assert [[a.name for a in n.annotations] for n in nodules] == [["low"], ["1", "2", "3"]]
    assert [n.readers for n in nodules] == [1, 3]


def test_a_nodule_in_mm():
    readers = [[nodule("1", 4, 6, column=10, row=12, size=5)]]
    place = SeriesPlace(
        path=None, series_uid=SCAN.series, study_uid=SCAN.study, patient="p", example="1.dcm",
        pixel_mm=(0.8, 0.5), origin=(-90.0, -160.0, 0.0), orientation=(1, 0, 0, 0, 1, 0),
    )  # fmt: skip
    row = nodule_rows(read(readers), place=place)[0]
    assert (row["row"], row["column"]) == (14.0, 12.0)  # the middle of 12..16 and 10..14
    assert row["x_mm"] == pytest.approx(-90 + 12 * 0.5)
    assert row["y_mm"] == pytest.approx(-160 + 14 * 0.8)
    assert row["z_mm"] == pytest.approx(SCAN.z(5))
    # from corner to corner 4 * sqrt(2) pixels, less the pixel that the line runs outside
    assert row["diameter_pixels"] == pytest.approx(4 * 2**0.5 - 1, abs=1e-3)
    assert row["diameter_mm"] == pytest.approx((4 * 2**0.5 - 1) * 0.65, abs=1e-3)
    assert (row["outlined_slices"], row["readers"], row["malignancy_of_each"]) == (3, 1, "3")
    bare = nodule_rows(read(readers))[0]
    assert (bare["x_mm"], bare["diameter_mm"], bare["z_mm"]) == (None, None, row["z_mm"])


# ---- ratings as targets --------------------------------------------------------------------------


def rated(*values, target="malignancy"):
    return [[nodule(f"{n}", 4, 6, **{target: value})] for n, value in enumerate(values)]


@pytest.mark.parametrize(
    ("target", "values", "expected"),
    [
        ("malignancy", (4, 4, 2), 1),
        ("malignancy", (2, 2, 4), 0),
        ("malignancy", (2, 3, 4), -1),
        ("malignancy", (0, 0, 4), 1),
        ("malignancy", (0, 0, 0), -1),
        ("texture", (5, 5, 4), 1),
        ("spiculation", (1, 1, 2), 0),
        ("calcification", (6, 6, 3), 0),
        ("calcification", (3, 4, 6), 1),
        ("calcification", (3, 3, 6, 6), -1),
        ("internalStructure", (1, 1, 4), 0),
        ("internalStructure", (2, 4, 1), 1),
    ],
)
def test_what_the_ratings_of_a_nodule_mean(target, values, expected):
    readers = rated(*values, target=target)
    assert rate_nodule(group_annotations(read(readers).annotations)[0], target) == expected
    label, marks = labels(readers, LabelRule(target))
    stretch = [expected * value for value in positive(30, (4, 6))]
    assert (label, marks) == ({1: 1.0, 0: 0.0, -1: None}[expected], stretch)
    kept = {"positive": (1.0, positive(30, (4, 6))), "negative": (0.0, [0] * 30)}
    for uncertain, said in kept.items():
        if expected == -1:
            assert labels(readers, LabelRule(target, uncertain=uncertain)) == said


def test_unrated_nodules_are_outlined_but_uncertain():
    readers = [[Mark("1", nodule("1", 4, 6).lines, None)] for _ in range(3)]
    assert labels(readers) == (1.0, positive(30, (4, 6)))
    assert labels(readers, LabelRule("malignancy"))[0] is None
    assert scan_row(read(readers), LabelRule())["unrated_annotations"] == 3


def test_malignant_and_uncertain_nodules_in_one_scan():
    readers = [
        [nodule(f"{n}", 4, 6, malignancy=5), nodule(f"{n}b", 6, 8, column=25, malignancy=3)]
        for n in range(3)
    ]
    expected = positive(30, (4, 6))
    expected[7] = expected[8] = -1
    assert labels(readers, LabelRule("malignancy")) == (1.0, expected)


def test_nodules_of_two_readers_are_not_rated():
    readers = rated(5, 5)
    assert labels(readers, LabelRule("malignancy")) == (0.0, [0] * 30)
    rule = LabelRule("malignancy", without_nodule="exclude")
    assert study_label(read(readers), rule)[0] is None
    assert labels(readers, replace(rule, readers=2))[0] == 1.0
    assert labels(rated(1, 1, 1), rule)[0] == 0.0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"target": "size"}, "target is 'size'; known are nodule, subtlety"),
        ({"rule": "majority"}, "rule is 'majority'; known are paper, consensus"),
        ({"readers": 0}, "readers is 0"),
        ({"uncertain": "maybe"}, "uncertain is 'maybe'"),
        ({"without_nodule": "maybe"}, "without_nodule is 'maybe'"),
        ({"target": "malignancy", "rule": "paper"}, "the rule paper knows none"),
    ],
)
def test_rules_that_make_no_sense(options, expected):
    with pytest.raises(CTDataError, match=expected):
        LabelRule(**options)


# ---- from names and heights to the slices of a volume --------------------------------------------


def test_the_name_of_a_slice_decides_not_its_height():
    lying = Mark("1", [Line(4, square(10, 12), z_mm=SCAN.z(20)), Line(5, square(10, 12))])
    readers = [[lying], [nodule("2", 4, 5)], [nodule("3", 4, 5)]]
    assert labels(readers)[1] == positive(30, (4, 5))


def test_names_of_another_copy_of_the_series_are_placed_by_height():
    """As two readers of 0017 and one of 0659 have them."""
    other = [
        Mark(
            "1",
            [replace(line, slice_uid=f"2.25.9{line.index}") for line in nodule("1", 4, 9).lines],
        )
    ]
    readers = [other, [nodule("2", 4, 9)], [nodule("3", 4, 9)]]
    for rule in (None, CONSENSUS):
        assert labels(readers, rule) == (1.0, positive(30, (4, 9)))


def test_pylidc_knows_heights_alone():
    _, marks = study_label(read(three_of_four(4, 9)), LabelRule())
    nameless = marks.by_height()
    assert nameless.resolve(IDS, Z).tolist() == positive(30, (4, 9))
    assert nameless.resolve([None] * 30, Z + 1.0).tolist() == positive(30, (4, 9))
    # twice as many slices: those between are covered too
    fine = np.linspace(Z[0], Z[-1], 59)
    assert nameless.resolve([None] * 59, fine).tolist() == positive(59, (8, 18))


def test_a_scan_that_lacks_its_ends_keeps_its_labels():
    _, marks = study_label(read(three_of_four(4, 9)), LabelRule())
    assert marks.resolve(IDS[6:], Z[6:]).tolist() == [1] * 4 + [0] * 20
    assert marks.resolve(IDS[6:8], Z[6:8]).tolist() == [1, 1]
    assert marks.remarks(IDS, Z) == []
    assert marks.remarks(IDS[6:], Z[6:]) == [
        "2 of 6 outlined slices lie below or above the 24 slices of the scan: a part of it is "
        "missing"
    ]
    with pytest.raises(CTDataError, match="download it again"):
        replace(marks, incomplete="refuse").resolve(IDS[6:], Z[6:])
    with pytest.raises(CTDataError, match=r"6 of 6 .* and all its positive slices"):
        marks.resolve(IDS[12:], Z[12:])


def test_an_outline_between_two_slices_is_refused():
    _, marks = study_label(read(three_of_four(4, 9)), LabelRule())
    kept = [index for index in range(30) if index not in (8, 9, 10)]
    with pytest.raises(CTDataError, match="2 of 6 outlined slices lie between") as told:
        marks.resolve([IDS[index] for index in kept], Z[kept])
    assert "2.25." not in str(told.value)


def test_marks_travel_and_tell_themselves_apart():
    readers = [*three_of_four(4, 9), [nodule("other", 4, 9, column=25)]]
    _, marks = study_label(read(readers), LabelRule())
    assert pickle.loads(pickle.dumps(marks)) == marks  # noqa: S301
    assert study_label(read(readers), LabelRule())[1].said() == marks.said()
    for others, rule in (
        (readers[:4], LabelRule()),
        (readers, CONSENSUS),
        (readers, LabelRule(readers=2)),
    ):
        assert study_label(read(others), rule)[1].said() != marks.said()
    assert replace(marks, incomplete="refuse").said() != marks.said()


# ---- tables from the annotations alone -----------------------------------------------------------


def test_stretches_hold_for_every_slice_between():
    ends = Mark("1", [Line(2, square(10, 12)), Line(8, square(10, 12))])
    later = Mark("2", [Line(20, square(10, 12)), Line(24, square(10, 12))])
    readers = [[ends, later]] * 3
    rows = stretch_rows(read(readers), LabelRule())
    assert [(row["z_low_mm"], row["z_high_mm"], row["label"]) for row in rows] == [
        (SCAN.z(2), SCAN.z(8), 1),
        (SCAN.z(20), SCAN.z(24), 1),
    ]
    assert [row["outlined_slices"] for row in rows] == [2, 2]
    _, marks = labels(readers)
    held = [any(r["z_low_mm"] <= z <= r["z_high_mm"] for r in rows) for z in Z]
    assert marks == [int(value) for value in held]


@pytest.mark.parametrize("seed", range(8))
def test_tables_say_what_the_slices_get(seed):
    draw = random.Random(seed)
    readers = [
        [
            nodule(f"{n}{k}", low := draw.randrange(26), low + draw.randrange(4), malignancy=3 + k)
            for k in range(3)
        ]
        for n in range(4)
    ]
    for rule in (
        LabelRule(),
        CONSENSUS,
        LabelRule("malignancy"),
        LabelRule("malignancy", readers=1),
    ):
        scan = read(readers)
        label, marks = study_label(scan, rule)
        resolved = marks.resolve(IDS, Z)
        rows = stretch_rows(scan, rule)
        by_table = np.zeros(30, int)
        for row in rows:
            low, high = row["z_low_mm"], row["z_high_mm"]
            by_table[[low <= z <= high for z in Z]] = row["label"]
        np.testing.assert_array_equal(by_table, resolved)
        known = outlined_labels(scan, marks)
        assert all(
            resolved[round((z - SCAN.bottom_mm) / SPACING[0])] == v for z, v in known.items()
        )
        row = scan_row(scan, rule)
        assert row["positive_outlined_slices"] == sum(v == 1 for v in known.values())
        assert row["label"] == (None if label is None else int(label))
