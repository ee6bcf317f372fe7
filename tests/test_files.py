"""Files that appear complete or not at all."""

import pytest

from ct_video_hf.errors import CTVideoError
from ct_video_hf.files import check_writable, move_into_place, replacing, write_csv


def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "table.csv"
    write_csv(path, ("a", "b"), [{"a": 1, "b": 2}, {"a": 3}])
    assert path.read_bytes() == b"a,b\n1,2\n3,\n"
    with pytest.raises(ValueError, match="fields not in fieldnames"):
        write_csv(path, ("a",), [{"a": 1}, {"c": 2}])
    assert path.read_bytes() == b"a,b\n1,2\n3,\n"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / ("x" * 254)  # the temporary name is too long for any disk
    with pytest.raises(OSError, match="x" * 254) as caught, replacing(path) as partial:
        partial.touch()
    assert caught.value.filename == str(path)


def test_moving_replaces_what_it_brings_and_keeps_the_rest(tmp_path):
    stage, target = tmp_path / "stage", tmp_path / "target"
    for folder, text in ((target, "old"), (stage, "new")):
        (folder / "figures").mkdir(parents=True)
        (folder / "figures" / f"{text}.png").write_text(text)
        (folder / "record.json").write_text(text)
    (target / "notes.txt").write_text("mine")
    move_into_place(stage, target, last="record.json")
    assert not stage.exists()
    assert (target / "record.json").read_text() == "new"
    assert [path.name for path in (target / "figures").iterdir()] == ["new.png"]
    assert (target / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(CTVideoError, match="nothing can be written"):
        check_writable(tmp_path / "file" / "b")
