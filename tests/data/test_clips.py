"""Clip labels against a plain loop, and reads that touch nothing but the clip."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from ct_video_hf.data.clips import ClipIndex, CTClipDataset, build_clip_index
from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.loading import load_prepared, study_files
from ct_video_hf.data.prepare_options import PrepareOptions
from ct_video_hf.data.sources import prepare
from ct_video_hf.data.transforms import ClipTransform
from ct_video_hf.models.processing_ct import CTVideoProcessor
from tests.support.dicom_folders import write_folder_set


def rows(*studies, labels=None):
    """A data set of studies given as slice labels, or as a slice count when unknown."""
    counts = [study if isinstance(study, int) else len(study) for study in studies]
    marks = [[] if isinstance(study, int) else list(study) for study in studies]
    if labels is None:
        labels = [[float(max(study))] for study in marks]
    return Dataset.from_dict(
        {
            "shape": [[count, 8, 8] for count in counts],
            "slice_labels": marks,
            "labels": labels,
            "weight": [1.0] * len(studies),
        }
    )


def test_labels_equal_a_plain_loop():
    random = np.random.default_rng(0)
    studies = [(random.random(int(n)) < 0.25).astype(int) for n in random.integers(16, 90, 40)]
    for stride, minimum, tail in [(32, 4, "pad"), (24, 4, "drop"), (7, 9, "shift"), (1, 1, "pad")]:
        index = build_clip_index(rows(*studies), 32, stride, minimum, tail)
        expected = []
        for row, marks in enumerate(studies):
            for start in CTVideoProcessor(stride=stride, tail=tail).clip_starts(len(marks)):
                part = marks[start : start + 32]
                expected.append((row, start, len(part), float(part.sum() >= minimum)))
        found = zip(index.study, index.start, index.length, index.labels[:, 0], strict=True)
        assert list(found) == expected
        assert not index.weak.any()


def test_rule_of_four_positive_slices():
    marks = [0] * 6 + [1] * 4 + [0] * 6
    index = build_clip_index(rows(marks), 8, min_slices=8)
    assert index.labels[:, 0].tolist() == [0.0, 0.0]  # two slices in each clip
    index = build_clip_index(rows(marks), 8, 4, min_slices=8)
    assert index.start.tolist() == [0, 4, 8]
    assert index.labels[:, 0].tolist() == [0.0, 1.0, 0.0]


def test_short_lesions_are_missed_unless_asked_for():
    marks = [0] * 8 + [0, 1, 1, 0, 0, 0, 0, 0] + [1, 1, 1, 1, 0, 0, 0, 0]
    assert build_clip_index(rows(marks), 8).labels[:, 0].tolist() == [0, 0, 1]
    asked = build_clip_index(rows(marks), 8, short_lesions=True)
    assert asked.labels[:, 0].tolist() == [0, 1, 1]


def test_a_run_does_not_go_on_into_the_next_study():
    first, second = [0] * 7 + [1], [1, 1, 1] + [0] * 5
    index = build_clip_index(rows(first, second), 8, short_lesions=True)
    assert index.labels[:, 0].tolist() == [1, 1]  # runs of 1 and 3, not one of 4
    index = build_clip_index(rows(first, second), 8)
    assert index.labels[:, 0].tolist() == [0, 0]


def test_cut_short_lesion_is_not_held():
    marks = [0] * 7 + [1, 1] + [0] * 7  # lies across both clips
    assert build_clip_index(rows(marks), 8, short_lesions=True).labels[:, 0].tolist() == [0, 0]


def test_unknown_slices_take_the_label_of_the_study():
    index = build_clip_index(rows(20, [0] * 20, labels=[[1.0], [0.0]]), 10)
    assert index.labels[:, 0].tolist() == [1, 1, 0, 0]
    assert index.weak.tolist() == [True, True, False, False]


def test_clips_of_uncertain_label_are_left_out():
    marks = [-1] * 8 + [1] * 4 + [-1] * 4 + [0] * 5 + [-1] * 3
    index = build_clip_index(rows(marks, labels=[[1.0]]), 8)
    assert index.start.tolist() == [8, 16]  # 4 positives; at most 3 of an unknown 8
    assert index.labels[:, 0].tolist() == [1, 0]
    assert index.uncertain_clips == 1


def test_multi_label_and_unlabelled():
    index = build_clip_index(rows(20, 20, labels=[[1.0, 0.0], [0.0, 0.0]]), 10)
    assert index.labels.tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]
    assert index.positive.tolist() == [True, True, False, False]
    index = build_clip_index(rows(20, labels=[[]]), 10)
    assert index.labels.shape == (2, 0)


def test_slice_labels_of_several_labels_equal_each_label_alone():
    random = np.random.default_rng(0)
    tables = [random.choice([-1, 0, 0, 1], (int(n), 3)) for n in random.integers(16, 90, 30)]
    for table in tables[::2]:
        table[:, 1] = -1  # nothing is known of the slices: the study's label counts
    labels = [[1.0, 1.0, 1.0]] * len(tables)
    data = Dataset.from_dict(
        {
            "shape": [[len(table), 8, 8] for table in tables],
            "slice_labels": [table.reshape(-1) for table in tables],
            "labels": labels,
            "weight": [1.0] * len(tables),
        }
    )
    index = build_clip_index(data, 16, 8, short_lesions=True)
    found = dict(zip(zip(index.study, index.start, strict=True), index.labels, strict=True))
    alone = [
        build_clip_index(rows(*(t[:, k] for t in tables), labels=[[1.0]] * 30), 16, 8,
                         short_lesions=True)
        for k in range(3)
    ]  # fmt: skip
    known = [dict(zip(zip(i.study, i.start, strict=True), i.labels[:, 0], strict=True))
             for i in alone]  # fmt: skip
    # a clip that is uncertain in every label is left out, elsewhere the label alone is unknown
    assert set(found) == set(known[0]) | set(known[1]) | set(known[2])
    assert all(found[key].tolist() == [one.get(key, -1) for one in known] for key in found)
    assert 0 < len(known[0]) < len(found)
    assert index.weak.tolist() == [study % 2 == 0 for study in index.study]


def test_the_finding_decides_what_is_positive():
    data = rows(20, 20, labels=[[1.0, 0.0], [0.0, 1.0]])
    index = build_clip_index(data, 10, finding=1)
    assert index.positive.tolist() == [False, False, True, True]
    assert index.select(np.array([0, 2])).positive.tolist() == [False, True]
    assert build_clip_index(data, 10).positive.all()


def test_short_studies_have_no_clips(caplog):
    index = build_clip_index(rows([0] * 15, [0] * 16), 32)
    assert (index.study.tolist(), index.short_studies) == ([1], (0,))
    assert "1 studies with fewer than 16 slices" in caplog.text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"stride": 33}, "stride is 33"),
        ({"stride": 0}, "stride is 0"),
        ({"min_positive_slices": 0}, "min_positive_slices is 0"),
        ({"tail": "keep"}, "tail is 'keep'"),
        ({"tail": "drop"}, "give no clip"),
    ],
)
def test_bad_requests(options, expected):
    with pytest.raises(CTDataError, match=expected):
        build_clip_index(rows([0] * 40), 32, **options)


def test_index_of_seven_thousand_studies_is_quick_enough_to_be_vectorised():
    random = np.random.default_rng(0)
    counts = random.integers(100, 400, 7000)
    data = Dataset.from_dict(
        {
            "shape": [[int(n), 8, 8] for n in counts],
            "slice_labels": [np.zeros(n, np.int8) for n in counts],
            "labels": [[0.0]] * len(counts),
            "weight": [1.0] * len(counts),
        }
    )
    index = build_clip_index(data, 32, 16)
    assert len(index) == sum(-(-(n - 32) // 16) + 1 for n in counts.tolist())


# ---- reading -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    write_folder_set(root / "scans")
    prepare("folder", root / "scans", root / "set", options=PrepareOptions(size=32), progress=False)
    return root / "set"


@pytest.fixture
def processor():
    return CTVideoProcessor(size=32, crop_size=28, num_frames=16, stride=8)


def make(prepared, processor, train=True, split="train"):
    data = load_prepared(prepared, split)
    index = build_clip_index(data, processor.num_frames, processor.stride)
    return CTClipDataset(data, index, ClipTransform(processor, train, seed=5))


def test_items(prepared, processor):
    clips = make(prepared, processor)
    item = clips[len(clips) - 1]
    assert item["pixel_values"].shape == (16, 3, 28, 28)
    assert item["pixel_values"].dtype == torch.float32
    assert item["labels"].dtype == torch.float32
    assert item["labels"].shape == (1,)
    assert item["study_index"] == 3
    assert clips[-1]["clip_start"] == item["clip_start"] == 16
    with pytest.raises(IndexError):
        clips[len(clips)]


def test_clips_are_views_of_the_mapped_files(prepared, processor):
    """No copy of a study: clip addresses lie inside the memory maps of the study files."""
    clips = make(prepared, processor)
    for number in range(len(clips)):  # a study is mapped when it is looked at
        clips.clip(number)
    with open("/proc/self/maps") as stream:
        lines = [line.split() for line in stream]
    names = {os.path.realpath(path) for path in study_files(prepared, "train")}
    maps = [[int(edge, 16) for edge in line[0].split("-")] for line in lines if line[-1] in names]
    assert len(maps) >= 4
    for number in range(len(clips)):
        clip = clips.clip(number)
        address = clip.__array_interface__["data"][0]
        assert any(low <= address and address + clip.nbytes <= high for low, high in maps)
        assert not clip.flags.owndata
        assert not clip.flags.writeable
        assert np.shares_memory(clip, clips.volume(int(clips.index.study[number])))


test_clips_are_views_of_the_mapped_files = pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="the system does not list its memory maps"
)(test_clips_are_views_of_the_mapped_files)


def test_a_selection_of_rows_reads_its_own_studies(prepared, processor):
    data = load_prepared(prepared, "all").select([4, 1])
    index = build_clip_index(data, 16)
    clips = CTClipDataset(data, index, ClipTransform(processor, False))
    whole = load_prepared(prepared, "all")
    for row, origin in enumerate([4, 1]):
        expected = np.frombuffer(whole[origin]["volume"], "<u2").reshape(whole[origin]["shape"])
        assert np.array_equal(clips.volume(row), expected)


def test_index_of_another_data_set_is_refused(prepared, processor):
    index = build_clip_index(load_prepared(prepared, "train"), 16)
    with pytest.raises(CTDataError, match="names row 3 of a data set with 2"):
        CTClipDataset(load_prepared(prepared, "test"), index, ClipTransform(processor, False))


def test_pickles_by_path_not_by_content(prepared, processor):
    clips = make(prepared, processor)
    clips[0]
    data = pickle.dumps(clips)
    assert len(data) < clips.volume(0).nbytes
    copy = pickle.loads(data)  # noqa: S301 - made two lines above
    assert torch.equal(copy[3]["pixel_values"], clips[3]["pixel_values"])


def test_spawned_workers_give_the_items_of_one_process_in_every_epoch(prepared, processor):
    clips = make(prepared, processor)
    loader = DataLoader(
        clips, 2, num_workers=2, multiprocessing_context="spawn", persistent_workers=True
    )
    seen = []
    for epoch in (0, 1):
        clips.set_epoch(epoch)
        batches = list(loader)
        found = torch.cat([batch["pixel_values"] for batch in batches])
        expected = torch.stack([clips[number]["pixel_values"] for number in range(len(clips))])
        assert torch.equal(found, expected)
        labels = torch.cat([batch["labels"] for batch in batches])
        assert torch.equal(labels, torch.from_numpy(clips.index.labels))
        seen.append(found)
    assert not torch.equal(*seen)


def test_select_keeps_clips_together():
    index = build_clip_index(rows([1] * 20, [0] * 20), 10)
    positive = index.select(index.positive)
    assert isinstance(positive, ClipIndex)
    assert (positive.study.tolist(), positive.start.tolist()) == ([0, 0], [0, 10])
