"""What must not leave the house is planted in a model folder, and the push names file and rule."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from safetensors.torch import load_file, save_file

from ct_video_hf.dicom.write import write_series
from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation.style import new_axes, new_figure, save_figure
from ct_video_hf.hub import push_model, save_model_folder
from ct_video_hf.hub.card import ModelCardFacts, render_model_card
from ct_video_hf.hub.card_figures import FIGURES, pictures_in
from ct_video_hf.hub.guard import plan_upload
from ct_video_hf.hub.private_text import find_private
from ct_video_hf.models import create_model, processor_for
from tests.support.prediction import SPACING, chest_hu, tiny_model_folder
from tests.support.transformers_models import CONFIGS, video_model_folder

PNG = "figures/roc.png"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def folder(whole, tmp_path):
    """A model folder with records and a figure, as training leaves it."""
    path = tmp_path / "tiny"
    path.mkdir()
    for file in whole.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    (path / "training_log.csv").write_text("step,epoch,eval_study/auroc\n1,1.0,0.5\n2,2.0,\n")
    (path / "metrics.json").write_text("{}")
    (path / "predictions.csv").write_text("study_id,patient_hash,score\nJane Roe,ab,0.5\n")
    figure = new_figure()
    new_axes(figure, "x", "y")
    (path / "figures").mkdir()
    save_figure(figure, path / PNG)
    return path


def refused(folder, secret=None):
    """What the push says, which must not repeat ``secret``."""
    with pytest.raises(CTVideoError, match="is not pushed") as refusal:
        push_model(folder, "tester/tiny", dry_run=True)
    if secret is not None:
        assert secret not in str(refusal.value)
    return str(refusal.value)


def test_what_training_leaves_may_go(folder):
    told = push_model(folder, "tester/tiny", dry_run=True)
    assert {PNG, "training_log.csv", "metrics.json", "slow.py", "README.md"} <= set(told.files)
    assert told.left_out == ["predictions.csv"]


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_models_of_transformers_may_go(family, tmp_path):
    start = str(video_model_folder(family, tmp_path / "start"))
    folder = save_model_folder(create_model(start), processor_for(start), tmp_path / family)
    assert {"model.safetensors", "processing_ct.py"} <= set(plan_upload(folder).files)
    state = load_file(folder / "model.safetensors") | {"Jane Roe": torch.zeros(9)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert "hold 1 tensors that the network has not" in refused(folder, "Jane Roe")


# ---- scans and tables, by content ----------------------------------------------------------------


@pytest.fixture(scope="module")
def dicom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    write_series(chest_hu(3, 32), folder, spacing=SPACING)
    return next(file for file in sorted(folder.rglob("*")) if file.is_file()).read_bytes()


def bare(dicom, implicit):
    """The data set alone, as old archives keep it."""
    data, out = pydicom.Dataset(pydicom.dcmread(io.BytesIO(dicom))), io.BytesIO()
    data.save_as(out, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    return out.getvalue()


def nifti():
    header = bytearray(352)
    header[:4], header[344:348] = struct.pack("<i", 348), b"n+1\0"
    return bytes(header)


def zipped(content):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("readme", "nothing")
        archive.writestr("a/b", content)
    return out.getvalue()


def tarred(content):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("a/b")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def parquet(**columns):
    out = io.BytesIO()
    pd.DataFrame(columns).to_parquet(out)
    return out.getvalue()


def array():
    out = io.BytesIO()
    np.save(out, np.zeros((2, 2), np.int16))
    return out.getvalue()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda dicom: dicom, "a DICOM file"),
        (lambda dicom: bare(dicom, implicit=False), "a DICOM file"),
        (lambda dicom: bare(dicom, implicit=True), "a DICOM file"),
        (gzip.compress, "a DICOM file, packed"),
        (zipped, "a DICOM file, packed"),
        (tarred, "a DICOM file, packed"),
        (lambda dicom: nifti(), "a NIfTI volume"),
        (lambda dicom: gzip.compress(nifti()), "a NIfTI volume, packed"),
        (lambda dicom: b"NRRD0004\n", "an NRRD volume"),
        (lambda dicom: b"ObjectType = Image\nNDims = 3\n", "a MetaImage volume"),
        (lambda dicom: b"ARROW1\0\0", "an Arrow file"),
        (lambda dicom: array(), "a NumPy array"),
        (lambda dicom: parquet(PatientID=["7"], score=[0.5]), "the column PatientID"),
        (lambda dicom: parquet(volume=[b"\0\1"]), "volumes"),
    ],
)
@pytest.mark.parametrize("name", ["assets/logo.bin", "notes"])
def test_patient_data_under_any_name_and_in_any_folder(folder, dicom, make, words, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(make(dicom))
    said = refused(folder)
    assert name in said
    assert words in said


@pytest.mark.parametrize(
    "line", ["Patient ID,age", "id;patient_name;x", "StudyInstanceUID\tz", "MRN,score"]
)
def test_tables_that_name_patients(folder, line):
    (folder / "extra.csv").write_text(f"{line}\n4711,5\n")
    assert "extra.csv looks like patient data (a table with the column" in refused(folder, "4711")


@pytest.mark.parametrize("name", ["model.safetensors", "README.md", PNG])
def test_a_scan_in_place_of_a_model_file(folder, dicom, name):
    (folder / name).write_bytes(dicom)
    assert f"{name} looks like patient data" in refused(folder)


def test_every_picture_of_the_card_goes(folder):
    for name in FIGURES:
        for end in ("", "_dark"):
            path = folder / "figures" / f"{name}{end}.png"
            path.write_bytes((folder / PNG).read_bytes())
    shown = pictures_in(render_model_card(ModelCardFacts.from_folder(folder)))
    assert len(shown) == 2 * len(FIGURES)
    assert set(shown) <= set(plan_upload(folder).files)


def test_unknown_files_stay_at_home(folder):
    (folder / "figures" / "slice_12.png").write_bytes((folder / PNG).read_bytes())
    (folder / "notes.txt").write_text("about Jane")
    (folder / "table.csv").write_text("epoch,loss\n1,2\n")
    os.mkfifo(folder / "pipe")
    plan = plan_upload(folder)
    assert {"figures/slice_12.png", "notes.txt", "table.csv", "pipe"} <= set(plan.left_out)
    assert not {"figures/slice_12.png", "notes.txt", "table.csv", "pipe"} & set(plan.files)


# ---- links ---------------------------------------------------------------------------------------


def test_links_that_leave_the_folder(folder, tmp_path):
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    (folder / "conversion.json").symlink_to(outside)
    assert "conversion.json is not pushed: it is a link that leaves the folder" in refused(folder)
    (folder / "conversion.json").unlink()
    (folder / "metrics.json").rename(folder / "kept.txt")
    (folder / "metrics.json").symlink_to("kept.txt")  # this one stays inside
    (folder / "more").symlink_to(tmp_path)
    plan = plan_upload(folder)
    assert "metrics.json" in plan.files
    assert "more" in plan.left_out, "a link to a folder is not followed"


def test_a_snapshot_of_the_cache_is_copied_first(folder, tmp_path):
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        if file.is_file():
            (snapshot / file.name).symlink_to(file)
    assert "hf download" in refused(snapshot)


# ---- what goes -----------------------------------------------------------------------------------

SECRETS = {
    "an access token of the Hub": "hf_" + "aB3" * 10,
    "an AWS access key": "AKIA" + "ABCDEFGH12345678",
    "an AWS secret key": "aws_secret_access_key = " + "aB3/" * 10,
    "a private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "a GitHub token": "ghp_" + "a1B2" * 9,
    "an API key": "sk-" + "a1B2" * 9,
    "a password in an address": "https://ada:geheim@host.example/x",
    "a password": "password: geheim77",
    "a DICOM UID": "1.2.840.113619.2.55.3.604688.12",
    "a mail address": "ada@clinic.example.org",
    "a person's name as DICOM writes it": "Müller^Ada",
    "a place on a machine": "/gpfs01/ada/scans",
}


@pytest.mark.parametrize("words", SECRETS)
def test_secrets_and_identifiers_in_every_text(folder, words):
    secret = SECRETS[words]
    for name, content in (
        ("metrics.json", json.dumps({"note": [f"see {secret}"]})),
        ("config.json", json.dumps(json.loads((folder / "config.json").read_text())
                                   | {"note": secret})),
        ("training_config.json", json.dumps({"data": {"set": secret}})),
    ):  # fmt: skip
        before = (folder / name).read_text() if (folder / name).exists() else None
        (folder / name).write_text(content)
        assert f"{name} is not pushed: it holds {words}" in refused(folder, secret)
        (folder / name).unlink() if before is None else (folder / name).write_text(before)


@pytest.mark.parametrize("place", ["/home/ada/x", "~/scans/x", r"C:\Users\ada", r"\\nas\scans",
                                   "file:///srv/x", "/Volumes/Disk/ct"])  # fmt: skip
def test_places_on_any_machine(place):
    assert find_private(f"see {place}.") == ["a place on a machine (line 1)"]
    assert find_private(json.dumps({"a": place})) == ["a place on a machine (line 1)"]


@pytest.mark.parametrize(
    "text", ["3/4 of he/she", "https://host.example/data/x.pyth", "clip/auroc study/auroc",
             "`clip/...` and </details></p>", "torch 2.14.1, 1.5 mm", "user/model@main", "/dev"]
)  # fmt: skip
def test_what_is_harmless(text):
    assert find_private(text) == []


def test_escapes_hide_nothing(folder):
    (folder / "metrics.json").write_text('{"note": "\\u002fhome\\u002fada\\u002fscans"}')
    assert "a place on a machine" in refused(folder)
    (folder / "metrics.json").write_text('{"PatientName": "x"}')
    assert "identifies a patient or a study, by its key (PatientName)" in refused(folder)
    (folder / "metrics.json").write_bytes('{"note": "Müller"}'.encode("utf-16"))
    assert "metrics.json is not pushed: it is not UTF-8" in refused(folder)
    (folder / "metrics.json").write_text("[" + "0," * 3_000_000 + "0]")
    assert "more than a record of a model needs" in refused(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("step,loss\n1,Jane Roe\n", "line 2 holds something else than numbers"),
        ("step,Jane Roe\n1,2\n", "its first line is not names of metrics"),
    ],
)
def test_a_log_holds_numbers(folder, content, words):
    (folder / "training_log.csv").write_text(content)
    assert words in refused(folder, "Jane Roe")


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"tEXt", b"Patient\0Jane Roe"),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"Jane Roe")),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x>Jane Roe</x>"),
        (b"eXIf", b"MM\0*Jane Roe"),
        (b"ctSL", b"Jane Roe"),
    ],
)
def test_text_beside_a_picture(folder, kind, body):
    png = (folder / PNG).read_bytes()
    (folder / PNG).write_bytes(png[:33] + chunk(kind, body) + png[33:])
    assert f"{PNG} is not pushed: it holds text or EXIF" in refused(folder, "Jane Roe")


def test_after_a_picture_and_no_picture(folder):
    png = (folder / PNG).read_bytes()
    (folder / PNG).write_bytes(png + b"Jane Roe")
    assert "something after the picture's end" in refused(folder, "Jane Roe")
    (folder / PNG).write_bytes(b"Jane Roe")
    assert "it is no PNG picture" in refused(folder)
    (folder / PNG).write_bytes(png[:-20])
    assert "it is damaged" in refused(folder)
    (folder / PNG).write_bytes(png[:-12])
    assert "it is cut off" in refused(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state, meta: meta.update(patient="Jane Roe"), "metadata beside"),
        (lambda state, meta: state.update({"Jane Roe": torch.zeros(9)}), "the network has not"),
        (lambda state, meta: state.pop("classifier.bias"), "lack 1 tensors of the network"),
        (lambda state, meta: state.update({"classifier.bias": torch.zeros(512, 512)}), "shape"),
        (
            lambda state, meta: state.update({"classifier.bias": torch.zeros(1).short()}),
            "shape or kind",
        ),
    ],
)
def test_weights_are_the_networks_alone(folder, change, words):
    state, meta = load_file(folder / "model.safetensors"), {"format": "pt"}
    change(state, meta)
    save_file(state, folder / "model.safetensors", metadata=meta)
    assert words in refused(folder, "Jane Roe")


def test_code_is_this_packages_alone(folder):
    (folder / "helper.py").write_text("x = 1\n")
    assert "helper.py is not pushed: it is not code of this package" in refused(folder)
    (folder / "helper.py").unlink()
    with (folder / "slow.py").open("a") as code:
        code.write("\nimport os\n")
    assert "slow.py is not pushed" in refused(folder)


def test_pickles(folder):
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "pytorch_model.bin is pickled" in refused(folder)


def test_a_prepared_set_is_no_model(folder):
    (folder / "private").mkdir()
    with pytest.raises(CTVideoError, match="is a prepared set, not a model"):
        push_model(folder, "tester/tiny", dry_run=True)
