"""From the elements of a header to :class:`Frame`, with every check of what they say."""

from __future__ import annotations

import math

from . import multiframe as groups
from . import syntax as uids
from .elements import Header
from .errors import CTReadError
from .frame import Frame, Source
from .limits import Limits
from .refusals import refuse_other_kinds
from .values import Values

__all__ = [
    "META",
    "OF_ONE_SLICE",
    "TRANSFER_SYNTAX",
    "WANTED",
    "encoding_of",
    "frames_of",
    "of_one_slice",
]

_MEDIA_SOP_CLASS, TRANSFER_SYNTAX = 0x00020002, 0x00020010
_CHARACTER_SET, _IMAGE_TYPE, _SOP_CLASS, _SOP_INSTANCE = (
    0x00080005, 0x00080008, 0x00080016, 0x00080018,
)  # fmt: skip
_MODALITY, _MANUFACTURER, _PATIENT_ID = 0x00080060, 0x00080070, 0x00100020
_THICKNESS, _KVP, _TILT, _KERNEL = 0x00180050, 0x00180060, 0x00181120, 0x00181210
_STUDY, _SERIES, _SERIES_NUMBER, _ACQUISITION, _INSTANCE = (
    0x0020000D, 0x0020000E, 0x00200011, 0x00200012, 0x00200013,
)  # fmt: skip
_POSITION, _ORIENTATION = 0x00200032, 0x00200037
_SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS, _SPACING = (
    0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280030,
)  # fmt: skip
_ALLOCATED, _STORED, _HIGH_BIT, _REPRESENTATION = 0x00280100, 0x00280101, 0x00280102, 0x00280103
_PADDING, _PADDING_LIMIT = 0x00280120, 0x00280121
_INTERCEPT, _SLOPE, _RESCALE_TYPE, _LOSSY, _MODALITY_LUT = (
    0x00281052, 0x00281053, 0x00281054, 0x00282110, 0x00283000,
)  # fmt: skip
_FRAME_TYPE, _FRAME_ACQUISITION = 0x00089007, 0x00209156

#: What is kept of the file meta information.
META = frozenset({_MEDIA_SOP_CLASS, TRANSFER_SYNTAX})
#: What is kept of the data set.
WANTED = groups.WANTED | {
    _CHARACTER_SET, _IMAGE_TYPE, _SOP_CLASS, _SOP_INSTANCE, _MODALITY, _MANUFACTURER, _PATIENT_ID,
    _THICKNESS, _KVP, _TILT, _KERNEL, _STUDY, _SERIES, _SERIES_NUMBER, _ACQUISITION, _INSTANCE,
    _POSITION, _ORIENTATION, _SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS, _SPACING,
    _ALLOCATED, _STORED, _HIGH_BIT, _REPRESENTATION, _PADDING, _PADDING_LIMIT, _INTERCEPT, _SLOPE,
    _RESCALE_TYPE, _LOSSY, _MODALITY_LUT,
}  # fmt: skip
#: What slices of one series say each for itself; see :func:`of_one_slice`.
OF_ONE_SLICE = frozenset({_SOP_INSTANCE, _INSTANCE, _POSITION})
_UTF8_NAMES = ("ISO_IR 192", "GB18030")


def frames_of(header: Header, meta: Values, source: Source, limits: Limits) -> list[Frame]:
    """The frames that a header describes.

    Raises
    ------
    CTReadError
        ``no_pixel_data``, ``not_ct``, ``bad_header``, ``bad_geometry``, ``bad_rescale``,
        ``too_large``.
    """
    elements = header.elements
    values = Values(elements, header.layout.order, encoding_of(header))
    modality = values.text(_MODALITY)
    sop_class = values.text(_SOP_CLASS) or meta.text(_MEDIA_SOP_CLASS)
    refuse_other_kinds(source.name, sop_class, modality)
    if header.pixel_offset is None:
        kind = "floating-point pixel data only" if header.has_float_pixels else "no pixel data"
        raise CTReadError(f"{source.name} holds {kind}: it is not a CT image", code="no_pixel_data")
    limits.check("max_header_bytes", header.pixel_offset, f"{source.name}: its header's size")
    count = _frame_count(values, source.name, limits)
    common = _common_fields(values, header, source, limits)
    common |= {"sop_class_uid": sop_class, "modality": modality, "number_of_frames": count}
    if groups.PER_FRAME in elements:
        inner = groups.FunctionalGroups(values, count, source.name)
        return [_grouped_frame(index, inner, values, common, source) for index in range(count)]
    if count > 1:
        raise CTReadError(
            f"{source.name} holds {count} frames but no functional groups: the positions of its "
            "frames are not known",
            code="bad_header",
        )
    return [_single_frame(values, common, source)]


