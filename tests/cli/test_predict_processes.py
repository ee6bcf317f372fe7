"""``accelerate launch -m ct_video_hf predict``: two processes write what one does."""

from __future__ import annotations

import csv
import json
import sys

import pytest

from ct_video_hf.cli import main
from ct_video_hf.dicom.write import write_series
from ct_video_hf.inference.processes import Processes
from tests.support.prediction import SPACING, chest_hu, tiny_model_folder
from tests.support.tiny_runs import REPOSITORY, complete

CPU = REPOSITORY / "scripts" / "accelerate" / "two_cpu.yaml"


def answers_of(text):
    """The JSON object in what a launcher and its processes printed."""
    studies = json.loads(text[text.index("{") : text.rindex("}") + 1])["studies"]
    for study in studies:
        study.pop("timings_s", None)
    return studies


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_predict_what_one_does(tmp_path, capsys):
    """Five studies, one of them no scan: the parts differ in length, and one has an error."""
    model = str(tiny_model_folder(tmp_path / "tiny"))
    scans = tmp_path / "scans"
    for number in (0, 1, 3, 4):
        write_series(
            chest_hu(24, seed=number), scans / f"s{number}", key=str(number), spacing=SPACING
        )
    (scans / "s2").mkdir()
    (scans / "s2" / "notes.txt").write_text("no scan")
    arguments = ["predict", model, str(scans), "--device", "cpu", "--json", "--quiet", "--out"]
    assert main([*arguments, str(tmp_path / "one.csv")]) == 1
    one = answers_of(capsys.readouterr().out)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CPU)]
    command = [*launch, "-m", "ct_video_hf", *arguments, str(tmp_path / "two.csv")]
    with pytest.raises(AssertionError) as failed:  # the exit code says that a study failed
        complete(command)
    assert "s2" in str(failed.value)
    columns = ("study", "probability", "error")
    tables = []
    for name in ("one.csv", "two.csv"):
        with (tmp_path / name).open(newline="") as file:
            tables.append([[row[column] for column in columns] for row in csv.DictReader(file)])
    assert [row[0] for row in tables[1]] == ["s0", "s1", "s2", "s3", "s4"]
    for first, second in zip(*tables, strict=True):
        assert first[0] == second[0]
        assert first[2] == second[2]
        if not first[2]:
            assert float(first[1]) == pytest.approx(float(second[1]), abs=1e-6)
    assert [answer["study"] for answer in one] == [row[0] for row in tables[1]]
    assert "error" in one[2]


def test_one_process_has_all():
    alone = Processes()
    assert (alone.first, alone.count, alone.device) == (True, 1, None)
    assert list(alone.mine("abc")) == list("abc")
    assert alone.merged([3, 1, 2]) == [3, 1, 2]
    alone.close()
