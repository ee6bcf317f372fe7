"""Nothing that names a patient leaves the reader: planted identifiers are searched everywhere."""

from __future__ import annotations

import json
import logging
import pickle
import shutil

import numpy as np
import pytest

from ct_video_hf.cli import main
from ct_video_hf.dicom import CTReadError, find_series, read_ct, write_series
from ct_video_hf.dicom.write import uid_from
from ct_video_hf.dicom.write_enhanced import write_enhanced
from tests.support.scans import body

PLANTED = {
    "PatientName": "Zwetschgenmus^Balthasar",
    "PatientBirthDate": "19371108",
    "PatientAddress": "Pflaumengasse 13",
    "PatientTelephoneNumbers": "+49-555-0177",
    "OtherPatientIDs": "OTHERID-4242",
    "PatientMotherBirthName": "Mirabellenhain",
    "PatientAge": "087Y",
    "PatientComments": "COMMENTPLANT",
    "EthnicGroup": "ETHNICPLANT",
    "AccessionNumber": "ACC-7654321",
    "StudyID": "STUDYIDPLANT",
    "StudyDate": "20210317",
    "SeriesDate": "20210318",
    "AcquisitionDate": "20210319",
    "ContentDate": "20210320",
    "StudyTime": "094711",
    "StudyDescription": "STUDYDESCPLANT",
    "SeriesDescription": "SERIESDESCPLANT",
    "ProtocolName": "PROTOCOLPLANT",
    "InstitutionName": "Sankt Pflaumen Klinik",
    "InstitutionAddress": "Klinikweg 99",
    "ReferringPhysicianName": "Hausarzt^Otto",
    "PerformingPhysicianName": "Radiologe^Rita",
    "OperatorsName": "Techniker^Tom",
    "StationName": "STATIONPLANT",
    "DeviceSerialNumber": "SERIAL-0815",
    "RequestingPhysician": "Auftrag^Anna",
    "ImageComments": "IMAGECOMMENTPLANT",
    "FrameOfReferenceUID": "1.2.826.0.1.777.1",
    (0x0009, 0x0010, "LO"): "PRIVATEPLANT",
    (0x0009, 0x1001, "LO"): "PRIVATEVALUEPLANT",
}
PATIENT_ID = "PID-13579-PLANT"
UIDS = ["2.25."]  # every UID that write_series makes begins so

WORDS = [
    part
    for value in [*PLANTED.values(), PATIENT_ID]
    for part in str(value).split("^")
]  # fmt: skip


def assert_clean(text: str) -> None:
    for word in [*WORDS, *UIDS]:
        assert word.lower() not in text.lower(), f"{word} in {text[:2000]}"


def plant(hu, folder, **options):
    extra = {**PLANTED, **options.pop("extra", {})}
    return write_series(hu, folder, patient_id=PATIENT_ID, extra=extra, **options)


def heights(*z) -> np.ndarray:
    return np.column_stack([np.zeros((len(z), 2)), z])


HU = body()
KEPT = np.delete(np.arange(12), 5)


def clean(folder):
    plant(HU, folder)


def missing(folder):
    plant(HU[KEPT], folder, positions=heights(*(2.5 * KEPT)))


def uneven(folder):
    z = 2.5 * np.arange(12)
    z[4] += 0.7
    plant(HU, folder, positions=heights(*z))


def tilted(folder):
    angle = np.deg2rad(15)
    axes = (1, 0, 0, 0, np.cos(angle), np.sin(angle))
    plant(HU, folder, orientation=axes, positions=heights(*(2.5 * np.arange(12))))


def shifted(folder):
    positions = heights(*(2.5 * np.arange(12)))
    positions[4, 0] = 5.0
    plant(HU, folder, positions=positions)


def localizer(folder):
    plant(HU, folder, study_key="s")
    plant(HU[:1], folder, key="scout", study_key="s", file_names=["scout.dcm"],
          orientation=(0, 1, 0, 0, 0, -1))  # fmt: skip


def localizer_alone(folder):
    plant(HU[:1], folder, orientation=(0, 1, 0, 0, 0, -1))


def several_series(folder):
    plant(HU, folder / "a", key="a", study_key="s")
    plant(HU, folder / "b", key="b", study_key="s")


