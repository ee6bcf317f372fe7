"""Preparing sets: content, resuming after kills, changes, rejects, identifiers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ct_video_hf.cli import main
from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.estimate import estimate_set
from ct_video_hf.data.labels import table_of_studies
from ct_video_hf.data.labels_table import read_labels_table
from ct_video_hf.data.loading import load_prepared, summarize_set, verify_set
from ct_video_hf.data.manifest import read_manifest
from ct_video_hf.data.prepare_options import PrepareOptions
from ct_video_hf.data.prepared import prepare_table
from ct_video_hf.data.sources import prepare
from ct_video_hf.data.splits import read_split_file
from ct_video_hf.data.stored_volume import volume_view
from ct_video_hf.data.worker import _held
from ct_video_hf.dicom import read_ct
from tests.support.dicom_folders import write_folder_set, write_study, write_table
from tests.support.tiny_runs import environment

SALT = "a salt for tests"
SMALL = PrepareOptions(size=32, salt=SALT)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return write_folder_set(tmp_path_factory.mktemp("scans") / "in")


def run(scans, out, options=SMALL, **more):
    return prepare("folder", scans, out, options=options, progress=False, **more)


def content(folder):
    """Every file of a set with its bytes, the lock aside."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_rows(scans, tmp_path):
    summary = run(scans, tmp_path / "set")
    assert vars(_held) == {}  # a process that goes on to something else keeps no volume
    assert summary.splits == {"train": 4, "validation": 0, "test": 2}
    assert (summary.studies, summary.kept, summary.rejected) == (6, 0, 0)
    data = load_prepared(tmp_path / "set", "all")
    assert data["study_id"][:] == [f"s{number}" for number in range(6)]
    for number, row in enumerate(data):
        volume = read_ct(scans / f"s{number}", in_plane=32)
        stored = np.frombuffer(row["volume"], "<u2").reshape(row["shape"])
        assert np.array_equal(stored.astype(int) - 1024, volume.hu)
        assert row["spacing"] == pytest.approx(volume.spacing)
        assert row["z_mm"] == pytest.approx(volume.z_mm.tolist())
        assert row["slice_labels"] == [int(number % 2 and 4 <= z < 12) for z in range(24 + number)]
        assert (row["study_label"], row["labels"]) == (number % 2, [number % 2])
        assert row["slice_ids"] == []
        assert json.loads(row["report"])["slices"] == 24 + number
    assert len(set(data["patient_hash"][:])) == 6
    assert {len(value) for value in data["patient_hash"][:]} == {16}
    assert verify_set(tmp_path / "set") == 6


def test_one_window_in_eight_bits(scans, tmp_path):
    summary = run(scans, tmp_path / "set", PrepareOptions(size=32, store_window=(-600, 1500)))
    assert summary.bytes < run(scans, tmp_path / "hu").bytes * 0.75
    data = load_prepared(tmp_path / "set", "all")
    row = data[1]
    assert row["window"] == [-600.0, 1500.0]
    stored = np.frombuffer(row["volume"], "u1").reshape(row["shape"])
    hu = read_ct(scans / "s1", in_plane=32).hu.astype(float)
    assert np.array_equal(stored, np.rint(np.clip((hu + 1350) / 1500, 0, 1) * 255))
    with pytest.raises(CTDataError, match="keeps one HU window in 8 bits"):
        volume_view(data.with_format("arrow")[1]["volume"].chunk(0), 0, row["shape"])
    with pytest.raises(CTDataError, match="the width above 0"):
        PrepareOptions(store_window=(40, 0))


def test_data_set_dictionary_has_the_splits_with_studies(scans, tmp_path):
    run(scans, tmp_path / "set")
    data = load_prepared(tmp_path / "set")
    assert {name: len(rows) for name, rows in data.items()} == {"train": 4, "test": 2}
    assert read_split_file(tmp_path / "set" / "splits.csv")["s5"] == "test"
    with pytest.raises(CTDataError, match="split 'validation' of set has no studies"):
        load_prepared(tmp_path / "set", "validation")
    with pytest.raises(CTDataError, match="split is 'dev'"):
        load_prepared(tmp_path / "set", "dev")


def test_fraction_of_the_patients(scans, tmp_path):
    run(scans, tmp_path / "set")
    half = load_prepared(tmp_path / "set", fraction=0.5)
    assert (len(half["train"]), len(half["test"])) == (2, 2)
    assert sorted(half["train"]["study_label"]) == [0, 1]
    with pytest.raises(CTDataError, match="applies to the train split"):
        load_prepared(tmp_path / "set", "test", fraction=0.5)


