import hashlib
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from sklearn.model_selection import train_test_split

from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.labels import LabelsTable, StudyEntry
from ct_video_hf.data.splits import (
    assign_splits,
    nested_fractions,
    read_split_file,
    split_patients,
    write_fraction_file,
    write_split_file,
)


def table(*rows):
    """(study, patient, split) triples."""
    return LabelsTable(
        tuple(
            StudyEntry(study, Path(study), patient=patient, split=split, row=number)
            for number, (study, patient, split) in enumerate(rows, start=2)
        )
    )


@pytest.mark.parametrize(
    ("patients", "expected"),
    [(7279, (5095, 1092, 1092)), (1010, (707, 151, 152))],  # RSNA studies, LIDC patients
)
def test_counts_and_members_of_the_paper(patients, expected):
    ids = [f"id{number}" for number in range(patients)]
    of = split_patients(ids)
    counts = Counter(of.values())
    assert tuple(counts[name] for name in ("train", "validation", "test")) == expected
    train, rest = train_test_split(ids, test_size=0.3, random_state=2)
    validation, test = train_test_split(rest, test_size=0.5, random_state=2)
    assert {patient for patient, split in of.items() if split == "train"} == set(train)
    assert {patient for patient, split in of.items() if split == "validation"} == set(validation)
    assert {patient for patient, split in of.items() if split == "test"} == set(test)


def test_split_is_the_same_everywhere():
    text = ",".join(f"{p}:{s}" for p, s in split_patients(range(200)).items())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "58bf27c393a55269"


def test_order_of_first_appearance_counts_and_repeats_do_not():
    once = split_patients(["c", "a", "b", "d", "e", "f", "g"])
    assert split_patients(["c", "a", "c", "b", "d", "a", "e", "f", "g", "g"]) == once
    assert list(once) == ["c", "a", "b", "d", "e", "f", "g"]


def test_shares():
    assert set(split_patients("abc", (0, 0, 1)).values()) == {"test"}
    assert Counter(split_patients(range(10), (0.5, 0.0, 0.5)).values()) == {"train": 5, "test": 5}
    with pytest.raises(CTDataError, match="add up to 1"):
        split_patients(range(10), (0.7, 0.2, 0.2))
    with pytest.raises(CTDataError, match=r"2 patient\(s\) are too few"):
        split_patients(range(2))


def test_given_splits_win_and_cover_the_patient():
    rows = [("s0", "p", "test"), ("s1", "p", None)]
    rows += [(f"t{number}", f"q{number}", None) for number in range(20)]
    splits = assign_splits(table(*rows))
    assert splits[:2] == ["test", "test"]
    drawn = split_patients([f"q{number}" for number in range(20)])
    assert splits[2:] == list(drawn.values())


def test_split_file_wins_over_the_table(tmp_path):
    studies = table(("a", "p", "train"), ("b", "q", "test"))
    path = write_split_file(tmp_path / "splits.csv", {"a": "test", "b": "train"})
    assert assign_splits(studies, given=read_split_file(path)) == ["test", "train"]
    with pytest.raises(CTDataError, match="names 1 studies that are not in the table"):
        assign_splits(studies, given={"zz": "test"})


def test_split_file_must_not_leak():
    studies = table(("a", "p", None), ("b", "p", None))
    with pytest.raises(CTDataError, match="row 3: the patient is in 'test' here and in 'train'"):
        assign_splits(studies, given={"a": "train", "b": "test"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("study,part\na,train\n", "columns must be"),
        ("study,split\na,val\n", "row 2: split 'val'"),
        ("study,split\na,train\na,test\n", "row 3: 'a' is named twice"),
    ],
)
def test_bad_split_files(tmp_path, text, expected):
    path = tmp_path / "splits.csv"
    path.write_text(text)
    with pytest.raises(CTDataError, match=expected):
        read_split_file(path)


def test_fractions_are_nested_stratified_and_by_patient():
    patients = [f"p{number // 2}" for number in range(400)]  # two studies each
    positive = [number % 10 == 0 for number in range(400)]  # one patient in five
    drawn = nested_fractions(patients, positive, [0.01, 0.05, 0.1, 0.25, 0.5, 1.0], seed=3)
    sets = [set(members) for members in drawn.values()]
    for smaller, larger in pairwise(sets):
        assert smaller < larger
    assert [len(members) for members in sets] == [3, 10, 20, 50, 100, 200]
    hit = {patient for patient, flag in zip(patients, positive, strict=True) if flag}
    assert [len(members & hit) for members in sets] == [1, 2, 4, 10, 20, 40]
    assert drawn[1.0] == list(dict.fromkeys(patients))
    assert nested_fractions(patients, positive, [0.1], seed=3)[0.1] == drawn[0.1]
    assert nested_fractions(patients, positive, [0.1], seed=4)[0.1] != drawn[0.1]
    with pytest.raises(CTDataError, match="above 0 and at most 1"):
        nested_fractions(patients, positive, [0.0])


def test_fractions_are_the_same_everywhere():
    drawn = nested_fractions(range(50), [number % 3 == 0 for number in range(50)], [0.2])
    assert drawn[0.2] == [3, 7, 17, 18, 19, 24, 28, 32, 43, 46]


def test_fraction_file_says_the_smallest_fraction_of_each_training_study(tmp_path):
    studies = [
        {"study_id": f"s{n}", "patient_hash": f"p{n // 2}", "labels": [float(n % 10 == 0)],
         "split": "train" if n < 400 else "test"}
        for n in range(420)
    ]  # fmt: skip
    path = write_fraction_file(tmp_path / "fractions.csv", studies)
    rows = [line.split(",") for line in path.read_text().splitlines()]
    assert rows[0] == ["study", "fraction"]
    assert len(rows) == 401
    patients = [study["patient_hash"] for study in studies[:400]]
    positive = [study["labels"][0] > 0 for study in studies[:400]]
    for fraction in (0.01, 0.05, 0.1, 0.25, 0.5, 1.0):
        members = {study for study, smallest in rows[1:] if float(smallest) <= fraction}
        kept = set(nested_fractions(patients, positive, [fraction])[fraction])
        assert members == {s["study_id"] for s in studies[:400] if s["patient_hash"] in kept}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert digest == "658d91d1a35649fe"
