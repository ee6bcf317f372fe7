from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.labels import table_of_studies
from ct_video_hf.data.labels_table import read_labels_table, read_labels_tables
from ct_video_hf.data.rows import slice_labels
from ct_video_hf.data.table_layout import TableLayout


@pytest.fixture
def scans(tmp_path):
    for name in ("a", "b", "c", "007"):
        (tmp_path / name).mkdir()
    return tmp_path


def write(folder, text, name="labels.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def read(folder, text, **options):
    return read_labels_table(write(folder, text), folder, **options)


def test_ranges_labels_and_defaults(scans):
    table = read(
        scans,
        "study,label,slice_start,slice_stop,patient,split,weight\n"
        "a,1,3,9,p1,train,2\n"
        "a,1,12,14,p1,train,2\n"
        "b,0,,,p2,val,\n"
        "007,1,,,p3,TEST,0.5\n",
    )
    a, b, seven = table.entries
    assert (a.labels, a.ranges, a.weight, a.row) == ((1.0,), ((3, 9), (12, 14)), 2.0, 2)
    assert (b.labels, b.ranges, b.split, b.weight) == ((0.0,), (), "validation", 1.0)
    assert (seven.study, seven.split, seven.path) == ("007", "test", scans / "007")
    assert table.label_names == ("label",)
    assert table.has_patients


def test_ranges_alone_make_positive_studies(scans):
    table = read(scans, "study,slice_start,slice_stop\na,0,5\nb,2,3\n")
    assert [entry.labels for entry in table.entries] == [(1.0,), (1.0,)]
    assert table.label_names == ("label",)


def test_two_lesions_may_share_their_slices(scans):
    table = read(scans, "study,label,slice_start,slice_stop\na,1,3,9\na,1,3,9\n")
    assert table.entries[0].ranges == ((3, 9), (3, 9))


def test_unlabelled_table(scans):
    table = read(scans, "study\na\nb\n")
    assert table.label_names == ()
    assert [entry.labels for entry in table.entries] == [(), ()]
    assert table.entries[0].patient_key == "a"


def test_multi_label(scans):
    text = "study,effusion,nodule\na,1,0\nb,0,0\n"
    table = read(scans, text, label_columns=["effusion", "nodule"])
    assert table.label_names == ("effusion", "nodule")
    assert [entry.labels for entry in table.entries] == [(1.0, 0.0), (0.0, 0.0)]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_other_formats_equal_csv(scans, kind):
    text = "study,label,slice_start,slice_stop,patient\na,1,3,9,007\nb,0,,,008\n"
    path = scans / f"labels.{kind}"
    frame = pd.DataFrame(
        {
            "study": ["a", "b"],
            "label": [1, 0],
            "slice_start": [3, None],  # a float column, as pandas makes it
            "slice_stop": [9, None],
            "patient": ["007", "008"],
        }
    )
    if kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    assert read_labels_table(path, scans) == read(scans, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("study,label,ladel\na,1,1\n", r"unknown column 'ladel'; known are study"),
        ("scan,label\na,1\n", r"no column 'study'; found 'scan', 'label'"),
        ("study;label\na;1\n", r"no column 'study'.*separated by commas"),
        ("study,label\na,1\nzz,0\n", r"1 of 2 scans are not in the data folder, row\(s\) 3"),
        ("study,label\na,1\nb,2\n", r"row 3: label is '2'; labels are 0 or 1"),
        ("study,label\na,yes\n", r"row 2: label is 'yes'"),
        ("study,label\na,0.5\n", r"row 2: label is '0.5'"),
        ("study,label\na,1\nb,0\na,1\n", r"row 4: the study is in row 2 already"),
        ("study,label\na,1\na,0\n", r"row 3: label 0.0 contradicts 1.0 in row 2"),
        ("study,label\na,1\n./a,1\n", r"row 3: './a' is the same scan as 'a' in row 2"),
        ("study,label\na,1\nb,\n", r"1 of 2 studies have no label, row\(s\) 3"),
        ("study,label\n,1\n", r"row 2: the study is empty"),
        ("study,label\n/etc,1\n", r"row 2: the study is an absolute path"),
        ("study,label\nC:\\x,1\n", r"row 2: the study is an absolute path"),
        ("study,label,split\na,1,trian\n", r"row 2: split is 'trian'; known are train"),
        (
            "study,label,patient,split\na,1,p,train\nb,0,p,test\n",
            r"row 3: the patient is in 'test' here and in 'train' in row 2",
        ),
        (
            "study,label,patient,slice_start,slice_stop\na,1,p,1,2\na,1,q,3,4\n",
            r"row 3: patient 'q' contradicts 'p' in row 2",
        ),
        ("study,label,slice_start\na,1,3\n", r"slice_start and slice_stop go together"),
        ("study,label,slice_start,slice_stop\na,1,3,\n", r"row 2: slice range '3' to None"),
        ("study,label,slice_start,slice_stop\na,1,3.5,8\n", r"row 2: slice range '3.5' to '8'"),
        ("study,label,slice_start,slice_stop\na,1,8,8\n", r"row 2: slice range 8 to 8 is empty"),
        ("study,label,slice_start,slice_stop\na,1,-1,8\n", r"row 2: .* negative"),
        ("study,label,slice_start,slice_stop\na,0,1,8\n", r"row 2: label 0 with a slice range"),
        (
            "study,label,slice_start,slice_stop\na,1,1,8\na,1,,\n",
            r"row 3: the study is in row 2 already",
        ),
        ("study,slice_start,slice_stop\na,1,8\nb,,\n", r"1 of 2 studies have no label column"),
        ("study,label,weight\na,1,0\n", r"row 2: weight is '0'"),
        ("study,label,weight\na,1,inf\n", r"row 2: weight is 'inf'"),
        ("study,label\n", r"has no rows"),
        ("", r"has no rows"),
        ("study,label,label\na,1,0\n", r"has several columns 'label'"),
        ("study,label\nb,0\na,1,0\n", r"row 3 has 3 cells, and there are 2 columns"),
    ],
)
def test_slips_are_named_with_their_row(scans, text, expected):
    with pytest.raises(CTDataError, match=expected):
        read(scans, text)