def test_two_workers_write_the_same_bytes_as_one(scans, tmp_path):
    run(scans, tmp_path / "one")
    run(scans, tmp_path / "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_again_changes_nothing(scans, tmp_path):
    run(scans, tmp_path / "set")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*.*")}
    summary = run(scans, tmp_path / "set")
    assert (summary.studies, summary.kept) == (6, 6)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*.*")}
    changed = {path.name for path in before if before[path] != after.get(path)}
    assert changed <= {".lock", "parameters.json"}


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL to a process group")
@pytest.mark.parametrize(("workers", "finished"), [(1, 1), (1, 4), (2, 3)])
def test_killed_and_continued_is_the_same_set(tmp_path, workers, finished):
    scans = write_folder_set(tmp_path / "scans", studies=24, slices=40, side=128)
    (tmp_path / "salt").write_text(SALT)
    words = ["prepare", "folder", "--data-dir", str(scans), "--size", "320", "--quiet"]
    words += ["--salt-file", str(tmp_path / "salt"), "--workers", str(workers), "--out"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.held_runs", *words, str(killed)],
        start_new_session=True, env=environment() | {"HELD_STUDY": "s23"},
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while len(list(killed.glob("studies/*.arrow"))) < finished and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(killed.glob("studies/*.arrow"))) >= finished
    with pytest.raises(CTDataError, match="not complete: run the same `prepare` again"):
        load_prepared(killed)
    assert main([*words, str(killed)]) == main([*words, str(whole)]) == 0
    assert content(killed) == content(whole)
    assert verify_set(killed) == 24


def test_leftovers_of_a_kill_in_the_middle_of_writing(scans, tmp_path):
    run(scans, tmp_path / "whole")
    run(scans, tmp_path / "set")
    folder = tmp_path / "set"
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    lines = [json.dumps(record) + "\n" for record in manifest["studies"][:3]]
    (folder / "journal.jsonl").write_text("".join(lines)[:-20])  # the third line is torn
    third, fourth = (folder / "studies" / f"{r['key']}.arrow" for r in manifest["studies"][2:4])
    third.write_bytes(third.read_bytes()[:100])
    (folder / "studies" / f".{fourth.name}.1234.partial").write_bytes(b"half")
    summary = run(scans, folder)
    assert summary.kept == 2
    assert content(folder) == content(tmp_path / "whole")


def test_a_kill_before_the_parameters_stood_leaves_a_folder_that_goes_on(scans, tmp_path):
    run(scans, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole/private", tmp_path / "set/private")
    (tmp_path / "set/.lock").touch()
    (tmp_path / "set/.4321-parameters.json").write_text('{"half')
    run(scans, tmp_path / "set")
    assert content(tmp_path / "set") == content(tmp_path / "whole")
    assert not (tmp_path / "set/.4321-parameters.json").exists()


def test_truncated_study_file_is_named_and_made_anew(scans, tmp_path):
    run(scans, tmp_path / "set")
    file = next((tmp_path / "set" / "studies").iterdir())
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    with pytest.raises(CTDataError, match=rf"studies/{file.name} of set has .* are expected"):
        load_prepared(tmp_path / "set")
    assert run(scans, tmp_path / "set").kept == 5
    assert file.read_bytes() == whole


def test_verify_finds_a_flipped_byte(scans, tmp_path):
    run(scans, tmp_path / "set")
    file = next((tmp_path / "set" / "studies").iterdir())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CTDataError, match=f"studies/{file.name} of set is not what was prepared"):
        verify_set(tmp_path / "set")


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (PrepareOptions(size=48, salt=SALT), "size 32 -> 48"),
        (
            PrepareOptions(size=32, store_window=(-600, 1500), salt=SALT),
            r"store_window None -> \[-600.0, 1500.0\]",
        ),
        (PrepareOptions(size=32, policy="warn", salt=SALT), "policy 'strict' -> 'warn'"),
        (PrepareOptions(size=32, slice_ids=True, salt=SALT), "slice_ids False -> True"),
        (PrepareOptions(size=32, salt="another"), "another salt"),
    ],
)
def test_other_parameters_are_refused(scans, tmp_path, options, changed):
    run(scans, tmp_path / "set")
    before = content(tmp_path / "set")
    with pytest.raises(CTDataError, match=changed):
        run(scans, tmp_path / "set", options)
    assert content(tmp_path / "set") == before


