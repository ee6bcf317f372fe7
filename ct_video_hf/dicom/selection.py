"""From the frames of one series to one stack: strays, duplicates and second acquisitions go.

What is dropped, when and under which policy stands in ``geometry``'s docstring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from math import isfinite

import numpy as np

from .axes import head_normal, most_common, plane_name
from .findings import Collector, name_files
from .frame import Frame
from .series import SAME_POSITION_MM, is_localizer
from .spacing import fit_spacing

__all__ = ["select_stack", "source_order"]

COSINE_TOLERANCE = 1e-3
UNIT_TOLERANCE = 1e-2
SPACING_TOLERANCE = 1e-3
#: After so many places with differing pixels no more are compared: the answer is known.
COMPARED_PLACES = 3

SamePixels = Callable[[Frame, Frame], bool]


def source_order(frame: Frame) -> tuple:
    """The stated order of frames: instance number (none last), file name, frame index."""
    number = frame.instance_number
    return (np.inf if number is None else number, frame.source.name, frame.frame_index)


def select_stack(frames: list[Frame], collector: Collector, same_pixels: SamePixels) -> list[Frame]:
    """The frames that form one stack of axial planes, one at each position.

    Parameters
    ----------
    frames : list of Frame
        One series, in any order.
    collector : Collector
        Takes the findings; raises where its policy refuses one.
    same_pixels : callable
        Tells whether two frames hold the same values; called only for frames at one position.

    Raises
    ------
    CTReadError
        Where nothing is left or the policy refuses what was found.
    """
    frames = sorted(frames, key=source_order)
    frames = _with_geometry(frames, collector)
    frames = _one_orientation(frames, collector)
    frames = _one_matrix(frames, collector)
    frames = _one_pixel_spacing(frames, collector)
    collector.stop_on_errors()
    frames = _one_at_each_position(frames, collector, same_pixels)
    collector.stop_on_errors()
    return frames


def _labels(frames: Iterable[Frame]) -> list[str]:
    return [frame.label for frame in frames]


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


# --- planes that say where they are -----------------------------------------------------------


def _with_geometry(frames: list[Frame], collector: Collector) -> list[Frame]:
    order = (
        "the order and the distances of slices are not known, and neither instance numbers nor "
        "file names replace it"
    )
    for code, attribute, usable, unknown in (
        ("no_position", "ImagePositionPatient", _has_position, order),
        ("no_orientation", "ImageOrientationPatient", _has_orientation, order),
        ("no_pixel_spacing", "PixelSpacing", _has_spacing, "no length within a plane is known"),
    ):
        lacking = [frame for frame in frames if not usable(frame)]
        if not lacking:
            continue
        names = _labels(lacking)
        if len(lacking) == len(frames):
            collector.fail(
                code,
                f"{attribute} is missing or unusable in all {len(frames)} images "
                f"({name_files(names)}); without it {unknown}",
                names,
            )
        collector.add(
            code,
            f"{attribute} is missing or unusable in {len(lacking)} of {len(frames)} images: "
            f"{name_files(names)}",
            names,
        )
        frames = [frame for frame in frames if usable(frame)]
    return frames


def _has_position(frame: Frame) -> bool:
    return frame.position is not None and all(map(isfinite, frame.position))


def _has_orientation(frame: Frame) -> bool:
    return frame.orientation is not None and _are_axes(frame.orientation)


@lru_cache(maxsize=1024)  # the planes of a scan share a few orientations
def _are_axes(orientation: tuple[float, ...]) -> bool:
    """Two finite unit vectors at a right angle, within what header rounding explains."""
    if not all(map(isfinite, orientation)):
        return False
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    return bool((np.abs(lengths - 1) < UNIT_TOLERANCE).all() and abs(row @ column) < UNIT_TOLERANCE)


def _has_spacing(frame: Frame) -> bool:
    spacing = frame.pixel_spacing
    return spacing is not None and all(map(isfinite, spacing)) and min(spacing) > 0


# --- planes of another kind -------------------------------------------------------------------


def _clusters(
    frames: list[Frame], value: Callable[[Frame], tuple], near: Callable[[tuple, tuple], bool]
) -> list[list[Frame]]:
    """Frames by value, values that are near the commonest one together; largest first."""
    left: dict[tuple, list[Frame]] = {}
    for frame in frames:
        left.setdefault(value(frame), []).append(frame)
    result = []
    while left:
        centre = max(left, key=lambda known: len(left[known]))
        close = [known for known in left if near(known, centre)]
        result.append([frame for known in close for frame in left.pop(known)])
    return sorted(result, key=len, reverse=True)


def _near_cosines(one: tuple, other: tuple) -> bool:
    return all(abs(a - b) <= COSINE_TOLERANCE for a, b in zip(one, other, strict=True))


def _near_spacing(one: tuple, other: tuple) -> bool:
    return all(abs(a - b) <= SPACING_TOLERANCE * b for a, b in zip(one, other, strict=True))


def _orientation(frame: Frame) -> tuple:
    return tuple(frame.orientation)


def _matrix(frame: Frame) -> tuple:
    return (frame.rows, frame.columns)


def _pixel_spacing(frame: Frame) -> tuple:
    return tuple(frame.pixel_spacing)


def _one_orientation(frames: list[Frame], collector: Collector) -> list[Frame]:
    clusters = _clusters(frames, _orientation, _near_cosines)
    axial = [c for c in clusters if plane_name(c[0].orientation) == "axial"]
    if not axial or len(axial[0]) * 10 < len(clusters[0]):
        kinds = sorted({plane_name(cluster[0].orientation) for cluster in clusters})
        names = _labels(frames)
        what = "looks like a localizer" if is_localizer(len(frames), 0) else "no axial stack"
        collector.fail(
            "not_axial",
            f"{_images(len(frames))} of orientation {' and '.join(kinds)} ({what}): "
            f"{name_files(names)}. A volume is read from axial planes",
            names,
        )
    main = axial[0]
    for cluster in clusters:
        if cluster is main:
            continue
        kind = plane_name(cluster[0].orientation)
        names = _labels(cluster)
        if kind != "axial" and is_localizer(len(cluster), len(main)):
            collector.add(
                "localizer_dropped",
                f"dropped {_images(len(cluster))} of {kind} orientation: {name_files(names)}",
                names,
            )
        else:
            collector.add(
                "mixed_orientation",
                f"{_images(len(cluster))} of another orientation ({kind}) than the other "
                f"{len(main)}: {name_files(names)}",
                names,
            )
    return main


def _one_matrix(frames: list[Frame], collector: Collector) -> list[Frame]:
    main, *others = _clusters(frames, _matrix, tuple.__eq__)
    for cluster in others:
        names = _labels(cluster)
        collector.add(
            "mixed_matrix",
            f"{_images(len(cluster))} of {cluster[0].rows}x{cluster[0].columns} among {len(main)} "
            f"of {main[0].rows}x{main[0].columns}: {name_files(names)}",
            names,
        )
    return main


def _one_pixel_spacing(frames: list[Frame], collector: Collector) -> list[Frame]:
    main, *others = _clusters(frames, _pixel_spacing, _near_spacing)
    for cluster in others:
        names = _labels(cluster)
        found, expected = cluster[0].pixel_spacing[0], main[0].pixel_spacing[0]
        collector.add(
            "varying_pixel_spacing",
            f"{_images(len(cluster))} with pixels of {found:g} mm among {len(main)} of "
            f"{expected:g} mm: {name_files(names)}",
            names,
            expected_mm=expected,
            found_mm=found,
        )
    return main


# --- several planes at one position -----------------------------------------------------------


def _along(frames: list[Frame]) -> np.ndarray:
    normal = head_normal(most_common([frame.orientation for frame in frames]))
    return np.array([frame.position for frame in frames], dtype=float) @ normal


def _places(frames: list[Frame]) -> list[tuple[float, list[Frame]]]:
    """Positions along the normal, ascending, each with its frames in source order."""
    along = _along(frames)
    order = np.argsort(along, kind="stable")
    places: list[tuple[float, list[Frame]]] = []
    previous = -np.inf
    for index in order:
        if along[index] - previous <= SAME_POSITION_MM:
            places[-1][1].append(frames[index])
        else:
            places.append((float(along[index]), [frames[index]]))
        previous = along[index]
    for _, members in places:
        if len(members) > 1:
            members.sort(key=source_order)
    return places


def _one_at_each_position(
    frames: list[Frame], collector: Collector, same_pixels: SamePixels
) -> list[Frame]:
    places = _places(frames)
    if len(places) < len(frames):
        places = _drop_copies(places, collector, same_pixels)
    tied = any(len(members) > 1 for _, members in places)
    kept = [frame for _, members in places for frame in members]
    if tied or not _uniform(places):
        chosen = _one_acquisition(kept, tied, collector)
        if chosen is not None:
            return chosen
    if tied:
        _report_duplicates(places, collector)
    return [members[0] for _, members in places]


def _uniform(places: list[tuple[float, list[Frame]]]) -> bool:
    if len(places) < 3:
        return True
    fit = fit_spacing(np.array([along for along, _ in places]))
    return fit.uniform and not fit.tenths  # what looks rounded may be two acquisitions in turn


def _drop_copies(
    places: list[tuple[float, list[Frame]]], collector: Collector, same_pixels: SamePixels
) -> list[tuple[float, list[Frame]]]:
    """Without frames whose pixels equal those of an earlier frame at their position."""
    result, dropped, differing = [], [], 0
    for along, members in places:
        kept = members[:1]
        for frame in members[1:]:
            if differing < COMPARED_PLACES and any(same_pixels(other, frame) for other in kept):
                dropped.append(frame)
            else:
                kept.append(frame)
        differing += len(kept) > 1
        result.append((along, kept))
    if dropped:
        names = _labels(dropped)
        collector.add(
            "duplicate_position",
            f"dropped {_images(len(dropped))} that repeat{'s' if len(dropped) == 1 else ''} the "
            f"position and every pixel of another: {name_files(names)}",
            names,
            severity="warning",
        )
    return result


def _report_duplicates(places: list[tuple[float, list[Frame]]], collector: Collector) -> None:
    for along, members in places:
        if len(members) == 1:
            continue
        names = _labels(members)
        collector.add(
            "duplicate_position",
            f"{len(members)} different images at {along:.3f} mm along the normal: "
            f"{name_files(names)}"
            + ("" if collector.refuses("duplicate_position") else f"; kept {names[0]}"),
            names,
            position_mm=along,
        )


_TOLD_APART_BY = (
    ("acquisition_number", "acquisition number"),
    ("kernel", "convolution kernel"),
    ("kvp", "tube voltage"),
    ("slice_thickness", "slice thickness"),
    ("image_type", "image type"),
)


def _one_acquisition(frames: list[Frame], tied: bool, collector: Collector) -> list[Frame] | None:
    """The chosen acquisition where several share the same stretch of the patient, else None."""
    for attribute, words in _TOLD_APART_BY:
        parts: dict = {}
        for frame in frames:
            parts.setdefault(getattr(frame, attribute), []).append(frame)
        if len(parts) < 2 or not _interleaved(list(parts.values()), tied):
            continue
        chosen = min(parts, key=lambda key: (-len(parts[key]), _number(key)))
        others = [frame for key, part in parts.items() if key != chosen for frame in part]
        names = _labels(others)
        sizes = ", ".join(str(len(part)) for part in parts.values())
        first, second = _along(parts[chosen]), _along(others)
        collector.add(
            "several_acquisitions",
            f"{len(parts)} acquisitions or reconstructions of {sizes} slices, told apart by "
            f"{words}, share the stretch from {max(first.min(), second.min()):.3f} to "
            f"{min(first.max(), second.max()):.3f} mm along the normal"
            + (
                ""
                if collector.refuses("several_acquisitions")
                else f"; kept the one with most slices, left out {name_files(names)}"
            ),
            names,
        )
        return parts[chosen]
    return None


def _number(key: object) -> tuple:
    return (0, key, "") if isinstance(key, int | float) else (1, 0, str(key))


def _interleaved(parts: list[list[Frame]], tied: bool) -> bool:
    """Whether the parts explain the disorder: each is free of ties and they share a stretch."""
    stretches = []
    for part in parts:
        along = np.sort(_along(part))
        if len(along) > 1 and np.diff(along).min() <= SAME_POSITION_MM:
            return False
        stretches.append(along)
    # without ties every part has to be a grid of its own
    if not tied and any(len(part) < 3 or not fit_spacing(part).uniform for part in stretches):
        return False
    stretches.sort(key=lambda along: along[0])
    reach = -np.inf
    for along in stretches:
        if along[0] <= reach + SAME_POSITION_MM and len(along) > 1:
            return True
        reach = max(reach, along[-1])
    return False
