import pandas as pd
import pytest

from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.labels import read_labels_table, table_of_studies


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
    ],
)
def test_slips_are_named_with_their_row(scans, text, expected):
    with pytest.raises(CTDataError, match=expected):
        read(scans, text)


def test_multi_label_slips(scans):
    with pytest.raises(CTDataError, match="no label column 'nodule'"):
        read(scans, "study,effusion\na,1\n", label_columns=["effusion", "nodule"])
    with pytest.raises(CTDataError, match="row 2: some of the study's labels are empty"):
        read(scans, "study,x,y\na,1,\n", label_columns=["x", "y"])
    text = "study,x,y,slice_start,slice_stop\na,1,1,0,3\n"
    with pytest.raises(CTDataError, match="slice ranges need a single label"):
        read(scans, text, label_columns=["x", "y"])


def test_files_that_are_no_table(scans):
    with pytest.raises(CTDataError, match="does not exist"):
        read_labels_table(scans / "none.csv", scans)
    with pytest.raises(CTDataError, match=r"labels.txt is not CSV"):
        read_labels_table(write(scans, "study\na\n", "labels.txt"), scans)
    with pytest.raises(CTDataError, match="cannot be read"):
        read_labels_table(write(scans, "not parquet", "labels.parquet"), scans)
    (scans / "latin.csv").write_bytes("study\n\xe4\n".encode("latin-1"))
    with pytest.raises(CTDataError, match="cannot be read"):
        read_labels_table(scans / "latin.csv", scans)
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
