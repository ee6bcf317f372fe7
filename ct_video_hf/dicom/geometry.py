"""From the headers of one stack of planes to a grid: order, spacing, tilt, axes and affine.

Everything here is a function of positions and orientations (Image Plane module, DICOM PS3.3
C.7.6.2); slice thickness, slice location, spacing between slices, instance number and file name
decide nothing. Slices are sorted by the projection of Image Position (Patient) on the slice
normal, which is row cosine x column cosine, turned so that it points to the head.

Tolerances
----------
position along the normal
    1 % of the spacing, but at least 0.011 mm and at most 0.05 mm, from the grid that the first and
    the last slice span. A header holds a position as a decimal string, mostly with three or more
    decimals, so this is ten times the usual rounding, and just above that to 0.01 mm; 1 % is below
    what any reconstruction resolves. Positions that are all written in whole tenths of a
    millimetre, while the spacing is not, have been rounded by up to 0.05 mm each: they are taken
    as uniform (or as uniform with whole slices missing) when a straight line runs within 0.06 mm
    of every one.
position within the plane
    0.05 mm from a straight line through the stack (0.1 mm for positions in whole tenths).
tilt
    0.1 degrees between the line from slice to slice and the normal.
orientation
    0.001 in each direction cosine: 0.36 mm at the far side of a 360 mm field.
pixel spacing
    0.1 %, which is the same 0.36 mm.
same position
    0.01 mm along the normal.

Findings and policies
---------------------
"error" refuses the scan, "warning" and "info" go on. What "warn" and "repair" do is the last
column; where only one of them is named the other does the same as far as it applies.

=====================  =======  =======  =======  ================================================
code                   strict   warn     repair   meaning; what is done when reading goes on
=====================  =======  =======  =======  ================================================
not_dicom_ignored      info     info     info     a file of another kind lies beside the images
not_ct_dropped         info     info     info     a DICOM object that is no CT image is left out
unreadable_file        error    warning  warning  a damaged DICOM file; left out, shows as a gap
several_studies        error    error    error    more than one study or patient; name a series
several_series         warning  warning  warning  the stated rule chose one of several
non_axial_series       info     info     info     a sagittal or coronal series is left out
localizer_dropped      warning  warning  warning  a few images of another orientation; left out
not_axial              error    error    error    the series has no stack of axial planes
no_position            error    warning  warning  Image Position missing; left out (all: error)
no_orientation         error    warning  warning  orientation missing or no unit vectors; likewise
no_pixel_spacing       error    warning  warning  Pixel Spacing missing or not positive; likewise
mixed_orientation      error    warning  warning  planes of another orientation; minority left out
mixed_matrix           error    warning  warning  planes of other rows x columns; minority left out
varying_pixel_spacing  error    warning  warning  planes of other pixel size; minority left out
duplicate_position     error    warning  warning  several planes at one place; the first by instance
                                                  number, name and frame stays. Exact copies are
                                                  dropped with a warning under every policy
several_acquisitions   error    warning  warning  acquisitions or reconstructions share the place;
                                                  the one with most slices, then lowest number stays
single_slice           error    error    error    one plane is no volume
too_few_slices         warning  warning  warning  fewer than 8: no study, but a volume
missing_slice          error    warning  warning  a gap of whole spacings. warn: stacked as it is
                                                  up to 10 spacings, else refused; repair:
                                                  interpolated up to 2.5 spacings and a quarter of
                                                  the slices, else refused
uneven_spacing         error    warning  warning  warn: mean spacing; repair: linear resampling
                                                  along the normal to the median spacing
gantry_tilt            error    warning  warning  warn: the affine is sheared and exact; repair:
                                                  planes are shifted in-plane, the field is widened
                                                  so that every voxel stays in view
shifted_slice          error    warning  warning  planes off the line; repair: shifted back
affine_mismatch        error    error    error    a slice is not where the affine says
approximate_affine     -        warning  -        largest distance between a slice and the affine
overlap                info     info     info     slices thicker than their distance
interslice_gap         info     info     info     slices thinner than their distance
oblique                info     info     info     planes stand oblique to the patient's axes
duplicate_uid          warning  warning  warning  different slices share a SOP Instance UID
missing_modality       info     info     info     no Modality in the header; taken as CT
missing_rescale        warning  warning  warning  no rescale slope or intercept; 1 and 0 assumed
not_hu                 warning  warning  warning  Rescale Type says that values are not HU
implausible_hu         warning  warning  warning  values do not look like HU
undeclared_padding     info     info     info     one impossible value fills part of the images
clipped_values         warning  warning  warning  values beyond int16 were clipped
pixel_padding          info     info     info     voxels of padding were set to air
padding_in_tissue      warning  warning  warning  tissue takes the padding value too; edges alone
monochrome1            info     info     info     the display is turned round, the values are not
monochrome1_inverted   warning  warning  warning  only turned round are the values HU; so read
lossy_compression      warning  warning  warning  the images were compressed with loss
no_nifti_orientation   error    warning  warning  NIfTI without qform and sform; nibabel's guess
nifti_forms_disagree   error    warning  warning  qform and sform differ; sform is used
=====================  =======  =======  =======  ================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .axes import head_normal, most_common, patient_axes
from .findings import Collector
from .frame import Frame
from .spacing import SpacingFit, fit_spacing

__all__ = ["Stack", "build_stack"]

IN_PLANE_TOLERANCE_MM = 0.05
TILT_DEGREES = 0.1
OBLIQUE_DEGREES = 1.0
#: A volume of fewer slices is read with a warning.
FEW_SLICES = 8
#: The widest gap, in spacings, over which policy "warn" still speaks of one volume.
WIDEST_STACKED_GAP = 10


@dataclass
class Stack:
    """Planes in order, feet to head, and where they lie.

    ``affine`` (4, 4) maps (slice, row, column) on patient axes to mm (LPS) for the planes as they
    are; ``origins`` (slices, 3) are the true positions of each plane's first voxel after flipping.
    A native plane is brought to patient axes by flipping rows and columns and then, if
    ``transpose``, swapping them.
    """

    frames: list[Frame]
    affine: np.ndarray
    origins: np.ndarray
    along: np.ndarray
    normal: np.ndarray
    fit: SpacingFit
    flip_rows: bool
    flip_columns: bool
    transpose: bool
    shape: tuple[int, int]  # rows, columns on patient axes
    tilt_degrees: float = 0.0
    oblique_degrees: float = 0.0
    needs: set[str] = field(default_factory=set)  # what repair has to mend

    @property
    def affine_error_mm(self) -> float:
        """Largest distance between a slice's true position and the affine's."""
        predicted = self.affine[:3, 3] + np.outer(np.arange(len(self.frames)), self.affine[:3, 0])
        return float(np.linalg.norm(self.origins - predicted, axis=1).max())


def build_stack(frames: list[Frame], collector: Collector) -> Stack:
    """Put one stack of planes in order and find its grid.

    Parameters
    ----------
    frames : list of Frame
        Of one orientation, matrix and pixel spacing, one at each position, at least two, in any
        order.
    collector : Collector
        Takes the findings; raises at the end where its policy refuses one.
    """
    orientation = most_common([frame.orientation for frame in frames])
    normal = head_normal(orientation)
    positions = np.array([frame.position for frame in frames], dtype=float)
    order = np.argsort(positions @ normal, kind="stable")
    frames = [frames[place] for place in order]
    positions = positions[order]
    along = positions @ normal
    fit = fit_spacing(along)
    stack = _place(frames, positions, along, normal, fit, orientation)
    needs = _check_spacing(stack, collector)
    needs |= _check_line(stack, positions, orientation, collector)
    stack.needs = needs
    _check_thickness(stack, collector)
    _check_axes(stack, collector)
    if not needs - {"gantry_tilt"}:
        _verify(stack, orientation, collector)
    elif collector.policy == "warn":
        error = stack.affine_error_mm
        collector.add(
            "approximate_affine",
            f"the affine is uniform and the slices are not: one lies {error:.3f} mm from where it "
            f"says",
            expected_mm=0.0,
            found_mm=error,
        )
    if len(frames) < FEW_SLICES:
        collector.add("too_few_slices", f"only {len(frames)} slices: a volume, but hardly a study")
    collector.stop_on_errors()
    return stack


def _place(
    frames: list[Frame],
    positions: np.ndarray,
    along: np.ndarray,
    normal: np.ndarray,
    fit: SpacingFit,
    orientation: tuple[float, ...],
) -> Stack:
    """The stack's axes and affine."""
    down, across, transpose = patient_axes(orientation)
    between_rows, between_columns = most_common([frame.pixel_spacing for frame in frames])
    rows, columns = frames[0].rows, frames[0].columns
    y_axis, x_axis = (0, 1) if transpose else (1, 0)
    flip_rows = down[y_axis] < 0
    flip_columns = across[x_axis] < 0
    down, across = down * between_rows, across * between_columns
    origins = positions.copy()
    if flip_rows:
        origins += (rows - 1) * down
        down = -down
    if flip_columns:
        origins += (columns - 1) * across
        across = -across
    if transpose:
        down, across = across, down
    step = fit.step
    if fit.index is None:  # the mean drifts least where no grid fits
        step = (along[-1] - along[0]) / (len(along) - 1)
    slope = _slope(origins, along)
    affine = np.eye(4)
    affine[:3, 0] = slope * step
    affine[:3, 1] = down
    affine[:3, 2] = across
    affine[:3, 3] = origins[0]
    shape = (columns, rows) if transpose else (rows, columns)
    return Stack(
        frames, affine, origins, along, normal, fit, flip_rows, flip_columns, transpose, shape
    )