def test_folder_with_other_files_is_refused(scans, tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(CTDataError, match="holds other files and no prepared set"):
        run(scans, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(CTDataError, match="is a file"):
        run(scans, tmp_path / "thesis.txt")


def test_changed_scan_is_prepared_again(tmp_path):
    scans = write_folder_set(tmp_path / "scans")
    run(scans, tmp_path / "set")
    shutil.rmtree(scans / "s2")
    write_study(scans / "s2", seed=77, slices=30)
    summary = run(scans, tmp_path / "set")
    assert (summary.studies, summary.kept) == (6, 5)
    row = load_prepared(tmp_path / "set", "all")[2]
    stored = np.frombuffer(row["volume"], "<u2").reshape(row["shape"]).astype(int) - 1024
    assert np.array_equal(stored, read_ct(scans / "s2", in_plane=32).hu)


def test_touched_scan_is_noticed(tmp_path):
    scans = write_folder_set(tmp_path / "scans")
    run(scans, tmp_path / "set")
    file = next((scans / "s1").iterdir())
    os.utime(file, ns=(0, 1))
    assert run(scans, tmp_path / "set").kept == 5


def test_changed_labels_reach_the_set(tmp_path):
    scans = write_folder_set(tmp_path / "scans")
    run(scans, tmp_path / "set")
    table = (scans / "labels.csv").read_text().replace("s1,1,4,12", "s1,1,2,7")
    (scans / "labels.csv").write_text(table)
    assert run(scans, tmp_path / "set").kept == 5
    assert load_prepared(tmp_path / "set", "all")[1]["slice_labels"][:8] == [0, 0, 1, 1, 1, 1, 1, 0]


def test_studies_that_leave_the_table_are_refused_or_pruned(tmp_path):
    scans = write_folder_set(tmp_path / "scans")
    run(scans, tmp_path / "set")
    lines = (scans / "labels.csv").read_text().splitlines(keepends=True)
    (scans / "labels.csv").write_text("".join(lines[:-1]))
    with pytest.raises(CTDataError, match="holds 1 studies that the labels table does not name"):
        run(scans, tmp_path / "set")
    assert run(scans, tmp_path / "set", prune=True).studies == 5
    assert len(list((tmp_path / "set" / "studies").glob("*.arrow"))) == 5
    assert len(load_prepared(tmp_path / "set", "all")) == 5


def test_study_that_was_read_once_and_no_longer_is_leaves_the_set(tmp_path):
    scans = write_folder_set(tmp_path / "scans")
    run(scans, tmp_path / "set")
    for file in (scans / "s3").iterdir():
        file.write_bytes(b"not DICOM any more")
    summary = run(scans, tmp_path / "set")
    assert (summary.studies, summary.rejected) == (5, 1)
    assert "s3" not in load_prepared(tmp_path / "set", "all")["study_id"][:]
    assert len(list((tmp_path / "set" / "studies").glob("*.arrow"))) == 5


def test_rejects_are_listed_and_tried_again(tmp_path):
    scans = write_folder_set(tmp_path / "scans")
    kept = scans / "s1_kept"
    (scans / "s1").rename(kept)
    (scans / "s1").mkdir()
    table = (scans / "labels.csv").read_text().replace("s3,1,4,12", "s3,1,4,99")
    (scans / "labels.csv").write_text(table)
    summary = run(scans, tmp_path / "set", workers=2)
    assert (summary.studies, summary.rejected) == (4, 2)
    lines = (tmp_path / "set" / "rejects.csv").read_text().splitlines()
    assert lines[0] == "study,code,reason"
    assert lines[1].startswith("s1,empty_folder")
    assert lines[2].startswith("s3,bad_labels")
    assert "marks slices up to 98, but the study has 27" in lines[2]
    assert "2 studies could not be read" in (tmp_path / "set" / "README.md").read_text()
    (scans / "s1").rmdir()
    kept.rename(scans / "s1")
    summary = run(scans, tmp_path / "set")
    assert (summary.studies, summary.kept, summary.rejected) == (5, 4, 1)


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "scans" / "a").mkdir(parents=True)
    write_table(tmp_path / "scans" / "labels.csv", [{"study": "a", "label": 1, "split": "train"}])
    with pytest.raises(CTDataError, match="none of 1 studies could be read; the first"):
        run(tmp_path / "scans", tmp_path / "set")
    assert "a,empty_folder," in (tmp_path / "set" / "rejects.csv").read_text()


@pytest.mark.parametrize("size", [15, 0, -1, 4097, 10**9])
def test_sizes_of_no_picture(size):
    with pytest.raises(CTDataError, match=f"size is {size}; planes have 16 to 4096 pixels"):
        PrepareOptions(size=size)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
from ct_video_hf.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_is_told_and_gone_on_from(scans, tmp_path, workers):
    (tmp_path / "salt").write_text(SALT)
    words = ["prepare", "folder", "--data-dir", scans, "--salt-file", tmp_path / "salt", "-q"]
    words = [*map(str, words), "--out", str(tmp_path / "set"), "--size", "62"]
    code = [sys.executable, "-c", LIMITED, *words, "--workers", workers]
    done = subprocess.run(code, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 1
    assert f"{tmp_path / 'set'} cannot be written to: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert all(file.suffix == ".arrow" for file in (tmp_path / "set" / "studies").iterdir())
    summary = run(scans, tmp_path / "set", PrepareOptions(size=62, salt=SALT))
    assert summary.studies == 6
    run(scans, tmp_path / "other", PrepareOptions(size=62, salt=SALT))
    assert content(tmp_path / "set") == content(tmp_path / "other")


def test_one_run_at_a_time(scans, tmp_path):
    from filelock import FileLock

    (tmp_path / "set").mkdir()
    with (
        FileLock(tmp_path / "set" / ".lock"),
        pytest.raises(CTDataError, match="another run is preparing set"),
    ):
        run(scans, tmp_path / "set")


# ---- identifiers ---------------------------------------------------------------------------------

PLANTED = {
    "PatientName": "Planted^Name",
    "PatientBirthDate": "19010203",
    "PatientAddress": "Planted Street",
    "OtherPatientIDs": "PLANTEDOTHERID",
    "AccessionNumber": "PLANTEDACCESSION",
    "ReferringPhysicianName": "Planted^Physician",
    "InstitutionName": "Planted Hospital",
    "StudyID": "PLANTEDSTUDYID",
    "StudyDescription": "Planted study",
    "SeriesDescription": "Planted series",
    "StudyDate": "19040506",
    "ProtocolName": "Planted protocol",
    "StationName": "PLANTEDSTATION",
    "DeviceSerialNumber": "PLANTEDSERIAL",
    "OperatorsName": "Planted^Operator",
    "ImageComments": "Planted comment",
}


def test_no_identifier_is_written_or_logged(tmp_path, caplog):
    caplog.set_level("DEBUG")
    scans = tmp_path / "scans"
    for name in ("good", "gap"):
        write_study(scans / name, seed=1, patient_id="PLANTEDPATIENT", extra=PLANTED)
    uids = set()
    for file in (scans / "gap").iterdir():
        header = pydicom.dcmread(file, stop_before_pixels=True)
        uids |= {header.SOPInstanceUID, header.SeriesInstanceUID, header.StudyInstanceUID}
        if header.InstanceNumber == 9:
            middle = file
    middle.unlink()  # the geometry finding makes a reject with a message
    for file in (scans / "good").iterdir():
        uids.add(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)
    rows = [{"study": name, "label": 0, "split": "test"} for name in ("good", "gap")]
    rows = [row | {"patient": "PLANTEDPATIENT"} for row in rows]
    write_table(scans / "labels.csv", rows)
    summary = run(scans, tmp_path / "set")
    assert (summary.studies, summary.rejected) == (1, 1)
    for policy in ("warn", "repair"):
        run(scans, tmp_path / policy, PrepareOptions(size=32, policy=policy, salt=SALT))
    planted = [*PLANTED.values(), "PLANTEDPATIENT", *uids, str(tmp_path)]
    planted += [part for value in PLANTED.values() for part in value.split("^") if "^" in value]
    for folder in ("set", "warn", "repair"):
        for name, data in content(tmp_path / folder).items():
            found = [text for text in planted if text.encode() in data]
            found += [text for text in planted if text.encode("utf-16-le") in data]
            assert not found, f"{folder}/{name} holds {found}"
    ours = "\n".join(r.getMessage() for r in caplog.records if r.name.startswith("ct_video_hf"))
    assert "is left out: " in ours
    assert not [text for text in planted if text in ours]


def test_slice_ids_only_when_asked_for(scans, tmp_path):
    run(scans, tmp_path / "set", PrepareOptions(size=32, slice_ids=True))
    row = load_prepared(tmp_path / "set", "all")[0]
    assert row["slice_ids"] == read_ct(scans / "s0").slice_ids
    assert "which identify" in (tmp_path / "set" / "README.md").read_text()


def test_patients_hash_alike_with_one_salt_only(scans, tmp_path):
    for name, salt in (("a", "x"), ("b", "x"), ("c", None), ("d", None)):
        run(scans, tmp_path / name, PrepareOptions(size=32, salt=salt))
    hashes = {name: load_prepared(tmp_path / name, "all")["patient_hash"][:] for name in ("abcd")}
    assert hashes["a"] == hashes["b"]
    assert len({tuple(value) for value in hashes.values()}) == 3
    assert (tmp_path / "a" / "private" / "salt").read_text() == "x\n"
    if os.name == "posix":
        assert (tmp_path / "c" / "private" / "salt").stat().st_mode & 0o077 == 0


def test_without_table_studies_are_hashed_and_the_key_is_private(scans, tmp_path):
    options = PrepareOptions(size=32, fractions=(0, 0, 1))
    table = table_of_studies(scans)
    prepare_table(table, tmp_path / "set", options, progress=False)
    data = load_prepared(tmp_path / "set", "test")
    names = data["study_id"][:]
    assert data["study_label"][:] == [-1] * 6
    assert data["labels"][0] == []
    assert not any(name.startswith("s") for name in names)
    key = (tmp_path / "set" / "private" / "study_key.csv").read_text().splitlines()
    assert key[1:] == [f"{name},s{number}" for number, name in enumerate(names)]
    assert "no labels" in (tmp_path / "set" / "README.md").read_text()


def test_folder_names_stay_out_of_rejects_where_studies_are_hashed(tmp_path, caplog):
    write_study(tmp_path / "scans" / "one", seed=1)
    (tmp_path / "scans" / "DOE_JANE").mkdir()
    options = PrepareOptions(size=32, fractions=(0, 0, 1))
    table = table_of_studies(tmp_path / "scans")
    assert prepare_table(table, tmp_path / "set", options, progress=False).rejected == 1
    assert "is empty" in caplog.text
    assert "DOE_JANE" not in caplog.text
    files = content(tmp_path / "set")
    holders = [name for name, data in files.items() if b"DOE_JANE" in data]
    assert sorted(holders) == ["private/rejects.csv", "private/study_key.csv"]


# ---- what comes with a set ---------------------------------------------------------------------


def test_summary_counts_what_is_there(scans, tmp_path):
    run(scans, tmp_path / "set")
    summary = summarize_set(tmp_path / "set", num_frames=8)
    assert summary["splits"]["train"] == {
        "studies": 4,
        "patients": 4,
        "slices": 24 + 25 + 26 + 27,
        "positive_studies": 2,
        "positive_slices": 16,
        "clips": 3 + 4 + 4 + 4,
        "positive_clips": 4,  # slices 4 to 11: four in the first clip, four in the second
        "weakly_labelled_clips": 0,
        "studies_without_clips": 0,
    }
    assert set(summary["splits"]) == {"train", "test"}
    assert summary["clip_rule"]["stride"] == 8
    json.dumps(summary)


def test_manifest_and_card(scans, tmp_path):
    run(scans, tmp_path / "set", licence="CC BY 3.0")
    manifest = read_manifest(tmp_path / "set")
    assert manifest["provenance"]["licence"] == "CC BY 3.0"
    assert {"ct-video-hf", "numpy", "pydicom"} <= set(manifest["versions"])
    card = (tmp_path / "set" / "README.md").read_text()
    assert card.startswith("---\nlicense: other\n")
    assert "Not for clinical use" in card
    assert "CC BY 3.0" in card
    assert "| train | 4 | 4 | 102 | 2 | 16 |" in card


def test_manifests_that_cannot_be_used(scans, tmp_path):
    with pytest.raises(CTDataError, match="is not a prepared set"):
        read_manifest(scans)
    run(scans, tmp_path / "set")
    path = tmp_path / "set" / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"format_version": 2', '"format_version": 99'))
    with pytest.raises(CTDataError, match="has format 99"):
        load_prepared(tmp_path / "set")
    path.write_text(text[:-20])
    with pytest.raises(CTDataError, match="not valid JSON"):
        load_prepared(tmp_path / "set")


def test_estimate_is_near_what_comes_out(scans, tmp_path):
    table = read_labels_table(scans / "labels.csv", scans)
    estimate = estimate_set(table, SMALL)
    summary = run(scans, tmp_path / "set")
    assert estimate["studies"] == 6
    assert estimate["input_bytes"] == sum(f.stat().st_size for f in scans.rglob("*/*"))
    assert estimate["estimated_output_bytes"] == pytest.approx(summary.bytes, rel=0.2)
    assert estimate["sample_rejects"] == []


def test_source_slips(scans, tmp_path):
    with pytest.raises(CTDataError, match="no source 'lidc'; known are folder, phantom"):
        prepare("lidc", scans, tmp_path / "set")
    with pytest.raises(CTDataError, match="folder has no option seed; known are labels"):
        prepare("folder", scans, tmp_path / "set", seed=1)
    assert not Path(tmp_path / "set").exists()
