"""Which files belong together, which series is read, and what of it forms the stack."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ct_video_hf.dicom import CTReadError
from ct_video_hf.dicom.axes import plane_name
from ct_video_hf.dicom.findings import Collector
from ct_video_hf.dicom.selection import select_stack
from ct_video_hf.dicom.series import choose_series, group_series, list_series
from tests.support.frames import AXIAL, CORONAL, SAGITTAL, make_frame, make_stack, shuffled


def volume(uid="1.2.3.4", number=2, count=12, step=2.5, prefix="s", **changes):
    return make_stack(
        -300 + step * np.arange(count),
        prefix=prefix,
        series_instance_uid=uid,
        series_number=number,
        **changes,
    )


def scout(uid="1.2.3.9", count=1, orientation=SAGITTAL, prefix="scout", **changes):
    frames = [
        make_frame(
            f"{prefix}{place}",
            orientation=orientation,
            series_instance_uid=uid,
            position=(0.0, -100.0, 50.0),
            series_number=1,
        )
        for place in range(count)
    ]
    return [replace(frame, **changes) for frame in frames]


def choose(frames, series=None, policy="strict"):
    collector = Collector(policy)
    group = choose_series(group_series(frames), collector, series)
    return group, collector


def never(one, other):
    raise AssertionError("pixels compared without need")


def differ(one, other):
    return False


def select(frames, policy="strict", same=never):
    collector = Collector(policy)
    return select_stack(frames, collector, same), collector


def codes(collector):
    return {finding.code: finding.severity for finding in collector.findings}


# --- series -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "name"),
    [
        (AXIAL, "axial"),
        (SAGITTAL, "sagittal"),
        (CORONAL, "coronal"),
        ((1, 0, 0, 0, 0.9483237, -0.3173047), "axial"),
        (None, "unknown"),
        ((0, 0, 0, 0, 0, 0), "unknown"),
        ((float("nan"),) * 6, "unknown"),
    ],
)
def test_planes_are_named_by_their_normal(orientation, name):
    assert plane_name(orientation) == name


def test_one_series_and_a_scout_of_another():
    group, collector = choose(scout() + volume())
    assert len(group.frames) == 12
    assert codes(collector) == {"localizer_dropped": "warning"}
    assert collector.findings[0].files == ["scout0"]


def test_the_series_with_most_slices_is_read_and_the_others_named_without_identifiers():
    thin = volume("1.2.8", 8, count=30, step=1.0, prefix="t")
    group, collector = choose(volume("1.2.7", 7) + thin)
    assert group.frames == thin
    assert codes(collector) == {"several_series": "warning"}
    message = collector.findings[0].message
    assert "#1 (number 7): 12 axial slices of 512x512, 2.5 mm apart" in message
    assert "1.2.7" not in message
    assert "1.2.8" not in message


def test_ties_go_to_thin_spacing_then_to_the_low_number():
    thick, thin = volume("1.2.7", 3, step=5.0), volume("1.2.8", 9, step=1.0)
    assert choose(thick + thin)[0].frames == thin
    low, high = volume("1.2.7", 3), volume("1.2.8", 9)
    assert choose(high + low)[0].frames == low


@pytest.mark.parametrize("name", ["#1", "7", 7, "1.2.7"])
def test_a_series_is_named_by_place_number_or_uid(name):
    first, second = volume("1.2.7", 7), volume("1.2.8", 8, count=30)
    assert choose(second + first, name)[0].frames == first


def test_an_unknown_series_lists_those_there_are():
    with pytest.raises(CTReadError) as caught:
        choose(volume(), "99")
    assert caught.value.code == "no_such_series"
    assert "#1 (number 2)" in str(caught.value)


def test_a_number_borne_twice_is_refused():
    with pytest.raises(CTReadError) as caught:
        choose(volume("1.2.7", 5) + volume("1.2.8", 5), 5)
    assert caught.value.code == "ambiguous_series"


@pytest.mark.parametrize("policy", ["strict", "warn", "repair"])
@pytest.mark.parametrize("what", ["study_instance_uid", "patient_id"])
def test_several_studies_are_never_weighed(policy, what):
    frames = volume("1.2.7", 7) + volume("1.2.8", 8, count=30, **{what: "9.9.9"})
    with pytest.raises(CTReadError) as caught:
        choose(frames, policy=policy)
    assert caught.value.code == "several_studies"
    assert "9.9.9" not in str(caught.value)
    assert len(choose(frames, "7", policy)[0].frames) == 12


def test_a_scout_of_another_study_does_not_matter():
    group, _ = choose(volume() + scout(study_instance_uid="7.7"))
    assert len(group.frames) == 12


def test_coronal_reformats_are_left_out_quietly():
    reformats = [
        make_frame(
            f"c{place}",
            orientation=CORONAL,
            series_instance_uid="1.5",
            position=(0, 5.0 * place, 0),
        )
        for place in range(40)
    ]
    group, collector = choose(reformats + volume())
    assert group.orientation == "axial"
    assert codes(collector) == {"non_axial_series": "info"}


def test_bolus_tracking_at_one_position_is_no_volume():
    tracking = [
        make_frame(f"b{place}", series_instance_uid="1.6", position=(0.0, 0.0, 9.0))
        for place in range(40)
    ]
    group, collector = choose(tracking + volume())
    assert len(group.frames) == 12
    assert "one position" in collector.findings[0].message


def test_without_series_uid_orientation_and_matrix_tell_apart():
    frames = volume(None) + scout(None)
    assert [len(group.frames) for group in group_series(frames)] == [1, 12]


def test_a_missing_study_uid_splits_no_series():
    frames = volume()
    frames[3] = replace(frames[3], study_instance_uid=None)
    assert [len(group.frames) for group in group_series(frames)] == [12]


def test_one_series_uid_in_two_studies_is_two_series():
    frames = volume() + volume(prefix="t", study_instance_uid="5.5")
    assert [len(group.frames) for group in group_series(frames)] == [12, 12]


def test_a_series_uid_for_every_file_is_told():
    frames = [replace(f, series_instance_uid=f"1.{place}") for place, f in enumerate(volume())]
    with pytest.raises(CTReadError, match="UIDs were lost") as caught:
        choose(frames)
    assert caught.value.code == "single_slice"
    assert "Policy 'warn'" not in str(caught.value)  # no policy makes a volume of that


def test_the_list_marks_the_choice_and_hides_uids():
    listed = list_series(group_series(volume("1.2.7", 7) + volume("1.2.8", 8, count=30)))
    assert [(info.index, info.slices, info.chosen) for info in listed] == [
        (1, 12, False),
        (2, 30, True),
    ]
    assert listed[1].series_instance_uid == "1.2.8"
    assert "1.2.8" not in repr(listed) + str(listed[1].to_dict()) + listed[1].describe()


# --- strays -----------------------------------------------------------------------------------


def test_a_localizer_in_the_series_is_dropped_by_its_geometry():
    stray = scout(image_type=("ORIGINAL", "PRIMARY", "AXIAL"))
    kept, collector = select(shuffled(volume() + stray))
    assert len(kept) == 12
    assert codes(collector) == {"localizer_dropped": "warning"}


def test_an_axial_image_named_localizer_stays():
    frames = volume(image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    kept, collector = select(frames)
    assert len(kept) == 12
    assert not collector.findings


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"orientation": (0.99, 0.141067, 0, -0.141067, 0.99, 0)}, "mixed_orientation"),
        ({"orientation": (-1.0, 0, 0, 0, -1.0, 0)}, "mixed_orientation"),
        ({"rows": 256, "columns": 256}, "mixed_matrix"),
        ({"pixel_spacing": (0.8, 0.8)}, "varying_pixel_spacing"),
        ({"position": None}, "no_position"),
        ({"orientation": None}, "no_orientation"),
        ({"orientation": (1.0, 0, 0, 1.0, 0, 0)}, "no_orientation"),
        ({"pixel_spacing": None}, "no_pixel_spacing"),
        ({"pixel_spacing": (0.0, 0.7)}, "no_pixel_spacing"),
    ],
)
def test_a_stray_among_good_planes(change, code):
    frames = volume()
    frames[4] = replace(frames[4], **change)
    with pytest.raises(CTReadError) as caught:
        select(frames)
    assert caught.value.code == code
    assert "s004.dcm" in str(caught.value)
    for policy in ("warn", "repair"):
        kept, collector = select(frames, policy)
        assert "s004.dcm" not in [frame.source.name for frame in kept]
        assert len(kept) == 11
        assert codes(collector) == {code: "warning"}


@pytest.mark.parametrize("policy", ["strict", "warn", "repair"])
@pytest.mark.parametrize("attribute", ["position", "orientation", "pixel_spacing"])
def test_geometry_is_never_invented(policy, attribute):
    with pytest.raises(CTReadError) as caught:
        select(
            volume(**{attribute: None})
            if attribute != "position"
            else [replace(frame, position=None) for frame in volume()],
            policy,
        )
    assert caught.value.code == f"no_{attribute}"


@pytest.mark.parametrize("policy", ["strict", "warn", "repair"])
def test_a_localizer_alone_is_refused(policy):
    with pytest.raises(CTReadError) as caught:
        select(scout(count=2), policy)
    assert caught.value.code == "not_axial"
    assert "scout0" in str(caught.value)


# --- several planes at one position -----------------------------------------------------------


@pytest.mark.parametrize("policy", ["strict", "warn", "repair"])
def test_exact_copies_are_dropped_under_every_policy(policy):
    frames = volume()
    copy = replace(frames[3], source=make_frame("copy.dcm").source)
    kept, collector = select([*frames, copy], policy, lambda one, other: True)
    assert len(kept) == 12
    assert codes(collector) == {"duplicate_position": "warning"}


def test_different_images_at_one_position():
    frames = volume()
    twin = replace(frames[3], source=make_frame("twin.dcm").source, sop_instance_uid="7")
    with pytest.raises(CTReadError) as caught:
        select([*frames, twin], same=differ)
    assert caught.value.code == "duplicate_position"
    assert "s003.dcm, twin.dcm" in str(caught.value)
    kept, collector = select([*frames, twin], "warn", differ)
    assert len(kept) == 12
    assert "twin.dcm" not in [frame.source.name for frame in kept]
    assert collector.findings[0].position_mm == -292.5


def test_pixels_are_compared_at_few_places_only():
    frames = volume(count=40)
    twins = volume(count=40, prefix="t")
    calls = []

    def count(one, other):
        calls.append(one.label)
        return False

    select(frames + twins, "warn", count)
    assert len(calls) == 3


@pytest.mark.parametrize("told_by", ["acquisition_number", "kernel", "kvp"])
def test_two_acquisitions_at_the_same_positions(told_by):
    one, two = ({"acquisition_number": 1}, {"acquisition_number": 2})
    if told_by == "kernel":
        one, two = {"kernel": "B30f"}, {"kernel": "B70f"}
    elif told_by == "kvp":
        one, two = {"kvp": 80.0}, {"kvp": 140.0}
    frames = volume(**one) + volume(prefix="t", **two)
    with pytest.raises(CTReadError) as caught:
        select(frames, same=differ)
    assert caught.value.code == "several_acquisitions"
    kept, collector = select(shuffled(frames), "warn", differ)
    assert {frame.source.name[0] for frame in kept} == {"s"}
    assert codes(collector) == {"several_acquisitions": "warning"}


def test_the_larger_acquisition_is_kept():
    frames = volume(acquisition_number=1, count=6) + volume(prefix="t", acquisition_number=2)
    kept, _ = select(frames, "repair", differ)
    assert {frame.source.name[0] for frame in kept} == {"t"}


def test_acquisitions_in_turn_are_not_rounding():
    """1.2 and 1.3 mm in turn: what 1.25 mm looks like in tenths, were it one acquisition."""
    first = make_stack(2.5 * np.arange(12), acquisition_number=1)
    second = make_stack(1.2 + 2.5 * np.arange(12), prefix="t", acquisition_number=2)
    kept, collector = select(first + second, "warn")
    assert len(kept) == 12
    assert codes(collector) == {"several_acquisitions": "warning"}
    one = [replace(frame, acquisition_number=1) for frame in first + second]
    assert len(select(one)[0]) == 24


def test_acquisitions_interleaved_without_a_tie():
    first = make_stack(2.5 * np.arange(12), acquisition_number=1)
    second = make_stack(0.4 + 2.5 * np.arange(9), prefix="t", acquisition_number=2)
    kept, collector = select(first + second, "warn")
    assert len(kept) == 12
    assert codes(collector) == {"several_acquisitions": "warning"}


def test_step_and_shoot_is_one_volume():
    """Blocks of slices each with an acquisition number of its own, one slice missing."""
    frames = volume(count=12)
    frames = [replace(f, acquisition_number=place // 4) for place, f in enumerate(frames)]
    del frames[5]
    kept, collector = select(frames)
    assert len(kept) == 11
    assert not collector.findings
