"""Headers: from the bytes of a DICOM file to :class:`Frame`.

Only the header is read, up to the pixel data, and only what the reader uses of it.
"""

from __future__ import annotations

import math
import zlib

from . import multiframe as groups
from . import syntax as uids
from .elements import Header, Layout, NeedMoreBytes, OddStructure, pydicom_elements, walk
from .errors import CTReadError
from .frame import Frame, Source
from .limits import Limits
from .refusals import describe_strange_bytes, refuse_other_kinds
from .values import Values

__all__ = ["deflated_data_set", "read_frames"]

_FIRST_READ = 8 * 1024
_GROWTH = 8

_MEDIA_SOP_CLASS, _TRANSFER_SYNTAX = 0x00020002, 0x00020010
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

_META = frozenset({_MEDIA_SOP_CLASS, _TRANSFER_SYNTAX})
_WANTED = groups.WANTED | {
    _CHARACTER_SET, _IMAGE_TYPE, _SOP_CLASS, _SOP_INSTANCE, _MODALITY, _MANUFACTURER, _PATIENT_ID,
    _THICKNESS, _KVP, _TILT, _KERNEL, _STUDY, _SERIES, _SERIES_NUMBER, _ACQUISITION, _INSTANCE,
    _POSITION, _ORIENTATION, _SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS, _SPACING,
    _ALLOCATED, _STORED, _HIGH_BIT, _REPRESENTATION, _PADDING, _PADDING_LIMIT, _INTERCEPT, _SLOPE,
    _RESCALE_TYPE, _LOSSY, _MODALITY_LUT,
}  # fmt: skip
_UTF8_NAMES = ("ISO_IR 192", "GB18030")


def read_frames(source: Source, limits: Limits | None = None) -> list[Frame]:
    """The frames of one file: one, or as many as an enhanced multi-frame CT object holds.

    Parameters
    ----------
    source : Source
    limits : Limits, optional

    Returns
    -------
    list of Frame
        In stored order. Fields that the header lacks, or that make no sense there, are None.

    Raises
    ------
    CTReadError
        ``not_dicom``, ``truncated_file``, ``no_pixel_data``, ``not_ct``, ``bad_header``,
        ``bad_geometry``, ``bad_rescale``, ``too_large``, and what reading the source raises.
    """
    limits = limits or Limits()
    header, meta = _load(source, limits)
    elements = header.elements
    order = header.layout.order
    charset = Values(elements, order).text(_CHARACTER_SET)
    encoding = "utf-8" if charset and charset.startswith(_UTF8_NAMES[0]) else "latin-1"
    values = Values(elements, order, encoding)

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


# --- bytes to elements --------------------------------------------------------------------------


def _load(source: Source, limits: Limits) -> tuple[Header, Values]:
    """The header and the file meta information, reading no more of the file than needed."""
    length = _FIRST_READ
    while True:
        data = source.read(0, length)
        whole = len(data) < length or length >= source.size
        try:
            return _parse(data, source, whole, limits)
        except NeedMoreBytes:
            if whole:
                raise CTReadError(
                    f"{source.name} ends inside its header, after {len(data)} bytes: the file is "
                    "cut off or damaged",
                    code="truncated_file",
                ) from None
        limits.check("max_header_bytes", length, f"{source.name}: its header's size")
        length *= _GROWTH


def _parse(data: bytes, source: Source, whole: bool, limits: Limits) -> tuple[Header, Values]:
    start = _dataset_start(data, source.name)
    meta, start = _read_meta(data, start, whole)
    syntax = meta.text(_TRANSFER_SYNTAX)
    layout = _layout(syntax, data, start, source.name)
    if syntax is None:
        syntax = uids.IMPLICIT_LITTLE if layout.implicit else uids.EXPLICIT_LITTLE
        if layout.order == ">":
            syntax = uids.BIG_ENDIAN
    if syntax == uids.DEFLATED:
        data, start, whole = _expand(source, start, limits), 0, True
    try:
        header = walk(data, start, layout, _WANTED, whole=whole)
    except OddStructure as odd:
        if not whole:
            raise NeedMoreBytes from odd
        header = _second_opinion(data, start, layout, source.name)
    header.transfer_syntax = syntax
    return header, meta