def test_cells_that_a_spreadsheet_adds_or_leaves_out(scans):
    table = read(scans, "study,label,patient\na,1\n\nb,0,p,,\n")
    found = [(entry.study, entry.labels, entry.patient) for entry in table.entries]
    assert found == [("a", (1.0,), None), ("b", (0.0,), "p")]


def test_multi_label_slips(scans):
    with pytest.raises(CTDataError, match="no label column 'nodule'"):
        read(scans, "study,effusion\na,1\n", label_columns=["effusion", "nodule"])
    with pytest.raises(CTDataError, match="row 2: some of the study's labels are empty"):
        read(scans, "study,x,y\na,1,\n", label_columns=["x", "y"])
    text = "study,x,y,slice_start,slice_stop\na,1,1,0,3\n"
    with pytest.raises(CTDataError, match="with 2 labels, a column slice_label has to say"):
        read(scans, text, label_columns=["x", "y"])


def test_empty_labels_may_be_taken_for_unknown(scans):
    layout = TableLayout(label_columns=("x", "y"), empty_labels="unknown")
    table = read(scans, "study,x,y\na,1,\nb,,\nc,0,0\n", layout=layout)
    assert [entry.labels for entry in table.entries] == [(1.0, -1.0), (-1.0, -1.0), (0.0, 0.0)]
    table = read(scans, "study,label\na,1\nb,\n", layout=TableLayout(empty_labels="unknown"))
    assert [entry.labels for entry in table.entries] == [(1.0,), (-1.0,)]


RANGES = "study,x,y,slice_start,slice_stop,slice_label\n"


