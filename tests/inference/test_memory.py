"""Predicting streams: memory grows by the scan at the network's size, and by nothing else."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ct_video_hf.dicom.write import write_series
from tests.support.tiny_runs import environment

PREDICT = """
import json, sys
import ct_video_hf
model, *scans = sys.argv[1:]
stride, mapped = scans.pop(0).split(",")
options = {"tta": "flips"} if mapped else {}
predict = ct_video_hf.pipeline(model, device="cpu", stride=int(stride), **options)
if mapped:
    clips = [len(predict.saliency(scan).clips) for scan in scans]
else:
    clips = [len(outcome.result["clips"]) for outcome in predict.predict_many(scans)]
# not getrusage: its peak is inherited from the process that starts this one
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
print(json.dumps([clips, peak / 1024]))
"""
SIDE, SIZE = 224, 72  # of the files, and of the tiny model's processor


def peak_mb(model, stride, *scans, mapped=False):
    """Clips of each scan, and the peak of a process that scores them or maps their saliency."""
    how = f"{stride},{'mapped' if mapped else ''}"
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, str(model), how, *map(str, scans)],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_long_study_needs_its_planes_and_no_more(model_folder, tmp_path):
    """1,500 slices are 143 MB in their files, 15 MB at the network's size, and twice with a next.

    A saliency map of a path needs no more. All clips at once would be 195 MB at stride 2, as
    pixels alone. glibc may keep some tens of MB between blocks that are in use, which a longer
    study does not multiply.
    """
    hu = np.random.default_rng(0).integers(-1000, 400, (300, SIDE, SIDE), np.int16)
    small = write_series(hu, tmp_path / "short", key="a", spacing=(1.0, 1.0, 1.0))[0].parent
    large = write_series(
        np.concatenate([hu] * 5), tmp_path / "long", key="b", spacing=(1.0, 1.0, 1.0)
    )[0].parent
    (short, base) = peak_mb(model_folder, 8, small)
    (finely, fine) = peak_mb(model_folder, 2, large)
    (both, two) = peak_mb(model_folder, 8, large, large)
    (mapped, shown) = peak_mb(model_folder, 8, large, mapped=True)
    assert (short, finely, both, mapped) == ([37], [743], [187, 187], [187])
    planes = 1500 * SIZE * SIZE * 2 / 2**20
    slack = 80
    print(f"peak MB: 300 slices {base:.0f}; 1,500 at stride 2 {fine:.0f}, twice {two:.0f}")
    print(f"peak MB of 1,500 slices with the map of both sides: {shown:.0f}")
    assert fine - base < planes + slack
    assert two - base < 2 * planes + slack
    assert shown - base < planes + slack
