"""RSNA STR PE: what train.csv may hold, and what becomes of it."""

import csv
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ct_video_hf import load_ct_dataset
from ct_video_hf.cli import main
from ct_video_hf.data.clips import CTClipDataset, build_clip_index
from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.label_choice import choose_labels
from ct_video_hf.data.loading import load_prepared, summarize_set
from ct_video_hf.data.manifest import read_manifest
from ct_video_hf.data.prepare_options import PrepareOptions
from ct_video_hf.data.rsna import rsna_pe_table
from ct_video_hf.data.rsna_labels import (
    EXAM_WEIGHTS,
    IMAGE_LABEL,
    OFFICIAL_LABELS,
    STUDY_LABELS,
    inconsistencies,
)
from ct_video_hf.data.sharing import refuse_public
from ct_video_hf.data.sources import prepare
from ct_video_hf.data.splits import assign_splits, split_patients
from ct_video_hf.dicom import read_ct
from tests.support.rsna_tree import (
    COLUMNS,
    hashed,
    rows_of,
    write_rows,
    write_rsna_tree,
    write_scan,
)

SMALL = PrepareOptions(size=32, salt="s", fractions=(0.5, 0.25, 0.25))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("rsna")
    return root, write_rsna_tree(root)


@pytest.fixture
def table_of(tree, tmp_path):
    """The labels table from changed rows."""
    root, rows = tree

    def make(change=None, columns=COLUMNS, **options):
        changed = [dict(row) for row in rows]
        changed = (change and change(changed)) or changed
        path = write_rows(tmp_path / "train.csv", changed, columns)
        return rsna_pe_table(root, labels=path, **options)

    return make


def of_study(rows, seed):
    return [row for row in rows if row["StudyInstanceUID"] == hashed(seed)]


# ---- the table -----------------------------------------------------------------------------------


def test_studies_in_the_order_of_their_rows(tree):
    root, rows = tree
    table = rsna_pe_table(root)
    assert [entry.study for entry in table.entries] == [hashed(seed) for seed in range(8)]
    assert [entry.labels for entry in table.entries] == [
        (float(seed % 3 == 1),) for seed in range(8)
    ]
    assert table.label_names == ("pe",)
    assert not table.has_patients
    first = table.entries[0]
    assert first.path == root / "train" / hashed(0) / hashed(0, 0)
    assert (first.row, table.entries[1].row) == (2, 2 + len(of_study(rows, 0)))


def test_data_dir_may_be_train_itself_and_the_table_elsewhere(tree, tmp_path):
    root, _ = tree
    assert rsna_pe_table(root / "train") == rsna_pe_table(root)
    moved = tmp_path / "labels.csv"
    shutil.copy(root / "train.csv", moved)
    assert rsna_pe_table(root / "train", labels=moved) == rsna_pe_table(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CTDataError, match=r"no train\.csv in .* or beside it"):
        rsna_pe_table(tmp_path / "empty")
    with pytest.raises(CTDataError, match="does not exist"):
        rsna_pe_table(root, labels=tmp_path / "none.csv")


def test_targets(tree):
    root, rows = tree
    official = rsna_pe_table(root, target="official")
    assert official.label_names == OFFICIAL_LABELS == (IMAGE_LABEL, *EXAM_WEIGHTS)
    assert official.label_weights[1:] == tuple(EXAM_WEIGHTS.values())
    every = rsna_pe_table(root, target="all")
    assert every.label_names == (IMAGE_LABEL, *STUDY_LABELS)
    for table in (official, every):
        for seed, entry in enumerate(table.entries):
            row = of_study(rows, seed)[0]
            expected = [float(seed % 3 == 1), *(row[name] for name in table.label_names[1:])]
            assert list(entry.labels) == expected


def test_weights_of_the_exam_labels_add_up_to_one():
    # the published ones do, to their last digits; with the image weight they are the metric's
    assert sum(EXAM_WEIGHTS.values()) == pytest.approx(1.0, abs=1e-8)
    assert len(EXAM_WEIGHTS) == 9


def test_rows_in_any_order_say_the_same(table_of):
    def shuffled(rows):
        rest = rows[1:]
        np.random.default_rng(0).shuffle(rest)
        return [rows[0], *rest]

    told = {entry.study: entry for entry in table_of(shuffled).entries}
    ids = [f"{hashed(seed, 0, z)}" for seed in (4,) for z in range(12)]
    for entry in table_of().entries:
        assert told[entry.study].labels == entry.labels
    marks = told[hashed(4)].marks.resolve(ids)
    assert marks.tolist() == [0] * 6 + [1] * 6


