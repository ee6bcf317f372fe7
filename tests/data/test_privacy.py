"""Identifiers in every header field, searched for in everything that comes out of a scan."""

import base64
import io
import json
import re
import subprocess
import sys

import pyarrow.parquet as pq
import pydicom
import pytest
from pydicom.datadict import DicomDictionary

from ct_video_hf.cli import main
from tests.data.test_prepared import content
from tests.support.dicom_folders import write_study, write_table
from tests.support.hub_server import HubServer
from tests.support.tiny_runs import REPOSITORY

#: What is planted by value representation; {} is the tag, so that a find says where it came from.
TEXT = dict.fromkeys(("LO", "SH", "ST", "LT", "UT", "UC", "UR", "CS", "AE"), "ZQ{}")
PLANTS = TEXT | {
    "PN": "Zq{}^Quentin", "UI": "1.2.840.99887766.{}", "DA": "19070311", "TM": "031733.77",
    "DT": "19070311031733", "AS": "087Y",
}  # fmt: skip
#: Fields whose content is meant to be used or published, or that say how to read the others.
SPARED = {"Manufacturer", "ConvolutionKernel", "RescaleType", "SpecificCharacterSet"}
SEARCHED = re.compile(
    rb"ZQ[0-9A-F]{8}|ZQPATIENT|ZQSTUDY|ZQSCANS|QUENTIN|99887766|19070311|031733|087Y|2\.25\.\d",
    re.IGNORECASE,
)


def plant(folder):
    """Fill every field of every header that holds text, a name, a date or a UID; name the files."""
    planted = 0
    for file in list(folder.iterdir()):
        header = pydicom.dcmread(file)
        for number, (kind, _, _, _, keyword) in DicomDictionary.items():
            tag = pydicom.tag.Tag(number)
            if tag.group < 8 or tag.group > 0x5000 or tag in header or keyword in SPARED:
                continue
            if kind in PLANTS:
                value = PLANTS[kind].format(number if kind == "UI" else f"{number:08X}")
                header.add_new(tag, kind, value)
                planted += 1
        header.PatientID, header.PatientName = "ZQPATIENT", "ZQPATIENT^Quentin"
        header.save_as(file)
        file.rename(file.with_name(f"ZQPATIENT_{file.name}"))
    return planted


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A study that is read, and one with a gap, which is rejected with a message."""
    root = tmp_path_factory.mktemp("ZQSCANS")
    names = ("ZQSTUDY1", "ZQSTUDY2")
    for number, name in enumerate(names):
        write_study(root / name, seed=number, slices=17)
        assert plant(root / name) > 17 * 1500
    files = sorted((root / "ZQSTUDY2").iterdir(), key=height)
    files[8].unlink()
    rows = [{"study": name, "label": 0, "split": "test", "patient": "ZQPATIENT"} for name in names]
    write_table(root / "labels.csv", rows)
    return root


def height(file):
    return pydicom.dcmread(file, stop_before_pixels=True).ImagePositionPatient[2]


def assert_clean(data, what):
    data = data if isinstance(data, bytes) else data.encode()
    wide = data.decode("utf-16-le", errors="ignore").encode(errors="ignore")
    found = {*SEARCHED.findall(data), *SEARCHED.findall(wide)}
    assert not found, f"{what} holds {sorted(found)}"


def test_no_identifier_leaves(scans, tmp_path, capfd, caplog):
    caplog.set_level("DEBUG", logger="ct_video_hf")
    out = tmp_path / "set"
    words = ["prepare", "folder", "--data-dir", str(scans), "--size", "32", "--out", str(out)]
    words += ["--hash-study-ids", "--policy", "strict", "-v"]
    assert main(words) == 0
    page, sheet = tmp_path / "page.html", tmp_path / "sheet.png"
    assert main(["inspect", str(out), "--report", str(page), "--picture", str(sheet)]) == 0
    assert main(["inspect", str(out), "--json"]) == 0
    told = capfd.readouterr()
    assert "left out" in told.err
    for name, text in (("stdout", told.out), ("stderr", told.err)):
        assert_clean(text.replace(str(tmp_path), "").replace(str(scans), ""), name)
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("ct_video_hf")]
    assert_clean("\n".join(ours), "the log")
    files = content(out)
    key = files.pop("private/study_key.csv")
    assert b"ZQSTUDY1" in key
    assert b"ZQPATIENT_" in files.pop("private/rejects.csv")  # what is known stays at home
    assert {"README.md", "manifest.json", "rejects.csv", "index.arrow"} <= set(files)
    assert re.search(rb'missing_slice,"1 slice missing between file 8 at', files["rejects.csv"])
    for name, data in files.items():
        assert_clean(data, name)
    pictures = re.compile(r"data:image/png;base64,([^\"]*)")
    text = page.read_text(encoding="utf-8")
    assert_clean(pictures.sub("", text), page.name)
    for picture in pictures.findall(text):
        assert_clean(base64.b64decode(picture), "a picture of the page")
    assert_clean(sheet.read_bytes(), sheet.name)


def test_no_identifier_is_pushed(scans, tmp_path):
    """Names of studies that the set keeps, because a table gave them, become hashes on the way."""
    out = tmp_path / "set"
    words = ["prepare", "folder", "--data-dir", str(scans), "--size", "32", "--out", str(out)]
    assert main([*words, "--no-hash-study-ids", "-q"]) == 0
    with HubServer(tmp_path / "hub") as hub:
        done = subprocess.run(
            [sys.executable, "-m", "ct_video_hf", "push", str(out), "tester/ct-set"],
            env=hub.env(tmp_path) | {"PYTHONPATH": str(REPOSITORY)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert_clean(done.stdout + done.stderr, "what push says")
        files = hub.files("tester/ct-set", "dataset")
        assert sum(name.endswith(".parquet") for name in files) == 1
        for name, data in files.items():
            assert_clean(data, name)
            if name.endswith(".parquet"):
                table = pq.read_table(io.BytesIO(data))
                assert_clean(json.dumps(table.drop(["volume"]).to_pylist()), f"rows of {name}")
                assert_clean(b"".join(table["volume"].to_pylist()), f"volumes of {name}")
