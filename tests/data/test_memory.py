"""Preparing streams: memory does not grow with the number of studies."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.support.dicom_folders import write_folder_set
from tests.support.tiny_runs import environment

PREPARE = """
import json, sys
from ct_video_hf.data import PrepareOptions, prepare
options = PrepareOptions(size=256)
summary = prepare("folder", sys.argv[1], sys.argv[2], options=options, progress=False)
# not getrusage: its peak is inherited from the process that starts this one
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
print(json.dumps([summary.studies, peak / 1024]))
"""


def peak_mb(scans, out):
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, str(scans), str(out)],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_ten_times_the_studies_need_no_more_memory(tmp_path):
    """Ten and a hundred studies of 3.3 MB: 300 MB more, if they were kept."""
    few = write_folder_set(tmp_path / "few", studies=10, slices=24)
    shutil.rmtree(tmp_path / "few" / "s0")
    rows = (few / "labels.csv").read_text().splitlines()
    rows = [rows[0], *(row for row in rows[1:] if not row.startswith("s0,"))]
    many = tmp_path / "many"
    shutil.copytree(few, many)
    for number in range(10, 100):
        like = 1 + number % 9
        shutil.copytree(few / f"s{like}", many / f"s{number}", copy_function=os.link)
        row = next(row for row in rows if row.startswith(f"s{like},"))
        rows.append(row.replace(f"s{like},", f"s{number},").replace(f",p{like},", f",p{number},"))
    (many / "labels.csv").write_text("\n".join(rows) + "\n")
    (few / "labels.csv").write_text("\n".join(rows[:10]) + "\n")
    small, large = peak_mb(few, tmp_path / "a"), peak_mb(many, tmp_path / "b")
    assert (small[0], large[0]) == (9, 99)
    assert large[1] - small[1] < 30