def test_splits_of_the_paper_start_from_the_order_of_the_rows(tree):
    root, _ = tree
    ids = [hashed(seed) for seed in range(8)]
    table = rsna_pe_table(root)
    assert assign_splits(table, (0.5, 0.25, 0.25)) == list(
        split_patients(ids, (0.5, 0.25, 0.25)).values()
    )


def test_leaving_studies_out_moves_no_other_study_between_splits(tree):
    root, _ = tree
    fractions = (0.5, 0.25, 0.25)
    whole, part = rsna_pe_table(root), rsna_pe_table(root, indeterminate="drop")
    names = [entry.study for entry in whole.entries]
    before = dict(zip(names, assign_splits(whole, fractions), strict=True))
    names.remove(hashed(5))
    assert [entry.study for entry in part.entries] == names
    assert assign_splits(part, fractions) == [before[name] for name in names]


def test_indeterminate_studies(tree):
    root, _ = tree
    known = rsna_pe_table(root).entries[5]
    assert known.labels == (0.0,)
    ids = [hashed(5, 0, z) for z in range(8)]
    assert known.marks.resolve(ids).tolist() == [0] * 8
    unknown = rsna_pe_table(root, indeterminate="unknown")
    assert unknown.entries[5].labels == (-1.0,)
    assert unknown.entries[5].marks.resolve(ids).tolist() == [-1] * 8
    assert unknown.entries[4] == rsna_pe_table(root).entries[4]
    official = rsna_pe_table(root, indeterminate="unknown", target="official").entries[5].labels
    place = OFFICIAL_LABELS.index("indeterminate")
    assert official == (*[-1.0] * place, 1.0, *[-1.0] * (9 - place))


# ---- flaws ---------------------------------------------------------------------------------------


def setting(seed, **values):
    """A change of the rows of one study."""

    def change(rows):
        for row in of_study(rows, seed):
            row |= values

    return change


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (setting(1, negative_exam_for_pe=1), "PE on an image of an exam with negative_exam_for_pe"),
        (setting(1, indeterminate=1), "PE on an image of an exam with indeterminate"),
        (setting(1, rv_lv_ratio_gte_1=1, rv_lv_ratio_lt_1=1), "not exactly one RV/LV ratio"),
        (setting(1, rv_lv_ratio_gte_1=0, rv_lv_ratio_lt_1=0), "not exactly one RV/LV ratio"),
        (setting(1, central_pe=0, leftsided_pe=0, rightsided_pe=0), "none of central, left, right"),
        (setting(1, chronic_pe=1, acute_and_chronic_pe=1), "both chronic_pe and acute_and_chronic"),
        (setting(0, negative_exam_for_pe=0), "not exactly one of negative and indeterminate"),
        (setting(0, indeterminate=1), "not exactly one of negative and indeterminate"),
        (setting(0, central_pe=1), "central_pe without PE on any image"),
        (setting(0, chronic_pe=1), "chronic_pe without PE on any image"),
        (setting(0, rv_lv_ratio_lt_1=1), "rv_lv_ratio_lt_1 without PE on any image"),
        (setting(1, pe_present_on_image=0), "without PE on any image"),
    ],
)
def test_contradicting_labels(table_of, change, rule, caplog):
    with pytest.raises(CTDataError, match=rule) as told:
        table_of(change)
    row = str(2 if change.__closure__[0].cell_contents == 0 else 10)
    assert f"row {row}; 1 studies" in str(told.value)
    assert hashed(0) not in str(told.value)
    assert "say contradictions keep or drop" in str(told.value)
    assert len(table_of(change, contradictions="keep").entries) == 8
    assert "1 studies with contradicting labels are kept" in caplog.text
    kept = table_of(change, contradictions="drop")
    assert len(kept.entries) == 7
    assert len(kept.draw_from) == 8


