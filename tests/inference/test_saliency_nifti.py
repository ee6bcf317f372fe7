"""The map as NIfTI lies over the scan: same grid, same patient coordinates, nothing else."""

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

import ct_video_hf
from ct_video_hf.dicom.write import write_series
from ct_video_hf.errors import CTVideoError
from ct_video_hf.inference.saliency import SaliencyMap
from ct_video_hf.inference.saliency_nifti import lies_on

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS to RAS


def _map_of(volume, marked):
    """A map of single pixels, one of them marked."""
    grid = np.zeros(volume.hu.shape, np.float32)
    grid[marked] = 0.75
    rows, columns = (np.eye(size, dtype=np.float32) for size in volume.hu.shape[1:])
    return SaliencyMap(
        grid, rows, columns, volume.affine.copy(), list(volume.source_index), "nodule", "marked"
    )


def _where(path) -> tuple[np.ndarray, float]:
    """Patient coordinates (LPS, mm) of the largest value of a NIfTI file, and that value."""
    image = nibabel.load(path)
    values = np.asarray(image.dataobj)
    index = np.unravel_index(values.argmax(), values.shape)
    return (FLIP @ image.affine @ [*index, 1.0])[:3], float(values.max())


def _oblique() -> np.ndarray:
    """A grid turned a little against the patient, RAS; columns to the right, rows to the front."""
    a, b = 0.1, 0.06
    tip = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = tip @ turn @ np.diag([-1.5, -1.4, 3.0])
    affine[:3, 3] = 40, 60, -200
    return affine


def _stored(path: Path, codes: str, shape=(20, 14, 9), affine=None, **header) -> Path:
    """A scan whose stored axes run as ``codes`` say."""
    rng = np.random.default_rng(0)
    hu = rng.integers(-1000, 200, shape).astype(np.int16)
    affine = _oblique() if affine is None else affine
    image = nibabel.Nifti1Image(hu, affine)
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(codes)))
    image = image.as_reoriented(turn)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


_CODES = [
    "".join(code)
    for pairs in itertools.permutations(("LR", "PA", "SI"))
    for code in itertools.product(*pairs)
]


@pytest.mark.parametrize("codes", _CODES[::3])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_on_the_grid_of_the_nifti_that_the_scan_came_from(tmp_path, codes, ending):
    scan = _stored(tmp_path / f"scan{ending}", codes, descrip=b"SMITH^JOHN", intent_name=b"SMITH")
    volume = ct_video_hf.read_ct(scan, policy="warn")
    marked = (3, 5, 7)
    found = _map_of(volume, marked)
    assert lies_on(found, scan)
    path = found.save_nifti(tmp_path / f"map{ending}", like=scan)
    one, other = nibabel.load(scan), nibabel.load(path)
    assert other.shape == one.shape
    np.testing.assert_allclose(other.affine, one.affine, atol=1e-5)
    for form in ("sform_code", "qform_code", "xyzt_units"):
        assert other.header[form] == one.header[form]
    assert other.get_data_dtype() == np.float32
    place, value = _where(path)
    assert value == 0.75
    np.testing.assert_allclose(place, volume.position(*marked), atol=1e-3)
    # What reads the scan reads the map onto the same grid.
    turned = ct_video_hf.read_ct(_as_hu(path, tmp_path / "hu.nii"), policy="warn")
    assert np.unravel_index(turned.hu.argmax(), turned.hu.shape) == marked
    np.testing.assert_allclose(turned.affine, volume.affine, atol=1e-4)
    assert b"SMITH" not in _bytes(path)


def _bytes(path: Path) -> bytes:
    import gzip

    return (gzip.open if path.suffix == ".gz" else open)(path, "rb").read()


def _as_hu(path: Path, target: Path) -> Path:
    image = nibabel.load(path)
    hu = (np.asarray(image.dataobj) * 1000 - 1000).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(hu, image.affine), target)
    return target


_TILTED = {"orientation": (1, 0, 0, 0, np.cos(0.3), np.sin(0.3))}


@pytest.mark.parametrize(
    "options",
    [
        {}, {"orientation": (-1, 0, 0, 0, 1, 0)}, {"orientation": (-1, 0, 0, 0, -1, 0)},
        {"orientation": (0, 1, 0, -1, 0, 0)}, _TILTED, {"spacing": (6.0, 0.5, 0.8)},
    ],
    ids=["usual", "feet first", "prone", "on the side", "oblique", "anisotropic"],
)  # fmt: skip
def test_over_a_dicom_scan_it_lies_in_patient_coordinates(tmp_path, options):
    """The marked voxel was written at a known place; the map's file says the same place."""
    rng = np.random.default_rng(0)
    hu = rng.integers(-1000, 100, (9, 16, 12)).astype(np.int16)
    stored = np.array([2, 11, 4])
    hu[tuple(stored)] = 3000
    spacing = options.get("spacing", (3.0, 0.9, 0.9))
    origin = np.array([-30.0, 20.0, -400.0])
    write_series(hu, tmp_path / "scan", **({"spacing": spacing, "origin": origin} | options))
    across, down = np.reshape(options.get("orientation", (1, 0, 0, 0, 1, 0)), (2, 3))
    steps = np.stack([np.cross(across, down), down, across]) * np.array(spacing)[:, None]
    volume = ct_video_hf.read_ct(tmp_path / "scan", policy="warn")
    marked = tuple(int(n) for n in np.unravel_index(volume.hu.argmax(), volume.hu.shape))
    path = _map_of(volume, marked).save_nifti(tmp_path / "map.nii.gz")
    place, _ = _where(path)
    np.testing.assert_allclose(place, origin + stored @ steps, atol=1e-3)
    image = nibabel.load(path)
    assert image.shape == volume.hu.shape[::-1]
    assert image.header["sform_code"] == image.header["qform_code"] == 1
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)


def test_a_tilted_gantry_has_no_quaternion(tmp_path):
    """Slices that lean against their normal: sform alone can say that."""
    lean = np.array([[-1.5, 0, 0, 40], [0, -1.4, 0.8, 60], [0, 0, 3.0, -200], [0, 0, 0, 1.0]])
    volume = ct_video_hf.read_ct(_stored(tmp_path / "scan.nii", "LPS", affine=lean), policy="warn")
    marked = (8, 2, 3)
    path = _map_of(volume, marked).save_nifti(tmp_path / "map.nii")
    image = nibabel.load(path)
    assert image.header["qform_code"] == 0
    np.testing.assert_allclose(_where(path)[0], volume.position(*marked), atol=1e-3)


def test_a_map_of_another_grid_is_refused(tmp_path):
    scan = _stored(tmp_path / "scan.nii", "LPS")
    found = _map_of(ct_video_hf.read_ct(scan, policy="warn", in_plane=10), (0, 0, 0))
    assert not lies_on(found, scan)
    with pytest.raises(CTVideoError, match=r"not on the grid of scan\.nii"):
        found.save_nifti(tmp_path / "map.nii", like=scan)
    with pytest.raises(CTVideoError, match=r"ends in \.nii"):
        found.save_nifti(tmp_path / "map.mha")
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii"]