def encoding_of(header: Header) -> str:
    """Python's name of the encoding of texts."""
    charset = Values(header.elements, header.layout.order).text(_CHARACTER_SET)
    return "utf-8" if charset and charset.startswith(_UTF8_NAMES[0]) else "latin-1"


def of_one_slice(values: Values, name: str) -> dict:
    """The fields of a single frame that come from :data:`OF_ONE_SLICE`. Raises CTReadError."""
    return {
        "sop_instance_uid": values.text(_SOP_INSTANCE),
        "instance_number": values.whole(_INSTANCE),
        "position": _finite(values, _POSITION, 3, "ImagePositionPatient", name),
    }


def _frame_count(values: Values, name: str, limits: Limits) -> int:
    count = values.whole(_FRAMES)
    if count is None:
        if values.raw(_FRAMES) is not None:
            raise CTReadError(f"{name}: NumberOfFrames is not a whole number", code="bad_header")
        return 1
    if count < 1:
        raise CTReadError(f"{name}: NumberOfFrames is {count}", code="bad_header")
    limits.check("max_frames", count, f"{name}: the number of frames")
    return count


def _common_fields(values: Values, header: Header, source: Source, limits: Limits) -> dict:
    """What all frames of a file share."""
    name = source.name
    rows = _required(values, _ROWS, "Rows", name)
    columns = _required(values, _COLUMNS, "Columns", name)
    if rows < 1 or columns < 1:
        raise CTReadError(f"{name}: its matrix is {rows} x {columns}", code="bad_header")
    limits.check("max_rows", rows, f"{name}: the number of rows")
    limits.check("max_columns", columns, f"{name}: the number of columns")
    samples = values.whole(_SAMPLES) or 1
    photometric = (values.text(_PHOTOMETRIC) or "MONOCHROME2").upper()
    if samples != 1 or not photometric.startswith("MONOCHROME"):
        raise CTReadError(
            f"{name} is a colour image ({samples} samples a pixel, {photometric[:16]}); CT images "
            "are monochrome",
            code="not_ct",
        )
    allocated = _required(values, _ALLOCATED, "BitsAllocated", name)
    stored = values.whole(_STORED)
    stored = allocated if stored is None else stored
    high_bit = values.whole(_HIGH_BIT)
    high_bit = stored - 1 if high_bit is None else high_bit
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        raise CTReadError(
            f"{name}: {stored} bits stored in {allocated} allocated; 8, 16 and 32 allocated bits "
            "are read",
            code="bad_header",
        )
    if not stored - 1 <= high_bit < allocated:
        raise CTReadError(
            f"{name}: high bit {high_bit} with {stored} of {allocated} bits stored",
            code="bad_header",
        )
    signed = values.whole(_REPRESENTATION) == 1
    syntax = header.transfer_syntax
    return {
        "study_instance_uid": values.text(_STUDY),
        "series_instance_uid": values.text(_SERIES),
        "patient_id": values.text(_PATIENT_ID),
        "series_number": values.whole(_SERIES_NUMBER),
        "rows": rows,
        "columns": columns,
        "samples_per_pixel": samples,
        "photometric": photometric,
        "bits_allocated": allocated,
        "bits_stored": stored,
        "high_bit": high_bit,
        "signed": signed,
        "padding_value": values.bits(_PADDING, signed),
        "padding_limit": values.bits(_PADDING_LIMIT, signed),
        "transfer_syntax": syntax,
        "manufacturer": values.text(_MANUFACTURER),
        "lossy": values.text(_LOSSY) == "01" or uids.syntax_of(syntax).lossy,
        "pixel_offset": header.pixel_offset,
        "pixel_length": header.pixel_length,
        "pixel_vr": header.pixel_vr,
    }


def _required(values: Values, tag: int, keyword: str, name: str) -> int:
    value = values.whole(tag)
    if value is None:
        lacking = "is not a whole number" if values.raw(tag) is not None else "is missing"
        raise CTReadError(
            f"{name}: {keyword} {lacking}; its pixels cannot be laid out", code="bad_header"
        )
    return value