def test_consistency_equals_the_rules_one_by_one():
    random = np.random.default_rng(0)
    names = list(EXAM_WEIGHTS)
    exams = random.random((500, 9)) < 0.3
    seen = random.random(500) < 0.5
    broken = np.zeros(500, bool)
    for studies in inconsistencies(seen, dict(zip(names, exams.T, strict=True))).values():
        broken |= studies
    for pe, row, found in zip(seen, exams, broken, strict=True):
        label = dict(zip(names, row.tolist(), strict=True))
        whole = label["negative_exam_for_pe"] + label["indeterminate"]
        ratios = label["rv_lv_ratio_gte_1"] + label["rv_lv_ratio_lt_1"]
        sides = label["central_pe"] + label["leftsided_pe"] + label["rightsided_pe"]
        ages = label["chronic_pe"] + label["acute_and_chronic_pe"]
        if pe:
            holds = ratios == 1 and sides >= 1 and ages < 2 and whole == 0
        else:
            holds = whole == 1 and ratios + sides + ages == 0
        assert holds != found


def test_study_columns_that_differ_between_rows(table_of):
    def change(rows):
        rows[3]["qa_motion"] = 1

    with pytest.raises(CTDataError, match=r"qa_motion differs between rows of a study \(row 2"):
        table_of(change)


def test_all_flaws_are_told_at_once(table_of):
    def change(rows):
        setting(1, negative_exam_for_pe=1)(rows)
        setting(0, central_pe=1)(rows)
        for number, row in enumerate(rows):
            row["Split"] = ("train", "valid", "test")[number % 3]

    with pytest.raises(CTDataError) as told:
        table_of(change, (*COLUMNS, "Split"))
    for part in ("in 8 of 8 studies", "an exam with negative", "central_pe without"):
        assert part in str(told.value)


def test_a_split_column(table_of):
    def change(rows):
        for row in rows:
            row["Split"] = "valid" if row["StudyInstanceUID"] == hashed(2) else "train"

    entries = table_of(change, (*COLUMNS, "Split")).entries
    assert Counter(entry.split for entry in entries) == {"train": 7, "validation": 1}
    assert entries[2].split == "validation"

    def leak(rows):
        change(rows)
        rows[1]["Split"] = "test"

    with pytest.raises(CTDataError, match=r"in several splits, in 1 of 8 studies; row 3 differ"):
        table_of(leak, (*COLUMNS, "Split"), contradictions="keep")

    def slip(rows):
        change(rows)
        rows[1]["Split"] = "trian"

    with pytest.raises(CTDataError, match="unknown split in row 3"):
        table_of(slip, (*COLUMNS, "Split"))


def test_repeated_rows_count_once(table_of, caplog):
    plain = table_of()
    assert table_of(lambda rows: [*rows, rows[4], rows[4], rows[20]]) == plain
    assert "3 rows repeat another" in caplog.text


def broken(place, **values):
    def change(rows):
        rows[place] |= values

    return change


def doubled(rows):
    return [*rows, rows[4] | {IMAGE_LABEL: 1 - rows[4][IMAGE_LABEL]}]


def moved_series(rows):
    rows[-1]["SeriesInstanceUID"] = rows[0]["SeriesInstanceUID"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (doubled, r"1 slices are named more than once and the rows differ, in rows 6, "),
        (moved_series, "a series is in two studies, row "),
        (broken(3, pe_present_on_image=""), "pe_present_on_image is empty in row 5"),
        (broken(3, StudyInstanceUID=""), "StudyInstanceUID is empty in row 5"),
        (broken(3, SOPInstanceUID=""), "SOPInstanceUID is empty in row 5"),
        (broken(3, qa_motion=2), "qa_motion is 2 in row 5"),
        (broken(3, qa_motion="yes"), "qa_motion is 'yes' in row 5"),
        (broken(3, qa_motion="0.5"), r"qa_motion is '0\.5' in row 5"),
    ],
)
def test_slips_are_named_with_their_row(table_of, change, expected):
    with pytest.raises(CTDataError, match=expected):
        table_of(change)


def test_columns(table_of):
    few = (*COLUMNS[:4], "negative_exam_for_pe")
    assert len(table_of(columns=few).entries) == 8
    with pytest.raises(CTDataError, match="no column 'indeterminate', 'chronic_pe'"):
        table_of(columns=few, target="official")
    with pytest.raises(CTDataError, match="no column 'indeterminate'"):
        table_of(columns=few, indeterminate="drop")
    with pytest.raises(CTDataError, match="no column 'pe_present_on_image'; found StudyInstance"):
        table_of(columns=COLUMNS[:3])
    with pytest.raises(CTDataError, match="target is 'PE'; known are pe, official, all"):
        table_of(target="PE")


