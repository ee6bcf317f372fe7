import pickle

import numpy as np
import pytest

from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.labels import LabelsTable, SliceMarks, StudyEntry
from ct_video_hf.data.loading import load_prepared
from ct_video_hf.data.manifest import read_manifest
from ct_video_hf.data.prepare_options import PrepareOptions
from ct_video_hf.data.prepared import prepare_table
from ct_video_hf.dicom import read_ct
from tests.support.dicom_folders import write_study

IDS = [f"1.2.{number}" for number in range(6)]


def test_labels_follow_the_slices_of_the_volume():
    marks = SliceMarks.from_mapping({"1.2.4": 1, "1.2.0": 0, "1.2.1": 1})
    assert marks.resolve(IDS).tolist() == [0, 1, -1, -1, 1, -1]
    assert marks.resolve(IDS[::-1]).tolist() == [-1, 1, -1, -1, 1, 0]
    assert marks.resolve(IDS).dtype == np.int8
    assert len(marks) == 3


def test_slices_without_a_label():
    labels = {"1.2.4": 1}
    assert SliceMarks.from_mapping(labels, others=0).resolve(IDS).tolist() == [0, 0, 0, 0, 1, 0]
    with pytest.raises(CTDataError, match="5 of 6 slices of the volume have no label"):
        SliceMarks.from_mapping(labels, others=None).resolve(IDS)
    # a slice that repair filled in was not looked at by anybody
    filled = [*IDS[:3], None, *IDS[4:]]
    assert SliceMarks.from_mapping(labels, others=0).resolve(filled).tolist() == [0, 0, 0, -1, 1, 0]


def test_names_that_are_not_in_the_volume_are_counted_not_shown():
    labels = {"1.2.4": 1, "1.2.77": 0, "1.2.88": 1}
    with pytest.raises(CTDataError, match="2 of 3 slices with a label are not among the 6") as told:
        SliceMarks.from_mapping(labels).resolve(IDS)
    assert "1.2." not in str(told.value)
    lenient = SliceMarks.from_mapping(labels, absent="ignore")
    assert lenient.resolve(IDS).tolist() == [-1, -1, -1, -1, 1, -1]
    with pytest.raises(CTDataError, match="1 of 1 slices with a label"):  # nothing fits at all
        SliceMarks.from_mapping({"1.2.77": 1}, absent="ignore").resolve(IDS)


@pytest.mark.parametrize(
    ("labels", "options", "expected"),
    [
        ({}, {}, "no slice is named"),
        ({"a": 2}, {}, r"slice labels \[2\]"),
        ({"": 1}, {}, "a slice's name is empty"),
        ({"a\nb": 1}, {}, "holds a newline"),
        ({"a": 1}, {"others": 1}, "others is 1"),
        ({"a": 1}, {"absent": "drop"}, "absent is 'drop'"),
    ],
)
def test_marks_that_say_nothing_sensible(labels, options, expected):
    with pytest.raises(CTDataError, match=expected):
        SliceMarks.from_mapping(labels, **options)


def test_marks_of_a_large_set_are_small():
    names = {f"{number:012x}": number % 7 == 0 for number in range(245)}
    data = pickle.dumps(SliceMarks.from_mapping(names))
    assert len(data) < 20 * len(names)
    assert pickle.loads(data) == SliceMarks.from_mapping(names)  # noqa: S301


@pytest.mark.parametrize(
    "other",
    [
        SliceMarks.from_mapping({"a": 1, "b": 1}),
        SliceMarks.from_mapping({"a": 1, "c": 0}),
        SliceMarks.from_mapping({"a": 1, "b": 0}, others=0),
        SliceMarks.from_mapping({"a": 1, "b": 0}, absent="ignore"),
        SliceMarks.from_mapping({"a": 1, "b": 0}, label=1),
    ],
)
def test_what_marks_say_tells_them_apart(other):
    marks = SliceMarks.from_mapping({"a": 1, "b": 0})
    assert marks.said() == SliceMarks.from_mapping({"a": 1, "b": 0}).said()
    assert marks.said() != other.said()


# ---- through the worker --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    write_study(folder / "a", 1, slices=12)
    return folder


def prepare(scan, out, marks, labels=(1.0,), names=("label",)):
    entry = StudyEntry("a", scan / "a", labels, split="train", marks=marks)
    options = PrepareOptions(size=32, salt="s")
    return prepare_table(LabelsTable((entry,), names), out, options, progress=False)


def test_marked_slices_of_a_prepared_study(scan, tmp_path):
    ids = read_ct(scan / "a").slice_ids
    marks = SliceMarks.from_mapping({ids[3]: 1, ids[4]: 1, ids[0]: 0})
    prepare(scan, tmp_path / "set", marks)
    row = load_prepared(tmp_path / "set", "all")[0]
    assert row["slice_labels"] == [0, -1, -1, 1, 1] + [-1] * 7
    assert row["slice_ids"] == []
    assert read_manifest(tmp_path / "set")["studies"][0]["positive_slices"] == 2
    # other marks: the study is prepared again; the same: it is kept
    assert prepare(scan, tmp_path / "set", marks).kept == 1
    assert prepare(scan, tmp_path / "set", SliceMarks.from_mapping({ids[3]: 1})).kept == 0


def test_marks_of_one_of_several_labels(scan, tmp_path):
    ids = read_ct(scan / "a").slice_ids
    marks = SliceMarks.from_mapping({ids[3]: 1}, others=0, label=1)
    prepare(scan, tmp_path / "set", marks, (0.0, 1.0, 1.0), ("x", "y", "z"))
    row = load_prepared(tmp_path / "set", "all")[0]
    table = np.reshape(row["slice_labels"], (12, 3))
    assert table[:, 0].tolist() == [0] * 12  # absent from the study, so from every slice
    assert table[:, 1].tolist() == [0, 0, 0, 1] + [0] * 8
    assert table[:, 2].tolist() == [-1] * 12
    assert read_manifest(tmp_path / "set")["studies"][0]["positive_slices"] == 1


def test_marks_that_contradict_the_study_reject_it(scan, tmp_path):
    ids = read_ct(scan / "a").slice_ids
    marks = SliceMarks.from_mapping({ids[3]: 1})
    with pytest.raises(CTDataError, match="1 slices are marked positive in a study whose label"):
        prepare(scan, tmp_path / "set", marks, (0.0,))
    with pytest.raises(CTDataError, match="1 of 1 slices with a label are not among the 12"):
        prepare(scan, tmp_path / "other", SliceMarks.from_mapping({"9.9": 1}))
