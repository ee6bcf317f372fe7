"""A whole real chest CT: the same scores while streaming and in one go."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

import ct_video_hf


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    data = os.environ.get("CT_VIDEO_HF_REAL_DATA")
    if not data:
        pytest.skip("CT_VIDEO_HF_REAL_DATA does not name the folder of real scans")
    folder = tmp_path_factory.mktemp("lidc")
    with tarfile.open(Path(data) / "lidc" / "LIDC-IDRI-0001.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.real
@pytest.mark.slow
def test_streaming_equals_the_whole_volume(model_folder, scan):
    predict = ct_video_hf.pipeline(model_folder, device="cpu", batch_size=8)
    streamed = predict(scan)
    volume = ct_video_hf.read_ct(scan)
    whole = predict(volume)
    assert len(volume) == 133
    scores = [[clip["score"] for clip in result["clips"]] for result in (streamed, whole)]
    np.testing.assert_array_equal(*scores)
    assert streamed["key_slices"] == whole["key_slices"]
    best = streamed["key_slices"][0]
    assert best["z_mm"] == pytest.approx(volume.z_mm[best["index"]])
    assert best["source_index"] == volume.source_index[best["index"]]
