"""Finding files: folders, links, zip archives good and bad, and what errors say."""

import os
import pickle
import stat
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from ct_video_hf.dicom.errors import CTReadError
from ct_video_hf.dicom.limits import Limits
from ct_video_hf.dicom.sources import open_sources

DICOM = b"\0" * 128 + b"DICM" + bytes(range(200))


def names(path, limits=None):
    with open_sources(path, limits) as sources:
        return [source.name for source in sources]


def read_all(path, limits):
    with open_sources(path, limits) as sources:
        return [source.read() for source in sources]


def refused(path, code, limits=None):
    with pytest.raises(CTReadError) as caught:
        read_all(path, limits)
    assert caught.value.code == code
    return str(caught.value)


def make_zip(path, members, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data, **options)
    return path


def test_folder_is_searched_in_order_and_companions_are_passed_over(tmp_path):
    for name in ["b/2", "b/1", "a/IM.17", "c.dcm", "DICOMDIR", ".hidden", "x.xml", "__MACOSX/1"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(DICOM if name != "x.xml" else b"<xml/>")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_bytes(DICOM)
    assert names(tmp_path) == ["c.dcm", "IM.17", "1", "2"]


def test_dicom_under_a_misleading_name_is_found(tmp_path):
    (tmp_path / "slice.txt").write_bytes(DICOM)
    (tmp_path / "notes.txt").write_text("hello")
    assert names(tmp_path) == ["slice.txt"]


def test_single_file_keeps_any_name(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert names(tmp_path / "notes.txt") == ["notes.txt"]


def test_sources_give_ranges_pickle_and_bear_threads(tmp_path):
    (tmp_path / "a.dcm").write_bytes(DICOM)
    make_zip(tmp_path / "a.zip", {"in/a.dcm": DICOM})
    for path in (tmp_path / "a.dcm", tmp_path / "a.zip"):
        with open_sources(path) as (source,):
            assert source.size == len(DICOM)
            assert source.read() == DICOM
            assert source.read(128, 4) == b"DICM"
            assert source.read(len(DICOM) - 2, 50) == DICOM[-2:]
            assert source.read(10_000, 4) == b""
            with ThreadPoolExecutor(4) as pool:
                parts = list(pool.map(lambda at, s=source: s.read(at, 1), range(len(DICOM))))
            assert b"".join(parts) == DICOM
    with open_sources(tmp_path / "a.dcm") as (source,):
        assert pickle.loads(pickle.dumps(source)).read() == DICOM  # noqa: S301
        assert source.folder == str(tmp_path)


def test_nothing_to_read_is_said(tmp_path):
    assert "does not exist" in refused(tmp_path / "nowhere", "path_not_found")
    assert "is empty" in refused(tmp_path, "empty_folder")
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    (tmp_path / "b.png").write_bytes(b"\x89PNG")
    (tmp_path / "c.csv").write_text("x")
    assert "1 *.csv, 2 *.png" in refused(tmp_path, "no_dicom")


def test_messages_name_no_folder(tmp_path):
    folder = tmp_path / "Doe^Jane"
    message = refused(folder / "study" / "missing.dcm", "path_not_found")
    assert "Doe" not in message


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_are_followed_and_loops_end(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "1").write_bytes(DICOM)
    scan = tmp_path / "scan"
    scan.mkdir()
    (scan / "loop").symlink_to(scan)
    (scan / "other").symlink_to(tmp_path / "real")
    (scan / "again").symlink_to(tmp_path / "real")
    assert names(scan) == ["1"]
    (scan / "dangling").symlink_to(tmp_path / "gone")
    with open_sources(scan) as sources:  # told when it is read, so that a policy can go on
        dangling = next(source for source in sources if source.name == "dangling")
        with pytest.raises(CTReadError, match="dangling does not exist"):
            dangling.read(0, 100)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.txt")
    assert "special" in refused(tmp_path, "no_dicom")


@pytest.mark.skipif(
    os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0),
    reason="root may read everything",
)
def test_permissions(tmp_path):
    (tmp_path / "a.dcm").write_bytes(DICOM)
    (tmp_path / "a.dcm").chmod(0)
    assert "a.dcm" in refused(tmp_path, "no_permission")
    (tmp_path / "inner").mkdir(mode=0)
    refused(tmp_path, "no_permission")
    (tmp_path / "inner").chmod(stat.S_IRWXU)


def test_permission_error_of_the_system_is_translated(tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_bytes(DICOM)

    def forbid(*_args, **_options):
        raise PermissionError(13, "Permission denied", str(tmp_path / "a.dcm"))

    with open_sources(tmp_path) as (source,):
        monkeypatch.setattr("os.open", forbid)
        with pytest.raises(CTReadError) as caught:
            source.read()
    assert caught.value.code == "no_permission"
    assert str(tmp_path) not in str(caught.value)


def test_zip_members(tmp_path):
    path = make_zip(
        tmp_path / "scan.zip",
        {"s/2": DICOM, "s/1": DICOM, "__MACOSX/s/._1": b"x", "s/.DS_Store": b"x", "s/a.xml": b"<"},
    )
    assert names(path) == ["1", "2"]
    path.rename(tmp_path / "no_ending")
    assert names(tmp_path / "no_ending") == ["1", "2"]
    assert "read when it is named itself" in refused(
        make_zip(tmp_path / "outer.zip", {"inner.zip": b"PK\x03\x04"}), "no_dicom"
    )


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "C:/evil", "..\\evil"])
def test_zip_slips_are_refused(tmp_path, name):
    assert "outside" in refused(make_zip(tmp_path / "z.zip", {name: DICOM}), "unsafe_zip")
    assert list(tmp_path.iterdir()) == [tmp_path / "z.zip"]