def _second_opinion(data: bytes, start: int, layout: Layout, name: str) -> Header:
    try:
        header = pydicom_elements(data, start, layout, _WANTED)
    except OddStructure as error:
        raise CTReadError(
            f"{name} is damaged: its header cannot be read ({error.__cause__.__class__.__name__})",
            code="truncated_file",
        ) from error
    if header.pixel_offset is None and not header.has_float_pixels:
        raise CTReadError(
            f"{name} is damaged: no pixel data follow its malformed header", code="truncated_file"
        )
    return header


def _dataset_start(data: bytes, name: str) -> int:
    """Where elements begin: behind the preamble, or at once where there is none."""
    if data[128:132] == b"DICM":
        return 132
    if not data:
        raise CTReadError(f"{name} is empty (0 bytes)", code="truncated_file")
    if _guess_layout(data, 0) is None:
        raise CTReadError(
            f"{name} is not DICOM{describe_strange_bytes(data[:256])}", code="not_dicom"
        )
    return 0


def _read_meta(data: bytes, start: int, whole: bool) -> tuple[Values, int]:
    """File meta information (group 2, always explicit VR little endian) and where it ends."""
    position = start
    elements = {}
    while data[position : position + 2] == b"\x02\0":
        tag = 0x00020000 | int.from_bytes(data[position + 2 : position + 4], "little")
        vr = data[position + 4 : position + 6]
        if vr in (b"OB", b"UN", b"SQ", b"UT", b"OW"):
            length, head = int.from_bytes(data[position + 8 : position + 12], "little"), 12
        else:
            length, head = int.from_bytes(data[position + 6 : position + 8], "little"), 8
        stop = position + head + length
        if stop > len(data):
            raise NeedMoreBytes
        if tag in _META:
            elements[tag] = (vr.decode("latin-1"), data[position + head : stop])
        position = stop
    if position >= len(data) and not whole:
        raise NeedMoreBytes
    return Values(elements, "<"), position


def _layout(syntax: str | None, data: bytes, start: int, name: str) -> Layout:
    if syntax is None:
        layout = _guess_layout(data, start)
        if layout is None:
            raise CTReadError(
                f"{name} names no transfer syntax and none can be guessed", code="bad_header"
            )
        return layout
    if syntax == uids.IMPLICIT_LITTLE:  # some writers announce it above explicit elements
        vr = data[start + 4 : start + 6]
        return Layout(not (vr.isalpha() and vr.isupper()), "<")
    return Layout(False, ">" if syntax == uids.BIG_ENDIAN else "<")


def _guess_layout(data: bytes, start: int) -> Layout | None:
    """How a data set without meta information is written, from its first element; None if not."""
    head = data[start : start + 8]
    if len(head) < 8:
        return None
    has_vr = head[4:6].isalpha() and head[4:6].isupper()
    if head[:2] in (b"\x02\0", b"\x08\0") and has_vr:
        return Layout(False, "<")
    if head[:2] == b"\0\x08" and has_vr:
        return Layout(False, ">")
    if head[:2] == b"\x08\0" and int.from_bytes(head[4:8], "little") < 1024 and head[3] < 0x30:
        return Layout(True, "<")
    return None


def deflated_data_set(source: Source, limits: Limits) -> bytes:
    """The expanded data set of a file in the deflated syntax (PS3.5 A.5).

    Raises
    ------
    CTReadError
        ``too_large`` above ``limits.max_file_bytes``, ``truncated_file`` for damaged data.
    """
    head = source.read(0, _FIRST_READ)
    _, start = _read_meta(head, _dataset_start(head, source.name), len(head) >= source.size)
    return _expand(source, start, limits)


def _expand(source: Source, start: int, limits: Limits) -> bytes:
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = engine.decompress(source.read(start), limits.max_file_bytes)
    except zlib.error as error:
        raise CTReadError(
            f"{source.name}: its deflated data set is damaged ({error})", code="truncated_file"
        ) from error
    if engine.unconsumed_tail:
        limits.check("max_file_bytes", len(data) + 1, f"{source.name}: its expanded size")
    if not engine.eof:
        raise CTReadError(f"{source.name}: its deflated data set is cut off", code="truncated_file")
    return data


# --- elements to frames -------------------------------------------------------------------------


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
        "sop_instance_uid": values.text(_SOP_INSTANCE),
        "patient_id": values.text(_PATIENT_ID),
        "instance_number": values.whole(_INSTANCE),
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
        image_type=values.texts(_IMAGE_TYPE),
        acquisition_number=values.whole(_ACQUISITION),
        position=_finite(values, _POSITION, 3, "ImagePositionPatient", name),
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
