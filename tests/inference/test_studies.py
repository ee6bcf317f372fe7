"""One scan or a folder of studies."""

import zipfile

import pytest

from ct_video_hf.dicom.write import write_series
from ct_video_hf.errors import CTVideoError
from ct_video_hf.inference import find_studies
from tests.support.prediction import chest_hu

HU = chest_hu(3, 16)


def names(*paths):
    return [study.name for study in find_studies(paths)]


def series(folder, key="a", **options):
    write_series(HU, folder, key=key, **options)
    return folder


def test_a_folder_of_slices_is_one_study(tmp_path):
    scan = series(tmp_path / "scan")
    (scan / "notes.txt").write_text("x")
    assert [(s.name, s.path) for s in find_studies(scan)] == [("scan", scan)]


@pytest.mark.parametrize("preamble", [True, False])
def test_slices_are_known_without_their_ending(tmp_path, preamble):
    files = ["1.2.3", "1.2.4", "slice"]
    scan = series(tmp_path / "scan", file_names=files, preamble=preamble, meta=preamble)
    assert names(scan) == ["scan"]


def test_a_folder_of_studies(tmp_path):
    for name in ("b", "a", "c"):
        series(tmp_path / name, key=name)
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("x", b"")
    (tmp_path / "e.nii.gz").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("study,label\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / ".hidden").mkdir()
    assert names(tmp_path) == ["a", "b", "broken", "c", "d.zip", "e.nii.gz"]


def test_a_folder_with_one_study_keeps_its_name(tmp_path):
    series(tmp_path / "only")
    assert names(tmp_path) == ["only"]


def test_patient_study_series_trees(tmp_path):
    root = tmp_path / "set"
    series(root / "p1" / "s1" / "r1", key="a", study_key="one")
    series(root / "p1" / "s1" / "r2", key="b", study_key="one")
    series(root / "p1" / "s2" / "r1", key="c", study_key="two")
    series(root / "p2" / "s1" / "r1", key="d", study_key="three")
    assert names(root) == ["p1/s1", "p1/s2", "p2/s1"]
    assert names(root / "p1") == ["s1", "s2"]
    assert names(root / "p1" / "s1") == ["s1"]  # two series of one study: one scan


def test_sibling_series_of_several_studies_stay_apart(tmp_path):
    series(tmp_path / "p" / "r1", key="a", study_key="one")
    series(tmp_path / "p" / "r2", key="b", study_key="two")
    assert names(tmp_path) == ["p/r1", "p/r2"]


def test_series_without_a_study_uid_stay_apart(tmp_path):
    for key in ("a", "b"):
        series(tmp_path / key, key=key, missing=("StudyInstanceUID",))
    assert names(tmp_path) == ["a", "b"]


def test_several_paths_carry_their_names(tmp_path):
    series(tmp_path / "x" / "a", key="a")
    series(tmp_path / "y" / "a", key="b")
    series(tmp_path / "z", key="c")
    assert names(tmp_path / "x", tmp_path / "y", tmp_path / "z") == ["x/a", "y/a", "z"]


def test_equal_names_are_refused(tmp_path):
    series(tmp_path / "x" / "a", key="a")
    series(tmp_path / "y" / "a", key="b")
    with pytest.raises(CTVideoError, match="'a'"):
        names(tmp_path / "x" / "a", tmp_path / "y" / "a")


def test_a_missing_path(tmp_path):
    with pytest.raises(CTVideoError, match="nothing"):
        names(tmp_path / "nothing")


def test_a_folder_without_anything_is_one_study_for_the_reader_to_refuse(tmp_path):
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "readme.txt").write_text("hello")
    assert names(tmp_path / "scan") == ["scan"]
