"""Paired comparisons against resampling one by one, and Holm's adjustment by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation.bootstrap import delong_difference, draw_counts
from ct_video_hf.evaluation.comparisons import PairedStudies, holm
from ct_video_hf.evaluation.metrics import auroc


def runs(names, n=60, patients=None, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    patients = np.arange(n) if patients is None else patients
    return {
        name: pd.DataFrame(
            {
                "study_id": [f"s{i:03}" for i in range(n)],
                "patient_hash": [f"p{p}" for p in patients],
                "label": labels,
                "score": 1 / (1 + np.exp(-(labels * (0.5 + place) + rng.normal(size=n)))),
            }
        )
        for place, name in enumerate(names)
    }


def test_a_mean_over_runs_is_resampled_run_by_run():
    tables = runs(["a", "b", "c"], patients=np.arange(60) // 2)
    paired = PairedStudies(tables, resamples=200, seed=4)
    found = paired.auroc(["a", "b"], ["c"])
    labels = tables["a"]["label"].to_numpy()
    clusters = tables["a"]["patient_hash"].to_numpy(dtype=str)
    draws = []
    for row in np.concatenate(list(draw_counts(clusters, 200, seed=4))).astype(int):
        one = {k: auroc(np.repeat(labels, row), np.repeat(t["score"], row))
               for k, t in tables.items()}  # fmt: skip
        draws.append(((one["a"] + one["b"]) / 2 + one["c"]) / 2)
    assert [found.low, found.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]).tolist())
    single = [auroc(labels, t["score"]) for t in tables.values()]
    assert found.value == pytest.approx(((single[0] + single[1]) / 2 + single[2]) / 2)


def test_one_run_against_one_is_delongs_and_several_are_the_bootstraps():
    tables = runs(["a", "b", "c", "d"])
    paired = PairedStudies(tables, resamples=500)
    labels = tables["a"]["label"]
    single = paired.difference([["d"]], [["a"]])
    assert single.test == "DeLong, paired"
    assert single.p == pytest.approx(
        delong_difference(labels, tables["d"]["score"], tables["a"]["score"])[1]
    )
    mean = paired.difference([["c", "d"]], [["a", "b"]])
    assert mean.test == "paired bootstrap over patients"
    assert 0 < mean.p <= 1
    assert mean.low < mean.value < mean.high
    assert (mean.low > 0) == (mean.p < 0.05)


def test_patients_with_several_studies_never_go_to_delong():
    tables = runs(["a", "b"], patients=np.arange(60) // 2)
    assert (
        PairedStudies(tables, resamples=50)
        .difference([["a"]], [["b"]])
        .test.startswith("paired bootstrap")
    )


def test_a_difference_is_narrower_than_its_parts_when_runs_agree():
    tables = runs(["a", "b"])
    tables["b"]["score"] = tables["a"]["score"] * 0.999 + 0.0005
    paired = PairedStudies(tables, resamples=300)
    same = paired.difference([["a"]], [["b"]])
    assert same.value == 0 == same.low == same.high
    assert np.isnan(same.p)


def test_runs_on_other_studies_or_labels_are_refused():
    tables = runs(["a", "b"])
    fewer = {"a": tables["a"], "b": tables["b"].iloc[:-1]}
    with pytest.raises(CTVideoError, match=r"a and b were scored on different .*\(60 and 59"):
        PairedStudies(fewer)
    tables["b"]["label"] = 1 - tables["b"]["label"]
    with pytest.raises(CTVideoError, match="different studies, labels"):
        PairedStudies(tables)


def test_unknown_labels_do_not_count_and_order_does_not_matter():
    tables = runs(["a", "b"])
    tables["b"] = tables["b"].sample(frac=1, random_state=1)
    for table in tables.values():
        table.loc[table["study_id"] == "s000", "label"] = -1
    assert len(PairedStudies(tables, resamples=0)) == 59


def test_one_class_is_undefined():
    tables = runs(["a"])
    tables["a"]["label"] = 1
    found = PairedStudies(tables, resamples=20).auroc(["a"])
    assert np.isnan(found.value)
    assert np.isnan(found.low)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = holm([0.01, np.nan, 0.5, 0.9])
    assert np.isnan(adjusted[1])
    assert [adjusted[0], adjusted[2], adjusted[3]] == pytest.approx([0.03, 1.0, 1.0])
    assert holm([]) == []
