"""Several models on one scan."""

from __future__ import annotations

import csv
import json
import sys

import pytest

from ct_video_hf.cli import main
from ct_video_hf.dicom.write import write_series
from ct_video_hf.errors import CTVideoError
from ct_video_hf.hub import save_model_folder
from ct_video_hf.inference import CTVideoPipeline, LoadedModel, pipeline
from ct_video_hf.inference.ensemble import CTVideoEnsemble
from tests.support.prediction import (
    SPACING,
    chest_hu,
    tiny_model,
    tiny_processor,
    volume_of,
)


def member(name, labels=1, **processor):
    loaded = LoadedModel(tiny_model(labels), tiny_processor(**processor), name)
    return CTVideoPipeline(loaded, device="cpu")


SMALL = {"size": 48, "crop_size": 48, "windows": [[50.0, 400.0]]}


@pytest.mark.parametrize(("other", "alike"), [(SMALL, True), (SMALL | {"stride": 4}, False)])
def test_probabilities_are_the_mean_of_the_members(other, alike):
    members = [member("a"), member("b", **other)]
    volume = volume_of(chest_hu(40))
    one, two = (each(volume) for each in members)
    result = CTVideoEnsemble(members)(volume, include_ids=True)
    assert one["study_probability"] != two["study_probability"]
    mean = (one["study_probability"] + two["study_probability"]) / 2
    assert result["study_probability"] == pytest.approx(mean, abs=1e-9)
    own = [part["study_probability"] for part in result["members"]]
    assert own == [one["study_probability"], two["study_probability"]]
    assert [part["model"]["name"] for part in result["members"]] == ["a", "b"]
    assert result["model"]["name"] == "a + b"
    assert result["calibrated"] is False
    expected = [clip["score"] for clip in one["clips"]]
    if alike:
        expected = [
            (a["score"] + b["score"]) / 2 for a, b in zip(one["clips"], two["clips"], strict=True)
        ]
    assert [clip["score"] for clip in result["clips"]] == pytest.approx(expected)
    assert result["clips_of"].startswith("all models" if alike else "the first model, a")
    for key in result["key_slices"]:
        assert key["sop_instance_uid"] == volume.slice_ids[key["index"]]
        assert any(clip["start"] <= key["index"] < clip["stop"] for clip in result["clips"])
    json.dumps(result, allow_nan=False)


def test_members_of_other_labels_are_refused():
    with pytest.raises(CTVideoError, match="same labels"):
        CTVideoEnsemble([member("a"), member("b", labels=2)])
    with pytest.raises(CTVideoError, match="at least 2"):
        CTVideoEnsemble([member("a")])


def test_the_command_reads_each_scan_once(tmp_path, capsys, monkeypatch):
    module = sys.modules[pipeline.__module__]
    folders = [
        save_model_folder(tiny_model(), tiny_processor(**processor), tmp_path / name)
        for name, processor in (("a", {}), ("b", SMALL))
    ]
    scans = tmp_path / "scans"
    write_series(chest_hu(24), scans / "s0", key="a", spacing=SPACING)
    (scans / "s1").mkdir()
    (scans / "s1" / "x.txt").write_text("no scan")
    read, calls = module.read_ct, []

    def counting(path, **options):
        calls.append(path.name)
        return read(path, **options)

    monkeypatch.setattr(module, "read_ct", counting)
    out = tmp_path / "table.csv"
    words = ["predict", folders[0], scans, "--also", folders[1], "--json", "--quiet"]
    words += ["--device", "cpu", "--out", out, "--pictures", tmp_path / "pictures"]
    assert main([str(word) for word in words]) == 1  # s1 has its error, s0 its score
    assert calls == ["s0", "s1"]
    good, bad = json.loads(capsys.readouterr().out)["studies"]
    assert "error" in bad
    own = [part["study_probability"] for part in good["members"]]
    alone = [pipeline(folder, device="cpu")(scans / "s0") for folder in folders]
    assert own == pytest.approx([each["study_probability"] for each in alone], abs=1e-9)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["probability"]) == pytest.approx(sum(own) / 2)
    assert rows[0]["model"] == "a + b"
    assert (tmp_path / "pictures" / "s0.png").is_file()