def _single_frame(values: Values, common: dict, source: Source) -> Frame:
    name = source.name
    return Frame(
        source=source,
        frame_index=0,
        **common,
        **of_one_slice(values, name),
        image_type=values.texts(_IMAGE_TYPE),
        acquisition_number=values.whole(_ACQUISITION),
        orientation=_axes(values, name),
        pixel_spacing=_spacing(values, name),
        slice_thickness=_sane(values.number(_THICKNESS)),
        gantry_tilt=_sane(values.number(_TILT)),
        **_rescale(values, name),
        kernel=values.text(_KERNEL),
        kvp=_sane(values.number(_KVP)),
    )


def _grouped_frame(
    index: int, inner: groups.FunctionalGroups, values: Values, common: dict, source: Source
) -> Frame:
    label = f"{source.name} frame {index + 1}"
    measures = inner.macro(index, groups.PIXEL_MEASURES)
    frame_type = inner.macro(index, groups.FRAME_TYPE).texts(_FRAME_TYPE)
    acquisition = inner.macro(index, groups.FRAME_CONTENT).whole(_FRAME_ACQUISITION)
    transform = inner.macro(index, groups.PIXEL_TRANSFORM)
    if _SLOPE not in transform and _INTERCEPT not in transform:
        transform = values
    return Frame(
        source=source,
        frame_index=index,
        **common,
        sop_instance_uid=values.text(_SOP_INSTANCE),
        instance_number=values.whole(_INSTANCE),
        image_type=frame_type or values.texts(_IMAGE_TYPE),
        acquisition_number=values.whole(_ACQUISITION) if acquisition is None else acquisition,
        position=_finite(
            inner.macro(index, groups.PLANE_POSITION), _POSITION, 3, "ImagePositionPatient", label
        ),
        orientation=_axes(inner.macro(index, groups.PLANE_ORIENTATION), label),
        pixel_spacing=_spacing(measures, label),
        slice_thickness=_sane(measures.number(_THICKNESS)),
        gantry_tilt=_sane(inner.macro(index, groups.ACQUISITION_DETAILS).number(_TILT)),
        **_rescale(transform, label),
        kernel=inner.macro(index, groups.RECONSTRUCTION).text(_KERNEL),
        kvp=_sane(inner.macro(index, groups.XRAY_DETAILS).number(_KVP)),
    )


def _finite(
    values: Values, tag: int, length: int, keyword: str, name: str
) -> tuple[float, ...] | None:
    """A vector of finite numbers; None when missing."""
    if values.raw(tag) is None:
        return None
    vector = values.vector(tag, length)
    if vector is None or not all(map(math.isfinite, vector)):
        raise CTReadError(
            f"{name}: {keyword} is {values.text(tag)!r}, not {length} finite numbers",
            code="bad_geometry",
        )
    return vector


def _axes(values: Values, name: str) -> tuple[float, ...] | None:
    axes = _finite(values, _ORIENTATION, 6, "ImageOrientationPatient", name)
    if axes is not None and not (any(axes[:3]) and any(axes[3:])):
        raise CTReadError(
            f"{name}: ImageOrientationPatient has an axis of length 0", code="bad_geometry"
        )
    return axes


def _spacing(values: Values, name: str) -> tuple[float, ...] | None:
    spacing = _finite(values, _SPACING, 2, "PixelSpacing", name)
    if spacing is not None and min(spacing) <= 0:
        raise CTReadError(
            f"{name}: PixelSpacing is {spacing[0]:g} x {spacing[1]:g} mm; both must be above 0",
            code="bad_geometry",
        )
    return spacing


def _rescale(values: Values, name: str) -> dict[str, float | str | None]:
    slope, intercept = values.number(_SLOPE), values.number(_INTERCEPT)
    for tag, keyword, value in [
        (_SLOPE, "RescaleSlope", slope), (_INTERCEPT, "RescaleIntercept", intercept),
    ]:  # fmt: skip
        broken = value is None and values.raw(tag) is not None
        if broken or (value is not None and not math.isfinite(value)):
            raise CTReadError(
                f"{name}: {keyword} is {values.text(tag)!r}, not a finite number",
                code="bad_rescale",
            )
    if slope == 0:
        raise CTReadError(
            f"{name}: RescaleSlope is 0, which makes every voxel equal", code="bad_rescale"
        )
    if slope is None and intercept is None and _MODALITY_LUT in values:
        raise CTReadError(
            f"{name} has a modality lookup table instead of rescale slope and intercept, which "
            "CT images may not have (PS3.3 C.8.2.1)",
            code="bad_rescale",
        )
    return {"slope": slope, "intercept": intercept, "rescale_type": values.text(_RESCALE_TYPE)}


def _sane(value: float | None) -> float | None:
    """None for what is no finite number."""
    return value if value is not None and math.isfinite(value) else None