def test_zip_links_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert "link" in refused(tmp_path / "z.zip", "unsafe_zip")


def test_zip_bombs_are_refused(tmp_path):
    path = make_zip(tmp_path / "z.zip", {"a.dcm": b"\0" * (1 << 20)})
    assert names(path) == ["a.dcm"]  # small things may be empty
    strict = Limits(zip_ratio_floor=1000)
    assert "fold" in refused(path, "unsafe_zip", strict)
    assert "max_file_bytes" in refused(path, "too_large", Limits(max_file_bytes=1000))
    assert "max_total_bytes" in refused(path, "too_large", Limits(max_total_bytes=1000))
    many = make_zip(tmp_path / "many.zip", {str(n): b"" for n in range(5)})
    assert "max_files" in refused(many, "too_large", Limits(max_files=4))
    # an announced size that lies cannot make a member expand further
    data = bytearray(path.read_bytes())
    for at in (22, data.rindex(b"PK\x01\x02") + 24):
        data[at : at + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(data)
    refused(path, "bad_zip")


def test_damaged_and_encrypted_zips(tmp_path):
    path = make_zip(tmp_path / "z.zip", {"a.dcm": os.urandom(5000)})
    whole = path.read_bytes()
    path.write_bytes(whole[:3000])
    assert "damaged or incomplete" in refused(path, "bad_zip")
    broken = bytearray(whole)
    broken[100] ^= 0xFF
    path.write_bytes(broken)
    assert "a.dcm" in refused(path, "bad_zip")
    locked = bytearray(whole)
    locked[6] |= 1
    locked[whole.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(locked)
    assert "password" in refused(path, "encrypted_zip")


def test_limits_on_folders_and_files(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}").write_bytes(DICOM)
    assert "limits=Limits(max_files=3)" in refused(tmp_path, "too_large", Limits(max_files=2))
    refused(tmp_path, "too_large", Limits(max_file_bytes=10))
    refused(tmp_path / "0", "too_large", Limits(max_file_bytes=10))
    refused(tmp_path, "too_large", Limits(max_total_bytes=500))
    with pytest.raises(CTReadError, match="2 x 3 x 4 voxels"):
        Limits(max_voxels=20).check_volume((2, 3, 4), "scan")


def test_an_error_of_the_caller_passes_through(tmp_path):
    (tmp_path / "a").write_bytes(DICOM)
    with pytest.raises(FileNotFoundError), open_sources(tmp_path):
        raise FileNotFoundError("mine")
