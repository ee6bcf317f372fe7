"""Reasons without names: whole names alone are replaced, whatever they are."""

import zipfile

import pytest

from ct_video_hf.data.rejects import hide_names


@pytest.fixture
def scan(tmp_path):
    folder = tmp_path / "cut"
    (folder / "DOE^JOHN").mkdir(parents=True)
    for name in ("1.dcm", "10.dcm", "7", "DOE^JOHN/1.3.6.1", "DOE^JOHN/DOE_JOHN (2).dcm"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("1.dcm ends inside its header", "file 2 ends inside its header"),
        ("between 1.dcm at 7.500 mm and 10.dcm.", "between file 2 at 7.500 mm and file 3."),
        ("7 slices missing, expected 7.500 mm", "7 slices missing, expected 7.500 mm"),
        ("1.3.6.1: empty; 1.3.6.1.4 is another", "file 1: empty; 1.3.6.1.4 is another"),
        ("'DOE_JOHN (2).dcm' in DOE^JOHN", "'file 6' in file 5"),
        ("no DICOM in cut, only *.cut", "no DICOM in s, only *.cut"),
        ("the uncut and cut-off pixels", "the uncut and cut-off pixels"),
    ],
)
def test_names_become_places(scan, reason, told):
    assert hide_names(reason, scan, "s") == told


def test_members_of_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "Doe.zip", "w") as archive:
        archive.writestr("Doe/IM_Doe.dcm", b"")
    said = "Doe.zip: IM_Doe.dcm in Doe is empty"
    assert hide_names(said, tmp_path / "Doe.zip", "s") == "s: file 2 in file 1 is empty"


def test_what_cannot_be_listed(tmp_path):
    (tmp_path / "Doe.zip").write_bytes(b"no zip")
    for name in ("Doe.zip", "gone.nii.gz"):
        assert hide_names(f"{name} is damaged", tmp_path / name, "s") == "s is damaged"