def _slope(origins: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Change of position (x, y, z) for each mm along the normal.

    From the first to the last slice where all lie on that line; else the median from slice to
    slice, which a few displaced slices do not turn.
    """
    slope = (origins[-1] - origins[0]) / (along[-1] - along[0])
    line = origins[0] + np.outer(along - along[0], slope)
    if np.linalg.norm(origins - line, axis=1).max() <= IN_PLANE_TOLERANCE_MM:
        return slope
    return np.median(np.diff(origins, axis=0) / np.diff(along)[:, None], axis=0)


def _check_spacing(stack: Stack, collector: Collector) -> set[str]:
    fit, along = stack.fit, stack.along
    if fit.uniform:
        return set()
    gaps = np.diff(along)
    if fit.index is None:
        leaps = np.maximum(np.round(gaps / fit.step), 1).astype(int)
        leaps[gaps < 1.6 * fit.step] = 1
        odd = np.abs(gaps - fit.step) > fit.tolerance
        odd &= leaps == 1
        if not odd.any() and (leaps == 1).all():
            odd[np.abs(gaps - fit.step).argmax()] = True
    else:
        leaps = np.diff(fit.index)
        odd = np.zeros(len(gaps), dtype=bool)
    needs = set()
    for place in np.flatnonzero(leaps > 1):
        needs.add("missing_slice")
        _gap_finding(stack, int(place), int(leaps[place]) - 1, collector)
    places = np.flatnonzero(odd)
    if len(places):
        needs.add("uneven_spacing")
        place = places[np.abs(gaps[places] - fit.step).argmax()]
        _uneven_finding(stack, int(place), len(places), collector)
    return needs


def _between(stack: Stack, place: int) -> tuple[str, list[str]]:
    files = [stack.frames[place].label, stack.frames[place + 1].label]
    where = f"between {files[0]} at {stack.along[place]:.3f} mm and {files[1]} at "
    return where + f"{stack.along[place + 1]:.3f} mm", files


def _gap_finding(stack: Stack, place: int, missing: int, collector: Collector) -> None:
    where, files = _between(stack, place)
    gap = float(stack.along[place + 1] - stack.along[place])
    too_wide = gap > WIDEST_STACKED_GAP * stack.fit.step
    collector.add(
        "missing_slice",
        f"{missing} slice{'' if missing == 1 else 's'} missing {where}: expected a gap of "
        f"{stack.fit.step:.3f} mm, found {gap:.3f} mm"
        + ("; what lies on either side is no one volume" if too_wide else ""),
        files,
        severity="error" if too_wide else None,
        position_mm=stack.along[place],
        expected_mm=stack.fit.step,
        found_mm=gap,
    )


def _uneven_finding(stack: Stack, place: int, count: int, collector: Collector) -> None:
    where, files = _between(stack, place)
    gap = float(stack.along[place + 1] - stack.along[place])
    collector.add(
        "uneven_spacing",
        f"{count} of {len(stack.along) - 1} gaps differ from {stack.fit.step:.3f} mm by more than "
        f"{stack.fit.tolerance:.3f} mm; the worst is {gap:.3f} mm, {where}",
        files,
        position_mm=stack.along[place],
        expected_mm=stack.fit.step,
        found_mm=gap,
    )


def _check_line(
    stack: Stack, positions: np.ndarray, orientation: tuple[float, ...], collector: Collector
) -> set[str]:
    """Tilt, and planes that lie off the line through the stack."""
    slope = stack.affine[:3, 0] / (stack.affine[:3, 0] @ stack.normal)
    shear = slope - stack.normal
    span = float(stack.along[-1] - stack.along[0])
    tolerance = IN_PLANE_TOLERANCE_MM * (2 if stack.fit.tenths else 1)
    needs = set()
    angle = float(np.rad2deg(np.arctan(np.linalg.norm(shear))))
    if angle > TILT_DEGREES and np.linalg.norm(shear) * span > tolerance:
        stack.tilt_degrees = angle
        needs.add("gantry_tilt")
    _tilt_finding(stack, float(np.linalg.norm(shear)), collector)
    offsets = stack.origins - stack.origins[0] - np.outer(stack.along - stack.along[0], slope)
    offsets -= np.median(offsets, axis=0)
    distance = np.linalg.norm(offsets, axis=1)
    places = np.flatnonzero(distance > tolerance)
    if len(places):
        needs.add("shifted_slice")
        files = [stack.frames[place].label for place in places]
        worst = int(places[distance[places].argmax()])
        collector.add(
            "shifted_slice",
            f"{len(places)} slices lie off the line through the stack by more than {tolerance} mm; "
            f"the worst is {stack.frames[worst].label} at {stack.along[worst]:.3f} mm, "
            f"{distance[worst]:.3f} mm off within its plane",
            files,
            position_mm=stack.along[worst],
            expected_mm=0.0,
            found_mm=distance[worst],
        )
    return needs


def _tilt_finding(stack: Stack, shear: float, collector: Collector) -> None:
    tags = {frame.gantry_tilt for frame in stack.frames} - {None}
    tag = max(tags, key=abs) if tags else 0.0
    names = [stack.frames[0].label]
    if stack.tilt_degrees:
        step = float(stack.affine[:3, 0] @ stack.normal)
        collector.add(
            "gantry_tilt",
            f"the planes are tilted by {stack.tilt_degrees:.2f} degrees against the line through "
            f"them (the header says {tag:g}): from slice to slice {step:.3f} mm along the normal "
            f"and {shear * step:.3f} mm within the plane",
            names,
            expected_mm=0.0,
            found_mm=shear * step,
        )
    elif abs(tag) > TILT_DEGREES:
        collector.add(
            "gantry_tilt",
            f"the header names a gantry tilt of {tag:g} degrees, but the positions form an upright "
            f"grid; taken as corrected at the scanner",
            names,
            severity="warning",
        )


def _check_thickness(stack: Stack, collector: Collector) -> None:
    known = {frame.slice_thickness for frame in stack.frames} - {None}
    if not known:
        return
    thickest, thinnest = max(known), min(known)
    step = stack.fit.step
    if thickest > 1.01 * step:
        collector.add(
            "overlap",
            f"slices of {thickest:g} mm overlap at a distance of {step:.3f} mm; spacing comes from "
            f"positions alone",
            expected_mm=step,
            found_mm=thickest,
        )
    elif 0 < thinnest < 0.99 * step:
        collector.add(
            "interslice_gap",
            f"slices of {thinnest:g} mm lie {step:.3f} mm apart: tissue between them was not "
            f"measured",
            expected_mm=step,
            found_mm=thinnest,
        )


def _check_axes(stack: Stack, collector: Collector) -> None:
    across = stack.affine[:3, 2] / np.linalg.norm(stack.affine[:3, 2])
    down = stack.affine[:3, 1] / np.linalg.norm(stack.affine[:3, 1])
    cosines = np.array([stack.normal[2], down[1], across[0]])
    stack.oblique_degrees = float(np.rad2deg(np.arccos(np.clip(cosines, -1, 1))).max())
    if stack.oblique_degrees > OBLIQUE_DEGREES:
        collector.add(
            "oblique",
            f"the grid stands up to {stack.oblique_degrees:.2f} degrees oblique to the patient's "
            f"axes; the affine keeps that",
        )


def _verify(stack: Stack, orientation: tuple[float, ...], collector: Collector) -> None:
    """Both ends of every plane's diagonal against the affine."""
    tolerance = stack.fit.tolerance + 2 * IN_PLANE_TOLERANCE_MM
    error = stack.affine_error_mm
    if error > tolerance:
        collector.fail(
            "affine_mismatch",
            f"a slice lies {error:.3f} mm from where the affine puts it; {tolerance:.3f} mm are "
            f"tolerated",
            expected_mm=0.0,
            found_mm=error,
        )
    first = stack.frames[0]
    corner = np.array([first.rows - 1, first.columns - 1], dtype=float)
    expected = _diagonal(orientation, most_common([f.pixel_spacing for f in stack.frames]), corner)
    limit = 0.5 * min(first.pixel_spacing) + tolerance
    for frame in stack.frames:
        if frame.orientation == orientation and frame.pixel_spacing == first.pixel_spacing:
            continue
        found = _diagonal(frame.orientation, frame.pixel_spacing, corner)
        distance = float(np.linalg.norm(found - expected))
        if distance > limit:
            collector.fail(
                "affine_mismatch",
                f"the far corner of {frame.label} lies {distance:.3f} mm from where the affine "
                f"puts it; {limit:.3f} mm are tolerated",
                [frame.label],
                expected_mm=0.0,
                found_mm=distance,
            )


def _diagonal(
    orientation: tuple[float, ...], spacing: tuple[float, float], corner: np.ndarray
) -> np.ndarray:
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    return down * spacing[0] * corner[0] + across * spacing[1] * corner[1]