def several_studies(folder):
    plant(HU, folder / "a", key="a")
    plant(HU, folder / "b", key="b")


def duplicates(folder):
    plant(HU, folder)
    plant(HU[:1] + 1, folder, positions=heights(5.0), file_names=["twin.dcm"])


def copies(folder):
    files = plant(HU, folder)
    shutil.copy(files[0], folder / "copy.dcm")


def acquisitions(folder):
    plant(HU, folder / "1", extra={"AcquisitionNumber": 1})
    plant(HU + 3, folder / "2", extra={"AcquisitionNumber": 2})


def strays(folder):
    plant(HU, folder)
    plant(HU[:1, :20, :20], folder, file_names=["a.dcm"], positions=heights(90.0))
    plant(HU[:1], folder, file_names=["b.dcm"], positions=heights(91.0), spacing=(1, 0.9, 0.9))


def no_positions(folder):
    plant(HU, folder, missing=["ImagePositionPatient"])


def no_rescale(folder):
    plant(HU, folder, signed=False, missing=["RescaleSlope", "RescaleIntercept", "Modality"])


def single(folder):
    plant(HU[:1], folder)


def truncated(folder):
    files = plant(HU, folder)
    files[3].write_bytes(files[3].read_bytes()[:-700])


def cut_header(folder):
    files = plant(HU, folder)
    files[3].write_bytes(files[3].read_bytes()[:600])


def garbled(folder):
    files = plant(HU, folder)
    data = bytearray(files[3].read_bytes())
    data[400:440] = b"\xff" * 40
    files[3].write_bytes(bytes(data))


def no_decoder(folder):
    files = plant(HU, folder)
    for file in files:
        data = file.read_bytes()
        before = b"1.2.840.10008.1.2.1\0"
        assert before in data
        file.write_bytes(data.replace(before, b"1.2.840.10008.1.2.9\0", 1))


def other_kind(folder):
    plant(HU, folder, extra={"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"})


def enhanced(folder):
    extra = {key: value for key, value in PLANTED.items() if isinstance(key, str)}
    write_enhanced(HU, folder / "e.dcm", patient_id=PATIENT_ID, extra=extra)


SCANS = [
    clean, missing, uneven, tilted, shifted, localizer, localizer_alone, several_series,
    several_studies, duplicates, copies, acquisitions, strays, no_positions, no_rescale, single,
    truncated, cut_header, garbled, no_decoder, other_kind, enhanced,
]  # fmt: skip


@pytest.mark.parametrize("policy", ["strict", "warn", "repair"])
@pytest.mark.parametrize("scan", SCANS, ids=lambda scan: scan.__name__)
def test_report_errors_and_logs(tmp_path, scan, policy, caplog, recwarn):
    scan(tmp_path)
    with caplog.at_level(logging.DEBUG):
        try:
            volume = read_ct(tmp_path, policy)
        except CTReadError as error:
            assert_clean(str(error) + json.dumps(error.findings) + repr(error))
            assert_clean(str(pickle.loads(pickle.dumps(error))))  # noqa: S301
        else:
            assert_clean(json.dumps(volume.report.to_dict()))
            assert_clean(repr(volume) + str(volume) + repr(volume.report))
    assert_clean(caplog.text)
    assert_clean("".join(str(warning.message) for warning in recwarn.list))


@pytest.mark.parametrize("scan", SCANS, ids=lambda scan: scan.__name__)
def test_the_command_line(tmp_path, scan, capfd):
    folder = tmp_path / "scan"
    scan(folder)
    picture = tmp_path / "out.png"
    for options in (
        ["--json"], [], ["--policy", "repair", "-v"], ["--list-series"],
        ["--list-series", "--json"], ["--series", "77"],
        ["--policy", "warn", "--picture", str(picture)],
    ):  # fmt: skip
        main(["inspect", str(folder), *options])
        out = capfd.readouterr()
        assert_clean(out.out + out.err)
        if "--json" in options:
            json.loads(out.out)
    if picture.exists():
        assert_clean(picture.read_bytes().decode("latin-1"))


def test_uids_are_there_for_those_who_ask(tmp_path):
    clean(tmp_path)
    volume = read_ct(tmp_path)
    assert volume.slice_ids[0] == uid_from("series", "slice", 0)
    assert find_series(tmp_path)[0].series_instance_uid.startswith("2.25.")