def test_empty_table(tree, tmp_path):
    path = write_rows(tmp_path / "train.csv", [])
    with pytest.raises(CTDataError, match=r"train\.csv has no rows"):
        rsna_pe_table(tree[0], labels=path)


def test_studies_that_are_not_there(tree, tmp_path, caplog):
    _, rows = tree
    part = tmp_path / "train"
    part.mkdir()
    for seed in (0, 1, 9):
        (part / hashed(seed)).mkdir()
    write_rows(tmp_path / "train.csv", rows)
    with pytest.raises(CTDataError, match=r"6 of 8 studies of train\.csv are not in train"):
        rsna_pe_table(part)
    table = rsna_pe_table(part, missing_scans="drop")
    assert [entry.study for entry in table.entries] == [hashed(0), hashed(1)]
    assert "1 entries of train are not in train.csv" in caplog.text


# ---- prepared ------------------------------------------------------------------------------------


def marks_of(rows, row):
    """Slice labels of a prepared row, found again in the table."""
    image = {r["SOPInstanceUID"]: r[IMAGE_LABEL] for r in rows}
    return [image[name] for name in row["slice_ids"]]


def whole(clip, **_):
    """A transform that changes nothing."""
    return clip


def test_prepared_through_the_command_line(tree, tmp_path, capsys):
    root, rows = tree
    words = ["prepare", "rsna_pe", "--data-dir", str(root), "--out", str(tmp_path / "set")]
    words += ["--size", "32", "--slice-ids", "--quiet", "--fractions", "0.5", "0.25", "0.25"]
    assert main([*words, "--target", "official"]) == 0
    assert "8 studies (train 4, validation 2, test 2)" in capsys.readouterr().out
    data = load_ct_dataset(tmp_path / "set", "all")
    labels = choose_labels(tmp_path / "set", data)
    assert labels.names == OFFICIAL_LABELS
    assert labels.weights == (0.07361963, *EXAM_WEIGHTS.values())
    assert labels.finding == 0
    with (root / "train.csv").open(encoding="utf-8") as stream:
        told = {row["StudyInstanceUID"]: row for row in csv.DictReader(stream)}
    for seed, row in enumerate(data):
        volume = read_ct(root / "train" / hashed(seed), in_plane=32)
        stored = np.frombuffer(row["volume"], "<u2").reshape(row["shape"])
        assert np.array_equal(stored.astype(int) - 1024, volume.hu)
        table = np.reshape(row["slice_labels"], (-1, 10))
        assert table[:, 0].tolist() == marks_of(rows, row)
        assert row["study_id"] == hashed(seed)
        assert row["study_label"] == int(seed % 3 == 1) == row["labels"][0]
        exam = [float(told[hashed(seed)][name]) for name in labels.names[1:]]
        assert row["labels"][1:] == exam
    told = summarize_set(tmp_path / "set", num_frames=8)["splits"]
    assert sum(part["positive_studies"] for part in told.values()) == 3  # not "negative_exam" too
    assert sum(part["positive_clips"] for part in told.values()) < 10
    index = build_clip_index(data, 8, 4, finding=labels.finding)
    clips = CTClipDataset(data, index, whole, labels)
    seen = Counter()
    for clip in clips:
        row, start = data[clip["study_index"]], clip["clip_start"]
        part = marks_of(rows, row)[start : start + 8]
        assert clip["labels"].tolist() == [float(sum(part) >= 4), *row["labels"][1:]]
        assert len(clip["pixel_values"]) == len(part)
        seen[sum(part) >= 4, row["labels"][0]] += 1
    assert min(seen[True, 1.0], seen[False, 1.0], seen[False, 0.0]) > 0


def test_card_and_guard(tree, tmp_path):
    root, _ = tree
    prepare("rsna_pe", root, tmp_path / "set", options=SMALL, progress=False)
    card = (tmp_path / "set" / "README.md").read_text()
    for words in (
        "non-commercial use",
        "10.1148/ryai.2021200254",
        "must not be redistributed",
        "Not to be made public",
        "| train | 4 |",
        "Not for clinical use",
    ):
        assert words in card
    with pytest.raises(CTDataError, match="not pushed to a public repo: images of rsna_pe"):
        refuse_public(read_manifest(tmp_path / "set"), private=False)


