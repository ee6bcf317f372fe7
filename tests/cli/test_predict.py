"""``ct-video-hf predict`` at the command line, on DICOM that is written here."""

import csv
import json
import os
import re
import sys
import weakref
import zipfile

import nibabel
import numpy as np
import pytest

from ct_video_hf import read_ct
from ct_video_hf.cli import main
from ct_video_hf.dicom.write import write_series
from ct_video_hf.inference import CTVideoPipeline
from tests.support.prediction import SPACING, chest_hu, tiny_model_folder

#: What a result holds, as the pipeline's docstring names it.
KEYS = set(re.findall(r"``(\w+)``", CTVideoPipeline.__call__.__doc__))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def studies(tmp_path):
    """Three good studies (folder, zip, NIfTI), one with a gap, and one that is no scan."""
    root = tmp_path / "studies"
    write_series(chest_hu(24), root / "a", key="a", spacing=SPACING, patient_id="MILLER")
    files = write_series(chest_hu(24, seed=1), tmp_path / "b", key="b", spacing=SPACING)
    with zipfile.ZipFile(root / "b.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    hu = chest_hu(24, seed=2)
    affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])  # RAS+ of an LPS grid
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), affine), root / "c.nii.gz")
    gap = write_series(chest_hu(24, seed=3), root / "d", key="d", spacing=SPACING)
    gap[10].unlink()
    (root / "e").mkdir()
    (root / "e" / "notes.txt").write_text("no scan")
    return root


def predict(*arguments):
    return main(["predict", *map(str, arguments), "--device", "cpu"])


def test_one_scan_as_json(model, studies, capsys):
    assert predict(model, studies / "a", "--json", "--quiet") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["study"] == "a"
    assert 0 < answer["study_probability"] < 1
    assert answer["calibrated"] is False
    assert answer["model"]["name"] == "tiny"
    assert {"read", "prepare", "forward", "total"} <= answer["timings_s"].keys()
    for clip in answer["clips"]:
        assert {"start", "stop", "score", "z_mm"} <= clip.keys()
        assert clip["z_mm"][0] < clip["z_mm"][1]
    assert "sop_instance_uid" not in answer["key_slices"][0]
    assert "MILLER" not in json.dumps(answer)


def test_identifiers_only_when_asked(model, studies, capsys):
    import pydicom

    assert predict(model, studies / "a", "--json", "--quiet", "--include-ids") == 0
    key = json.loads(capsys.readouterr().out)["key_slices"][0]
    sops = {
        dataset.SOPInstanceUID: float(dataset.ImagePositionPatient[2])
        for dataset in map(pydicom.dcmread, (studies / "a").iterdir())
    }
    assert sops[key["sop_instance_uid"]] == pytest.approx(key["z_mm"])


def test_a_folder_of_studies(model, studies, tmp_path, capsys):
    out = tmp_path / "out" / "results.csv"
    assert predict(model, studies, "--out", out, "--json", "--quiet") == 1  # two cannot be read
    captured = capsys.readouterr()
    answers = json.loads(captured.out)["studies"]
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["study"] for row in rows] == ["a", "b.zip", "c.nii.gz", "d", "e"]
    assert [answer["study"] for answer in answers] == ["a", "b.zip", "c.nii.gz", "d", "e"]
    for row, answer in zip(rows[:3], answers[:3], strict=True):
        assert float(row["probability"]) == answer["study_probability"]
        assert not row["error"]
    for row in rows[3:]:
        assert row["error"]
        assert not row["probability"]
    assert "d: error" in captured.err
    assert os.listdir(out.parent) == ["results.csv"]
    assert predict(model, studies, "--out", out, "--out", out.with_suffix(".json"), "--quiet") == 1
    assert sorted(os.listdir(out.parent)) == ["results.csv", "results.json"]
    text = out.with_suffix(".json").read_text()
    written = json.loads(text)["studies"]
    for answer, printed in zip(written, answers, strict=True):
        assert answer.keys() == printed.keys()
        assert {"error", "error_type"} <= answer.keys() or set(answer) - {"study"} <= KEYS
        assert answer.get("clips") == printed.get("clips")
    text += json.dumps(answers) + out.read_text()
    assert "MILLER" not in text
    assert str(studies) not in text


def test_policy_reaches_the_reader(model, studies, capsys):
    assert predict(model, studies / "d", "--quiet") == 1
    assert "d: error" in capsys.readouterr().err
    assert predict(model, studies / "d", "--quiet", "--json", "--policy", "repair") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["report"]["policy"] == "repair"
    assert "missing_slice" in {finding["code"] for finding in answer["report"]["findings"]}


def test_pictures_do_not_change_scores(model, studies, tmp_path, capsys):
    assert predict(model, studies / "a", "--json", "--quiet") == 0
    plain = json.loads(capsys.readouterr().out)
    pictures = tmp_path / "pictures"
    assert predict(model, studies / "a", "--json", "--quiet", "--pictures", pictures) == 0
    pictured = json.loads(capsys.readouterr().out)
    assert [clip["score"] for clip in plain["clips"]] == [c["score"] for c in pictured["clips"]]
    assert os.listdir(pictures) == ["a.png"]


def test_stride_and_batch_size_reach_the_pipeline(model, studies, capsys):
    assert predict(model, studies / "a", "--json", "--quiet", "--stride", 2, "--batch-size", 2) == 0
    starts = [clip["start"] for clip in json.loads(capsys.readouterr().out)["clips"]]
    assert starts == [0, 2, 4, 6, 8]