def test_slice_ranges_of_several_labels(scans):
    text = RANGES + "a,1,1,3,5,x\na,1,1,4,9,y\nb,0,1,2,3,y\nc,0,1,,,\n007,,0,1,2,x\n"
    table = read(scans, text, label_columns=["x", "y"])
    a, b, c, seven = table.entries
    assert (a.ranges, a.range_labels) == (((3, 5), (4, 9)), (0, 1))
    assert (b.labels, b.ranges, b.range_labels) == ((0.0, 1.0), ((2, 3),), (1,))
    assert (c.labels, c.ranges) == ((0.0, 1.0), ())
    assert seven.labels == (1.0, 0.0)  # the range says so
    marks = slice_labels(10, a.labels, a.ranges, range_labels=a.range_labels).reshape(10, 2)
    assert np.flatnonzero(marks[:, 0]).tolist() == [3, 4]
    assert np.flatnonzero(marks[:, 1]).tolist() == [4, 5, 6, 7, 8]
    marks = slice_labels(10, b.labels, b.ranges, range_labels=b.range_labels).reshape(10, 2)
    assert marks.T.tolist() == [[0] * 10, [0, 0, 1] + [0] * 7]
    assert slice_labels(10, c.labels, c.ranges).tolist() == []


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("a,1,1,3,5,z\n", r"row 2: slice_label is 'z'; it is one of \['x', 'y'\]"),
        ("a,1,1,3,5,\n", r"row 2: the slice range has no slice_label"),
        ("a,1,0,3,5,y\n", r"row 2: label 0 with a slice range"),
        ("a,1,0,,,y\n", r"row 2: slice_label 'y' without a slice range"),
    ],
)
def test_slips_of_slice_ranges_of_several_labels(scans, rows, expected):
    with pytest.raises(CTDataError, match=expected):
        read(scans, RANGES + rows, label_columns=["x", "y"])


def test_layout_of_another_kind(scans):
    (scans / "deep" / "er").mkdir(parents=True)
    (scans / "deep" / "er" / "p1_v2.nii.gz").write_bytes(b"")
    (scans / "deep" / "p2_v1.zip").write_bytes(b"")
    layout = TableLayout(
        study_column="Name",
        label_columns=("*",),
        find_by_name=True,
        patient_pattern=r"^(p\d+)_",
        split_pattern=r"_v(\d)",
    )
    with pytest.raises(CTDataError, match="row 2: split is '2'"):
        read(scans, "Name,x y,z\np1_v2.nii.gz,1,0\n", layout=layout)
    layout = replace(layout, split_pattern=None)
    table = read(scans, "Name,x y,z\np1_v2.nii.gz,1,0\np2_v1.zip,0,0\n", layout=layout)
    assert table.label_names == ("x y", "z")
    assert [entry.path for entry in table.entries] == [
        scans / "deep" / "er" / "p1_v2.nii.gz",
        scans / "deep" / "p2_v1.zip",
    ]
    assert [entry.patient for entry in table.entries] == ["p1", "p2"]
    assert table.has_patients


def test_names_that_are_found_not_at_all_or_twice(scans, caplog):
    for place in ("one", "two"):
        (scans / place / "scan").mkdir(parents=True)
    (scans / "one" / "inner.zip").write_bytes(b"")
    text = "study,label\ninner.zip,1\nelsewhere.zip,0\n"
    layout = TableLayout(find_by_name=True)
    with pytest.raises(CTDataError, match=r"1 of 2 scans are not in the data folder, row\(s\) 3"):
        read(scans, text, layout=layout)
    table = read(scans, text, layout=replace(layout, missing_scans="drop"))
    assert [entry.study for entry in table.entries] == ["inner.zip"]
    assert "1 of 2 scans are not in the data folder" in caplog.text
    with pytest.raises(CTDataError, match=r"1 of 1 scans"):
        read(scans, "study\nnone\n", layout=replace(layout, missing_scans="drop"))
    with pytest.raises(CTDataError, match=r"'scan' is in the data folder more than once, as"):
        read(scans, "study\nscan\n", layout=layout)
    with pytest.raises(CTDataError, match=r"1 studies of the table are paths, first 'one/inner"):
        read(scans, "study\none/inner.zip\n", layout=layout)


