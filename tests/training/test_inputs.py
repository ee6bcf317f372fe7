"""What is said on the command line reaches the clips that are trained on."""

import pytest

from ct_video_hf.data import CTDataError, PrepareOptions, prepare
from ct_video_hf.training import run, runner
from tests.support.dicom_folders import write_folder_set
from tests.support.tiny_runs import OPTIONS


class Reached(Exception):
    """Raised in place of a training, with its data sets."""


@pytest.fixture
def caught(monkeypatch):
    def stop(model, args, **kwargs):
        raise Reached(kwargs["train_dataset"], kwargs["eval_dataset"])

    monkeypatch.setattr(runner, "CTTrainer", stop)

    def train(data, output, **options):
        with pytest.raises(Reached) as stop:
            run(data=str(data), output=str(output), **(OPTIONS | options))
        return stop.value.args

    return train


def test_augmentation_options_reach_the_training_clips_alone(clip_set, tmp_path, caught):
    from ct_video_hf.data import AUGMENTATIONS

    train, validation = caught(
        clip_set, tmp_path / "a", rotation="7", flips=["columns", "slices"],
        intensity_scale="0.1", intensity_shift="30", window_jitter="0.2", seed="5",
    )  # fmt: skip
    found = train.transform.augmentation
    assert (found.rotation_degrees, found.flip_columns, found.flip_rows) == (7, True, False)
    assert (found.flip_slices, found.intensity_scale) == (True, 0.1)
    assert (found.intensity_shift, found.window_jitter) == (30.0, 0.2)
    assert train.transform.seed == 5
    assert (train.transform.train, validation.transform.train) == (True, False)
    for preset in ("default", "paper-lidc"):
        train, _ = caught(clip_set, tmp_path / preset, preset=preset, stride=8)
        assert train.transform.augmentation == AUGMENTATIONS["paper"]


def test_a_set_of_eight_bits_trains_with_its_window_only(tmp_path, caught):
    scans = write_folder_set(tmp_path / "scans", studies=4)
    options = PrepareOptions(size=36, store_window=(-600, 1500))
    prepare("folder", scans, tmp_path / "set", options=options, progress=False)
    said = {"validation_split": "none", "windows": ["-600,1500"]}
    train, _ = caught(tmp_path / "set", tmp_path / "a", **said)
    assert train.transform.stored_window == (-600.0, 1500.0)
    assert train[0]["pixel_values"].shape == (8, 1, 32, 32)
    with pytest.raises(CTDataError, match="keeps 8 bits of the window -600,1500 HU"):
        run(data=str(tmp_path / "set"), output=str(tmp_path / "b"),
            **(OPTIONS | said | {"windows": ["40,400"]}))  # fmt: skip
