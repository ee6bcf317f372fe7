"""Generated studies: what the task is, and that nothing else tells the label."""

import csv

import numpy as np
import pydicom
import pytest

from ct_video_hf.data.phantom import PhantomParameters, generate_study
from ct_video_hf.data.phantom_files import write_phantom
from ct_video_hf.errors import CTVideoError

SMALL = PhantomParameters(matrix=64, pixel_mm=4.5, slices=(20, 24), structure_cm3=(15.0, 40.0))


def study(seed, positive):
    return generate_study(np.random.default_rng(seed), positive, SMALL)


def test_label_is_the_presence_of_nodules():
    assert study(1, True).label == 1
    assert study(1, False).label == 0
    assert study(1, False).nodules == []


def test_volume_is_hu_of_a_chest():
    hu = study(2, True).hu
    assert hu.dtype == np.int16
    assert 20 <= len(hu) <= 24
    assert np.median(hu[:, :3, :3]) < -950  # air around the body
    assert -930 < np.percentile(hu[:, 30:34, 16:20], 20) < -780  # lung
    assert hu.min() >= -1024


@pytest.mark.parametrize("seed", range(5))
def test_nodule_is_bright_where_the_truth_says_and_dark_beyond_its_slices(seed):
    made = study(seed, True)
    for nodule in made.nodules:
        _, row, column = (round(value) for value in nodule["centre"])
        column_of_hu = made.hu[:, row, column]
        inside = slice(nodule["slice_start"], nodule["slice_stop"])
        assert column_of_hu[inside].mean() > -300
        beyond = [nodule["slice_start"] - 2, nodule["slice_stop"] + 1]
        assert all(column_of_hu[z] < -500 for z in beyond if 0 <= z < len(made.hu))


def test_nodules_have_at_least_four_slices_mostly():
    spans = [
        nodule["slice_stop"] - nodule["slice_start"]
        for seed in range(20)
        for nodule in study(seed, True).nodules
    ]
    assert np.mean(np.array(spans) >= 4) > 0.9


def test_same_seed_same_bytes_whatever_the_workers(tmp_path):
    options = {"train": 2, "validation": 1, "test": 1, "parameters": SMALL, "progress": False}
    one = write_phantom(tmp_path / "one", workers=1, **options)
    two = write_phantom(tmp_path / "two", workers=2, **options)
    assert one.read_bytes() == two.read_bytes()
    files = sorted(path.relative_to(one.parent) for path in one.parent.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(two.parent) for p in two.parent.rglob("*") if p.is_file())
    assert all((one.parent / f).read_bytes() == (two.parent / f).read_bytes() for f in files)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    table = write_phantom(
        folder, train=8, validation=2, test=2, parameters=SMALL, workers=1, progress=False
    )
    with table.open(encoding="utf-8") as stream:
        return folder, list(csv.DictReader(stream))


def test_splits_are_balanced(written):
    _, rows = written
    labels = {row["study"]: (row["split"], row["label"]) for row in rows}
    counts = {key: list(labels.values()).count(key) for key in set(labels.values())}
    assert counts[("train", "1")] == counts[("train", "0")] == 4


def test_headers_names_and_sizes_do_not_tell_the_label(written):
    folder, rows = written
    seen = {"0": set(), "1": set()}
    for row in rows:
        files = sorted((folder / row["study"]).iterdir())
        header = pydicom.dcmread(files[0])
        fixed = {
            element.keyword: str(element.value)
            for element in header
            if element.VR != "UI"
            and element.keyword
            not in ("PixelData", "PatientID", "ImagePositionPatient", "InstanceNumber")
        }
        seen[row["label"]].add((*sorted(fixed.items()), ("first name", files[0].name)))
    assert seen["0"] == seen["1"]
    assert len(seen["0"]) == 1


def test_file_order_is_not_slice_order(written):
    folder, rows = written
    files = sorted((folder / rows[0]["study"]).iterdir())
    z = [float(pydicom.dcmread(path).ImagePositionPatient[2]) for path in files]
    assert sorted(z) not in (z, z[::-1])


def test_interrupted_writing_goes_on(written):
    folder, rows = written
    before = {path: path.read_bytes() for path in (folder / rows[0]["study"]).iterdir()}
    for path in before:
        path.unlink()
    (folder / rows[0]["study"]).rmdir()
    write_phantom(
        folder, train=8, validation=2, test=2, parameters=SMALL, workers=1, progress=False
    )
    assert {path: path.read_bytes() for path in before} == before


def test_other_parameters_do_not_mix(written):
    with pytest.raises(CTVideoError, match="other parameters"):
        write_phantom(written[0], train=8, validation=2, test=2, seed=1, progress=False)


def test_impossible_parameters_are_refused():
    with pytest.raises(CTVideoError, match="16 slices"):
        PhantomParameters(slices=(4, 8))
