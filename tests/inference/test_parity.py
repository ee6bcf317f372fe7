"""One scan, one set of scores: whatever its format, backend, batch, and whether clips share.

Logits agree within 1e-3 of their spread between clips in float32, which is what is promised. From
DICOM and NIfTI they are the same numbers, because the Hounsfield units are.
"""

from __future__ import annotations

import itertools
import zipfile

import nibabel
import numpy as np
import pytest

from ct_video_hf.dicom.write import write_series
from ct_video_hf.inference import CTVideoPipeline, LoadedModel
from tests.support.prediction import SPACING, chest_hu, tiny_model, tiny_processor, volume_of

#: Stem and first stage see slices alone.
HALF = {"stem_kernel": [1, 5, 5], "temporal_kernels": [1, 3, 3]}


def predict_with(share=True, **options):
    loaded = LoadedModel(tiny_model(**HALF), tiny_processor(), "tiny")
    predict = CTVideoPipeline(loaded, device="cpu", **options)
    predict.scorer.share = share
    return predict


def logits(result):
    scores = np.array([clip["score"] for clip in result["clips"]])
    return np.log(scores) - np.log1p(-scores)


def test_dicom_zip_and_nifti_of_a_scan_score_the_same(tmp_path):
    hu = chest_hu(45)
    files = write_series(hu, tmp_path / "dicom", key="a", spacing=SPACING, shuffle=True)
    compressed = tmp_path / "compressed"
    write_series(hu, compressed, key="a", spacing=SPACING, transfer_syntax="1.2.840.10008.1.2.4.70")
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])  # RAS+ of an LPS grid
    image = nibabel.Nifti1Image(hu.transpose(2, 1, 0), affine)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    flipped = nibabel.as_closest_canonical(image)  # the same scan, its axes stored otherwise
    nibabel.save(flipped, tmp_path / "canonical.nii")
    predict = predict_with()
    names = ("dicom", "compressed", "scan.zip", "scan.nii.gz", "canonical.nii")
    results = predict([tmp_path / name for name in names], on_error="raise")
    expected = logits(predict(volume_of(hu)))
    assert np.std(expected) > 1e-3  # otherwise nothing below could fail
    for name, result in zip(names, results, strict=True):
        np.testing.assert_array_equal(logits(result), expected, err_msg=name)
        assert [key["index"] for key in result["key_slices"]] == [
            key["index"] for key in results[0]["key_slices"]
        ]


@pytest.mark.parametrize("slices", [45, 20])
def test_backend_batch_and_sharing_change_nothing_but_rounding(slices):
    volume = volume_of(chest_hu(slices))
    expected = logits(predict_with(share=False, backend="eager", batch_size=1)(volume))
    spread = expected.std()
    assert spread > 1e-3
    for share, backend, batch in itertools.product((True, False), ("eager", "fast"), (1, 8)):
        found = logits(predict_with(share=share, backend=backend, batch_size=batch)(volume))
        far = np.abs(found - expected).max() / spread
        assert far < 1e-3, (share, backend, batch, far)