def test_by_name(tree, tmp_path):
    root, rows = tree
    options = {"data_dir": root, "cache_dir": tmp_path, "size": 32, "progress": False}
    data = load_ct_dataset("rsna_pe", "all", slice_ids=True, **options)
    assert [row["slice_labels"] for row in data] == [marks_of(rows, row) for row in data]
    assert len(load_ct_dataset("rsna_pe", "all", indeterminate="drop", **options)) == 7
    with pytest.raises(CTDataError, match="rsna_pe has no option tagret; known are labels, target"):
        load_ct_dataset("rsna_pe", tagret="pe", **options)


def test_slices_without_row_and_rows_without_slice(tree, tmp_path):
    root, rows = tree
    copy = tmp_path / "train"
    shutil.copytree(root / "train", copy)
    os.remove(next((copy / hashed(0)).rglob(f"{hashed(0, 0, 0)}.dcm")))  # row without slice
    unlisted = hashed(1, 0, 8)
    write_rows(tmp_path / "train.csv", [r for r in rows if r["SOPInstanceUID"] != unlisted])
    out = tmp_path / "set"
    assert prepare("rsna_pe", copy, out, options=SMALL, progress=False).rejected == 2
    with (out / "rejects.csv").open() as stream:
        rejects = {row["study"]: row for row in csv.DictReader(stream)}
    assert "1 of 8 slices with a label are not among the 7" in rejects[hashed(0)]["reason"]
    assert "1 of 9 slices of the volume have no label" in rejects[hashed(1)]["reason"]
    assert {row["code"] for row in rejects.values()} == {"bad_labels"}
    options = {"missing_slices": "ignore", "unlisted_slices": "unknown"}
    prepare("rsna_pe", copy, tmp_path / "all", options=SMALL, progress=False, **options)
    data = load_prepared(tmp_path / "all", "all")
    assert data[0]["slice_labels"] == [0] * 7
    assert data[1]["slice_labels"] == [0] * 5 + [1] * 3 + [-1]


def test_several_series_of_a_study(tmp_path):
    rows = write_rsna_tree(tmp_path, studies=4)
    names = write_scan(tmp_path / "train", 1, 8, series=1)
    second = rows_of(1, "positive", names, series=1)
    for row in second:
        row[IMAGE_LABEL] = 0
    write_rows(tmp_path / "train.csv", rows + second)
    table = rsna_pe_table(tmp_path)
    told = {entry.study: entry for entry in table.entries}
    assert len(table.entries) == 5
    one, two = (told[f"{hashed(1)}/{hashed(1, series)}"] for series in (0, 1))
    assert (one.labels, two.labels) == ((1.0,), (0.0,))
    assert one.patient_key == two.patient_key == hashed(1)
    summary = prepare("rsna_pe", tmp_path, tmp_path / "set", options=SMALL, progress=False)
    assert summary.studies == 5
    splits = {row["study_id"]: row["split"] for row in load_prepared(tmp_path / "set", "all")}
    assert splits[one.study] == splits[two.study]


# ---- real ----------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.skipif("CT_VIDEO_HF_REAL_DATA" not in os.environ, reason="CT_VIDEO_HF_REAL_DATA unset")
def test_the_demo_of_the_published_repository(tmp_path):
    demo = Path(os.environ["CT_VIDEO_HF_REAL_DATA"]) / "rsna_demo"
    with pytest.raises(CTDataError) as told:
        prepare("rsna_pe", demo, tmp_path / "set", labels=demo / "demo.csv", progress=False)
    for part in (
        "demo.csv: slices of one study are in several splits, in 1 of 1 studies; rows 6, 7, ",
        "labels contradict each other: negative_exam_for_pe differs between rows of a study",
        "PE on an image of an exam with negative_exam_for_pe (row 2; 1 studies)",
    ):
        assert part in str(told.value)
    assert not (tmp_path / "set").exists()
    with (demo / "demo.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    table = write_rows(tmp_path / "train.csv", rows, (*COLUMNS[:4], "negative_exam_for_pe"))
    options = PrepareOptions(size=64, slice_ids=True, fractions=(1.0, 0.0, 0.0))
    prepare(
        "rsna_pe",
        demo / "train",
        tmp_path / "set",
        options=options,
        labels=table,
        contradictions="keep",
        progress=False,
    )
    row = load_prepared(tmp_path / "set", "all")[0]
    image = {r["SOPInstanceUID"]: int(r[IMAGE_LABEL]) for r in rows}
    assert row["slice_labels"] == [image[name] for name in row["slice_ids"]]
    assert sum(row["slice_labels"]) == 6
    assert row["shape"] == [12, 64, 64]
