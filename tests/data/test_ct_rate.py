"""A folder of CT-RATE's shape through the source "folder": the recipe of ``prepare --help``."""

import csv

import nibabel
import numpy as np
import pytest

from ct_video_hf.cli import main
from ct_video_hf.data.clips import build_clip_index
from ct_video_hf.data.loading import load_prepared
from ct_video_hf.data.manifest import read_manifest
from tests.support.dicom_folders import random_hu

#: The columns of the published tables.
FINDINGS = (
    "Medical material",
    "Arterial wall calcification",
    "Cardiomegaly",
    "Pericardial effusion",
    "Coronary artery wall calcification",
    "Hiatal hernia",
    "Lymphadenopathy",
    "Emphysema",
    "Atelectasis",
    "Lung nodule",
    "Lung opacity",
    "Pulmonary fibrotic sequela",
    "Pleural effusion",
    "Mosaic attenuation pattern",
    "Peribronchial thickening",
    "Consolidation",
    "Bronchiectasis",
    "Interlobular septal thickening",
)
#: Two reconstructions of one scan, a second scan of that patient, and others.
NAMES = {
    "train": ("train_1_a_1", "train_1_a_2", "train_1_b_1", "train_2_a_1", "train_12_a_1"),
    "valid": ("valid_1_a_1", "valid_2_a_1"),
}


def hu_of(name: str) -> np.ndarray:
    return random_hu(sum(map(ord, name)), slices=16)


def write_volume(root, name, values) -> None:
    """``<split>_fixed/train_1/train_1_a/train_1_a_1.nii.gz``, as published."""
    split, patient, scan, _ = name.split("_")
    folder = root / f"{split}_fixed" / f"{split}_{patient}" / f"{split}_{patient}_{scan}"
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.5, -1.5, 2.5, 1.0])  # voxels run to the left and the back: LPS
    nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), affine), folder / f"{name}.nii.gz")


def labels_of(name: str) -> list[int]:
    return np.random.default_rng(sum(map(ord, name))).integers(0, 2, len(FINDINGS)).tolist()


def write_rate(root):
    """The volumes and tables of :data:`NAMES`."""
    for split, names in NAMES.items():
        for name in names:
            write_volume(root, name, hu_of(name))
        with (root / f"{split}_predicted_labels.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("VolumeName", *FINDINGS))
            writer.writerows([f"{name}.nii.gz", *labels_of(name)] for name in names)
    return root


@pytest.fixture(scope="module")
def rate(tmp_path_factory):
    return write_rate(tmp_path_factory.mktemp("CT-RATE") / "dataset")


def recipe(root, out, *more):
    words = ["prepare", "folder", "--data-dir", str(root), "--out", str(out), "--find-by-name"]
    words += ["--study-column", "VolumeName", "--label-columns", "*", "--labels"]
    words += [str(root / f"{split}_predicted_labels.csv") for split in NAMES]
    words += ["--patient-pattern", "^((?:train|valid)_[0-9]+)_"]
    return [
        *words,
        "--split-pattern",
        "^(train|valid)_",
        "--reject",
        "implausible_hu",
        "--size",
        "32",
        "--quiet",
        *more,
    ]


def test_the_recipe(rate, tmp_path, capsys):
    assert main(recipe(rate, tmp_path / "set")) == 0
    assert "7 studies (train 5, validation 2, test 0)" in capsys.readouterr().out
    assert read_manifest(tmp_path / "set")["label_names"] == list(FINDINGS)
    data = load_prepared(tmp_path / "set", "all")
    patients = {}
    for row in data:
        name = row["study_id"].removesuffix(".nii.gz")
        assert row["labels"] == labels_of(name)
        stored = np.frombuffer(row["volume"], "<u2").reshape(row["shape"]).astype(int) - 1024
        assert np.array_equal(stored, hu_of(name))
        patients.setdefault(row["patient_hash"], set()).add(name[: name.index("_", 6)])
    assert sorted(map(sorted, patients.values())) == [
        ["train_1"], ["train_12"], ["train_2"], ["valid_1"], ["valid_2"]
    ]  # fmt: skip
    index = build_clip_index(data, 8)
    assert index.labels.shape == (14, 18)
    assert index.labels[::2].tolist() == [row["labels"] for row in data]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda hu: hu + np.int16(1024), "not rescaled"),  # the rescale was left out
        (lambda hu: np.maximum(hu - 1024, -2048).astype(np.int16), "soft tissue"),  # twice
    ],
)
def test_volumes_that_hold_no_hounsfield_units_are_rejects(rate, tmp_path, wrong, said):
    name = "train_2_a_1"
    good = hu_of(name)
    try:
        write_volume(rate, name, wrong(good))
        assert main(recipe(rate, tmp_path / "set", "--fail-on-reject")) == 1
    finally:
        write_volume(rate, name, good)
    with (tmp_path / "set" / "rejects.csv").open() as stream:
        (reject,) = csv.DictReader(stream)
    assert (reject["study"], reject["code"]) == (f"{name}.nii.gz", "implausible_hu")
    assert said in reject["reason"]
    assert len(load_prepared(tmp_path / "set", "all")) == 6


def test_part_of_the_volumes(rate, tmp_path, capsys):
    part = tmp_path / "part"
    for name in NAMES["valid"]:
        write_volume(part, name, hu_of(name))
    words = recipe(rate, tmp_path / "set")
    words[words.index("--data-dir") + 1] = str(part)
    assert main(words) == 1
    assert "5 of 7 scans are not in the data folder" in capsys.readouterr().err
    assert main([*words, "--missing-scans", "drop"]) == 0
    assert "2 studies (train 0, validation 2, test 0)" in capsys.readouterr().out