def test_missing_scans_named_by_path(scans):
    layout = TableLayout(missing_scans="drop")
    table = read(scans, "study,label\na,1\nzz,0\n", layout=layout)
    assert [entry.study for entry in table.entries] == ["a"]


def test_several_tables_are_one(scans):
    one = write(scans, "study,label,split\na,1,train\nb,0,train\n", "one.csv")
    two = write(scans, "study,label,split\nc,1,test\n", "two.csv")
    table = read_labels_tables([one, two], scans)
    assert [(e.study, e.split, e.row) for e in table.entries] == [
        ("a", "train", 2),
        ("b", "train", 3),
        ("c", "test", 2),
    ]
    write(scans, "study,label,split\na,1,test\n", "two.csv")
    with pytest.raises(CTDataError, match=r"one.csv, two.csv row 2: 'a' is the same scan"):
        read_labels_tables([one, two], scans)
    write(scans, "study,x\nc,1\n", "two.csv")
    with pytest.raises(CTDataError, match=r"two.csv: unknown column 'x'"):
        read_labels_tables([one, two], scans)
    write(scans, "study,split\nc,test\n", "two.csv")
    with pytest.raises(CTDataError, match=r"two.csv has the labels \[\], one.csv \['label'\]"):
        read_labels_tables([one, two], scans)


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({"study_column": "Name"}, "study\na\n", "no column 'Name'; found 'study'"),
        ({"study_column": "Name"}, "study,Name\na,b\n", "a column 'study' beside 'Name'"),
        ({"patient_pattern": "("}, "study\na\n", "is no regular expression"),
        ({"patient_pattern": "a"}, "study\na\n", "has 0 groups; one in parentheses"),
        ({"split_pattern": "(a)(b)"}, "study\na\n", "has 2 groups"),
        ({"patient_pattern": "(b)"}, "study\na\n", r"row 2: patient_pattern '\(b\)' finds noth"),
        ({"patient_pattern": "(a)"}, "study,patient\na,p\n", "a column 'patient' and patient_pat"),
        ({"empty_labels": "x"}, "study\na\n", "empty_labels is 'x'; known are refuse, unkn"),
        ({"missing_scans": "x"}, "study\na\n", "missing_scans is 'x'; known are refuse, drop"),
    ],
)
def test_slips_of_layouts(scans, options, text, expected):
    with pytest.raises(CTDataError, match=expected):
        read(scans, text, layout=TableLayout(**options))


def test_files_that_are_no_table(scans):
    with pytest.raises(CTDataError, match="does not exist"):
        read_labels_table(scans / "none.csv", scans)
    with pytest.raises(CTDataError, match=r"labels.txt is not CSV"):
        read_labels_table(write(scans, "study\na\n", "labels.txt"), scans)
    with pytest.raises(CTDataError, match="cannot be read"):
        read_labels_table(write(scans, "not parquet", "labels.parquet"), scans)
    (scans / "latin.csv").write_bytes("study\n\xe4\n".encode("latin-1"))
    with pytest.raises(CTDataError, match=r"is not UTF-8 text \(byte 6\): save it as UTF-8"):
        read_labels_table(scans / "latin.csv", scans)
    with pytest.raises(CTDataError, match=r"labels.jsonl line 2 is no JSON object"):
        read_labels_table(write(scans, '{"study": "a"}\n[1]\n', "labels.jsonl"), scans)
    with pytest.raises(CTDataError, match="is no file"):
        read_labels_table(scans, scans)
    with pytest.raises(CTDataError, match=r"data folder .* does not exist"):
        read_labels_table(scans / "labels.csv", scans / "none")


def test_studies_of_a_folder_without_table(scans):
    (scans / "x.nii.gz").write_bytes(b"")
    (scans / "y.ZIP").write_bytes(b"")
    (scans / "readme.txt").write_text("")
    (scans / ".hidden").mkdir()
    names = [entry.study for entry in table_of_studies(scans).entries]
    assert names == ["007", "a", "b", "c", "x.nii.gz", "y.ZIP"]
    with pytest.raises(CTDataError, match="no study in a"):
        table_of_studies(scans / "a")
