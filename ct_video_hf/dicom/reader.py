"""``read_ct``: from a path to a :class:`CTVolume`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..progress import Progress
from .alike import AlikeSlices
from .errors import CTReadError
from .findings import Collector, check_policy, name_files
from .frame import Frame, Source
from .geometry import Stack, build_stack
from .limits import Limits
from .nifti import is_nifti, read_nifti
from .pixels import PixelSummary, read_plane
from .planes import Pixels, StackReader, fitted_affine, same_pixels
from .plausibility import check_values
from .repair import Grid, plan_repair
from .report import GeometryReport, Policy
from .selection import select_stack, source_order
from .series import SeriesInfo, choose_series, group_series, list_series
from .sources import open_sources
from .syntax import describe_syntax
from .volume import CTVolume, VolumeMemory, rounded_spacing

__all__ = ["find_series", "read_ct"]

#: Codes with which reading a header says that a file is no CT image, without being damaged.
_OTHER_KIND = {"not_ct"}
#: Names that promise DICOM: such a file that holds none is damaged, not a stranger.
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


def read_ct(
    path: str | os.PathLike[str],
    policy: Policy = "strict",
    *,
    series: str | int | None = None,
    in_plane: int | None = None,
    workers: int | None = None,
    limits: Limits | None = None,
    progress: Progress = False,
    memory: VolumeMemory | None = None,
) -> CTVolume:
    """Read a CT scan: a DICOM folder, file or zip, or a NIfTI file.

    Parameters
    ----------
    path : path
        A folder (searched with its subfolders), a DICOM file, a zip archive, .nii or .nii.gz.
    policy : {"strict", "warn", "repair"}
        What to do about findings; :mod:`ct_video_hf.dicom.geometry` holds the table.
    series : str or int, optional
        Which series, where there are several: a Series Instance UID, a series number, or "#n" for
        the n-th that :func:`find_series` lists. By default the rule of
        :mod:`ct_video_hf.dicom.series` chooses. DICOM only.
    in_plane : int, optional
        Fit every plane to ``in_plane`` x ``in_plane`` pixels while reading (padded to a square with
        air, then area-averaged or linearly enlarged); affine and spacing follow, while the report
        keeps describing the scan as it was before. The volume of full size is never in memory.
    workers : int, optional
        Threads that decode; chosen by the number of cores when None.
    limits : Limits, optional
        Upper bounds on files, sizes and voxels.
    progress : bool or callable
        Show a progress bar on stderr, or call with (slices done, slices). DICOM only.
    memory : VolumeMemory, optional
        Where the values may lie: with it, a volume is valid until the next one is read into the
        same memory. DICOM only.

    Returns
    -------
    CTVolume
        int16 HU (slice, row, column), feet to head, rows to the back, columns to the left.

    Raises
    ------
    CTReadError
        What is wrong, in which file and where, with a stable ``code`` and all ``findings``.
    """
    check_policy(policy)
    path = _as_path(path)
    if in_plane is not None and not (isinstance(in_plane, int | np.integer) and in_plane > 0):
        raise CTReadError(
            f"in_plane must be a whole number of pixels, at least 1, got {in_plane!r}",
            code="bad_in_plane",
        )
    limits = limits or Limits()
    if is_nifti(path):
        if series is not None:
            raise CTReadError(
                f"{path.name} is NIfTI and holds no series; leave series out", code="no_such_series"
            )
        return read_nifti(path, policy, in_plane=in_plane, limits=limits)
    collector = Collector(policy)
    with open_sources(path, limits) as sources:
        frames = _load_frames(sources, path.name or "the folder", collector, limits)
        groups = group_series(frames)
        group = choose_series(groups, collector, series)
        try:
            return _read_group(group.frames, collector, limits, in_plane, workers, progress, memory)
        except CTReadError as error:
            if not error.findings and collector.findings:
                error.findings = collector.to_dicts()
            raise


def find_series(path: str | os.PathLike[str], limits: Limits | None = None) -> list[SeriesInfo]:
    """The CT series under a path, in the order that ``series="#n"`` counts.

    Only headers are read. The one that :func:`read_ct` would choose is marked.

    Raises
    ------
    CTReadError
        Where there is no CT image at all.
    """
    path = _as_path(path)
    if is_nifti(path):
        raise CTReadError(f"{path.name} is NIfTI and holds no series", code="no_such_series")
    limits = limits or Limits()
    collector = Collector("warn")
    with open_sources(path, limits) as sources:
        frames = _load_frames(sources, path.name or "the folder", collector, limits)
        return list_series(group_series(frames))


def _as_path(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise CTReadError(
            f"read_ct takes a path, got {type(path).__name__}; arrays carry no geometry, so write "
            f"them as NIfTI or build a CTVolume",
            code="bad_path",
        )
    if not os.fspath(path):
        raise CTReadError("the path is empty; name a folder or a file", code="bad_path")
    path = Path(path)
    try:
        return path if path.exists() else path.expanduser()
    except (OSError, RuntimeError):  # told where it is opened
        return path


# --- files to frames --------------------------------------------------------------------------


def _load_frames(
    sources: Sequence[Source], where: str, collector: Collector, limits: Limits
) -> list[Frame]:
    """Headers of all CT images; other files and damaged ones become findings."""
    frames: list[Frame] = []
    strangers: list[str] = []
    others: list[tuple[str, CTReadError]] = []
    damaged: list[tuple[str, CTReadError]] = []
    slices = AlikeSlices(limits)
    for source in sources:
        try:
            frames.extend(slices.frames(source))
        except CTReadError as error:
            if len(sources) == 1 or error.code == "too_large":
                raise
            if error.code in _OTHER_KIND:
                others.append((source.name, error))
            elif error.code == "not_dicom" and not _promises_dicom(source.name):
                strangers.append(source.name)
            else:
                damaged.append((source.name, error))
    if strangers:
        collector.add(
            "not_dicom_ignored",
            f"ignored {len(strangers)} files that are not DICOM: {name_files(strangers)}",
            strangers,
        )
    if others:
        collector.add(
            "not_ct_dropped",
            f"left out {len(others)} DICOM objects that are not CT images: {_kinds(others)}",
            [name for name, _ in others],
        )
    for name, error in damaged:
        collector.add("unreadable_file", f"{error} ({error.code})", [name])
    if not frames:
        _refuse_nothing(where, strangers, others, damaged, collector)
    collector.stop_on_errors()
    return frames


def _promises_dicom(name: str) -> bool:
    return name.lower().endswith(_DICOM_SUFFIXES)


def _kinds(others: list[tuple[str, CTReadError]]) -> str:
    """What the objects are: the reason for the first of each kind, and how many share it."""
    kinds: dict[str, list[str]] = {}
    for name, error in others:
        kinds.setdefault(str(error).replace(name, "", 1), []).append(name)
    return "; ".join(
        f"{names[0]}{reason}" + (f" ({len(names) - 1} more alike)" if len(names) > 1 else "")
        for reason, names in kinds.items()
    )


def _refuse_nothing(
    where: str,
    strangers: list[str],
    others: list[tuple[str, CTReadError]],
    damaged: list[tuple[str, CTReadError]],
    collector: Collector,
) -> None:
    """Say what there is instead of CT images."""
    if damaged:
        raise CTReadError(
            f"no readable CT image in {where}: {damaged[0][1]}",
            code=damaged[0][1].code,
            findings=collector.to_dicts(),
        )
    code = "not_ct" if others else "no_dicom"
    parts = []
    if others:
        parts.append(_kinds(others))
    if strangers:
        parts.append(f"{len(strangers)} files are not DICOM ({name_files(strangers)})")
    if any(name.lower().endswith((".nii", ".nii.gz")) for name in strangers):
        parts.append("a NIfTI file is read when it is named itself")
    what = "; ".join(parts) or "there are no files"
    raise CTReadError(f"no CT image in {where}: {what}", code=code, findings=collector.to_dicts())


# --- frames to a volume -----------------------------------------------------------------------


def _read_group(
    frames: list[Frame],
    collector: Collector,
    limits: Limits,
    in_plane: int | None,
    workers: int | None,
    progress: Progress,
    memory: VolumeMemory | None,
) -> CTVolume:
    while True:
        mark = len(collector.findings)
        stack = _stack(frames, collector)
        grid = plan_repair(stack, collector) if _mend(stack, collector) else None
        limits.check_volume(
            grid.shape if grid else (len(stack.frames), *stack.shape), stack.frames[0].label
        )
        reader = StackReader(stack, grid, in_plane, workers, progress, memory)
        try:
            pixels = reader.read()
            break
        except CTReadError as error:
            if collector.refuses("unreadable_file"):
                raise
            bad = reader.damaged_frames()
            if not bad:
                raise
            del collector.findings[mark:]  # the stack without them is judged anew
            names = [frame.label for frame in bad]
            collector.add("unreadable_file", f"{error} ({error.code})", names)
            frames = [frame for frame in frames if frame not in bad]
    _describe_values(stack, pixels.summary, collector)
    check_values(pixels.hu, collector)
    nearest = grid.nearest if grid else list(range(len(stack.frames)))
    return _volume(pixels, nearest, stack, grid, in_plane, collector)


def _stack(frames: list[Frame], collector: Collector) -> Stack:
    selected = select_stack(frames, collector, same_pixels)
    if len(selected) == 1:
        only = selected[0]
        read_plane(only)  # what cannot be decoded is told first: it is the more basic trouble
        collector.fail(
            "single_slice",
            f"{only.label} is a single slice"
            + (f" of {len(frames)} images" if len(frames) > 1 else "")
            + "; a volume needs at least two at different positions",
            [only.label],
        )
    return build_stack(selected, collector)


def _mend(stack: Stack, collector: Collector) -> bool:
    return collector.policy == "repair" and bool(stack.needs)


def _describe_values(stack: Stack, summary: PixelSummary, collector: Collector) -> None:
    """Findings about what the stored values mean."""
    frames = stack.frames
    lacking = [frame.label for frame in frames if frame.slope is None or frame.intercept is None]
    if lacking:
        collector.add(
            "missing_rescale",
            f"{len(lacking)} of {len(frames)} images have no rescale slope or intercept; taken as "
            f"1 and 0, which is right only where values are stored as HU",
            lacking,
        )
    types = {frame.rescale_type for frame in frames} - {None, "", "HU"}
    if "US" in types:
        types.remove("US")
        collector.add(
            "not_hu",
            "the header leaves open what values are (Rescale Type US, unspecified, PS3.3 "
            "C.11.1.1.2); taken as HU",
            severity="info",
        )
    if types:
        collector.add(
            "not_hu",
            f"the header says that values are {', '.join(sorted(types))} (Rescale Type, PS3.3 "
            f"C.11.1.1.2), not HU",
        )
    if any(frame.modality is None for frame in frames):
        collector.add("missing_modality", "the header names no modality; taken as CT")
    lossy = sorted({frame.transfer_syntax for frame in frames if frame.lossy})
    if lossy:
        collector.add(
            "lossy_compression",
            f"compressed with loss (now {', '.join(map(describe_syntax, lossy))})",
            [frame.label for frame in frames if frame.lossy],
        )
    ids = [_slice_id(frame) for frame in frames]
    repeated = len(ids) - len(set(ids) - {None}) - ids.count(None)
    if repeated:
        collector.add(
            "duplicate_uid",
            f"{repeated} of {len(frames)} slices repeat the SOP Instance UID of another; their "
            f"ids do not tell them apart",
        )
    for note in summary.notes:
        collector.add(note.code, note.message, note.files)
    if summary.padded_voxels:
        collector.add("pixel_padding", f"{summary.padded_voxels} voxels of padding were set to air")
    if summary.clipped_voxels:
        collector.add(
            "clipped_values", f"{summary.clipped_voxels} voxels beyond int16 were clipped"
        )


def _volume(
    pixels: Pixels,
    nearest: list[int | None],
    stack: Stack,
    grid: Grid | None,
    in_plane: int | None,
    collector: Collector,
) -> CTVolume:
    frames = stack.frames
    order = sorted(range(len(frames)), key=lambda place: source_order(frames[place]))
    rank = {place: number for number, place in enumerate(order)}
    first = frames[0]
    thickness = {frame.slice_thickness for frame in frames} - {None}
    affine = grid.affine if grid else stack.affine
    slices, rows, columns = grid.shape if grid else (len(frames), *stack.shape)
    report = GeometryReport(
        slices=slices,
        rows=rows,
        columns=columns,
        spacing_mm=rounded_spacing(affine),
        orientation="axial",
        modality=first.modality,
        transfer_syntaxes=sorted({frame.transfer_syntax for frame in frames}),
        hu_min=pixels.hu_min,
        hu_max=pixels.hu_max,
        policy=collector.policy,
        findings=collector.findings,
        source="dicom",
        manufacturer=first.manufacturer,
        kernel=first.kernel,
        kvp=first.kvp,
        slice_thickness_mm=max(thickness) if thickness else None,
        oblique_degrees=round(stack.oblique_degrees, 4),
        affine_error_mm=0.0 if grid else round(stack.affine_error_mm, 4),
    )
    if in_plane is not None:
        affine = fitted_affine(affine, rows, columns, in_plane)
    return CTVolume(
        hu=pixels.hu,
        affine=affine,
        slice_ids=[None if place is None else _slice_id(frames[place]) for place in nearest],
        source_index=[None if place is None else rank[place] for place in nearest],
        report=report,
    )


def _slice_id(frame: Frame) -> str | None:
    if frame.number_of_frames > 1:
        return f"{frame.sop_instance_uid}#{frame.frame_index + 1}"
    return frame.sop_instance_uid