def test_plain_words_and_progress(model, studies, capsys):
    assert predict(model, studies / "a", studies / "b.zip") == 0
    captured = capsys.readouterr()
    assert "Not for clinical use" in captured.out
    assert captured.out.startswith("a  positive  0.")
    assert "study" in captured.err  # the progress bar


def test_failures_keep_stdout_clean(model, studies, tmp_path, capsys):
    assert predict(model, studies / "e", "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer.keys() == {"study", "error", "error_type"}
    assert predict(model, studies / "e") == 1
    assert capsys.readouterr().out == ""
    assert predict(model, tmp_path / "nothing") == 1
    assert predict(tmp_path / "no-model", studies / "a") == 1
    error = capsys.readouterr().err
    assert "nothing" in error
    assert "Traceback" not in error


def test_what_is_finished_when_stopped_is_kept_under_another_name(
    model, studies, tmp_path, monkeypatch, capsys
):
    from ct_video_hf.cli import predict as command

    def stop_at_the_second(args, name, outcome, answers, rows, take=command._take):
        if rows:
            raise KeyboardInterrupt
        take(args, name, outcome, answers, rows)

    monkeypatch.setattr(command, "_take", stop_at_the_second)
    out = [word for end in ("csv", "json") for word in ("--out", tmp_path / f"t.{end}")]
    assert predict(model, studies, *out, "--quiet") == 130
    said = capsys.readouterr().err
    assert "stopped after 1 of 5 studies; they are in " in said
    assert "t.partial.csv and " in said
    assert sorted(tmp_path.glob("t*")) == [tmp_path / "t.partial.csv", tmp_path / "t.partial.json"]
    with (tmp_path / "t.partial.csv").open(newline="") as file:
        assert [row["study"] for row in csv.DictReader(file)] == ["a"]
    (answer,) = json.loads((tmp_path / "t.partial.json").read_text())["studies"]
    assert answer["study"] == "a"


def test_an_output_that_cannot_be_written_is_told_before_the_work(model, studies, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    for option in ("--out", "--pictures"):
        assert predict(model, studies / "a", option, tmp_path / "file" / "x.csv") == 1
        captured = capsys.readouterr()
        assert "nothing can be written to the folder" in captured.err
        assert captured.out == ""


@pytest.mark.parametrize(
    "option",
    [["--policy", "lenient"], ["--stride", "0"], ["--batch", "x"], ["--out", "results.txt"]],
)
def test_wrong_use(model, studies, option):
    with pytest.raises(SystemExit) as exit:
        predict(model, studies, *option)
    assert exit.value.code == 2


def test_maps_of_where_the_scores_come_from(model, studies, tmp_path, capsys):
    """A NIfTI scan's map has its shape and affine; of a DICOM scan it is in patient coordinates."""
    folder = tmp_path / "maps"
    assert predict(model, studies / "a", studies / "c.nii.gz", "--saliency", folder, "--json") == 0
    dicom, nifti = json.loads(capsys.readouterr().out)["studies"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        dicom["saliency"]["files"] + nifti["saliency"]["files"]
    )
    assert (dicom["saliency"]["nifti_grid"], nifti["saliency"]["nifti_grid"]) == (
        "volume",
        "stored",
    )
    for answer, scan in ((dicom, None), (nifti, studies / "c.nii.gz")):
        picture, image = answer["saliency"]["files"]
        assert picture.endswith(".png")
        found = nibabel.load(folder / image)
        values = np.asarray(found.dataobj)
        best = answer["saliency"]["most_suspicious"][0]
        assert values.max() == pytest.approx(best["value"])
        place = found.affine @ [*np.unravel_index(values.argmax(), values.shape), 1.0]
        np.testing.assert_allclose(place[:3] * [-1, -1, 1], best["position_mm"], atol=1e-3)
        if scan is not None:
            assert values.shape == nibabel.load(scan).shape
            np.testing.assert_array_equal(found.affine, nibabel.load(scan).affine)
    assert "MILLER" not in json.dumps(dicom)


def test_full_size_scans_are_let_go_before_the_one_after_next_is_read(
    model, studies, tmp_path, monkeypatch
):
    """Of many scans memory holds the one that is drawn and the next."""
    read, volumes, alive = read_ct, [], []

    def watched(*args, **options):
        alive.append(sum(volume() is not None for volume in volumes))
        volume = read(*args, **options)
        volumes.append(weakref.ref(volume))
        return volume

    monkeypatch.setattr(sys.modules[CTVideoPipeline.__module__], "read_ct", watched)
    scans = [studies / name for name in ("a", "b.zip", "c.nii.gz")]
    where = ["--saliency", tmp_path / "maps", "--overlay", "png"]
    assert predict(model, *scans, *where, "--quiet") == 0
    assert len(volumes) == 3
    assert alive[2] == 1  # the second, which is then computed


def test_one_kind_of_overlay(model, studies, tmp_path):
    folder = tmp_path / "maps"
    assert predict(model, studies / "a", "--saliency", folder, "--overlay", "png", "--quiet") == 0
    assert [path.name for path in folder.iterdir()] == ["a_saliency.png"]
    for wrong in (["--overlay", "png"], ["--saliency", folder, "--overlay", "gif"]):
        with pytest.raises(SystemExit) as stopped:
            predict(model, studies / "a", *wrong)
        assert stopped.value.code == 2
