"""Decoding one compressed frame to stored values, checked against the header.

imagecodecs does the work: its decoders release the interpreter's lock, so threads help.
"""

from __future__ import annotations

import threading

import numpy as np

from .codestream import Codestream, describe_codestream, has_end_marker
from .errors import CTReadError
from .frame import Frame
from .syntax import describe_syntax, syntax_of

__all__ = ["check_decodable", "decode_frame"]

#: A run of 128 equal bytes packs into two: no RLE frame expands further.
_RLE_HEADER = 64
_scratch = threading.local()


def check_decodable(frame: Frame) -> None:
    """Raise CTReadError ``no_decoder`` for a transfer syntax that nothing here decodes."""
    syntax = syntax_of(frame.transfer_syntax)
    if syntax.codec is None:
        raise CTReadError(
            f"{frame.label}: pixels compressed as {describe_syntax(syntax.uid)} cannot be decoded; "
            f"{syntax.remedy}",
            code="no_decoder",
        )


def decode_frame(data: bytes | memoryview, frame: Frame) -> np.ndarray:
    """Stored values of a compressed frame, before any sign or unused bit is put right.

    They stay valid until this thread decodes its next frame.

    Returns
    -------
    numpy.ndarray
        (rows, columns), uint8, uint16 or int16, or wider where the header allocates 32 bits.

    Raises
    ------
    CTReadError
        ``corrupt_pixels``, ``truncated_pixels``, ``no_decoder``.
    """
    codec = syntax_of(frame.transfer_syntax).codec
    if codec == "rle":
        return _decode_rle(data, frame)
    stream = describe_codestream(data, codec or "")
    _check_stream(stream, data, frame)
    try:
        pixels = _decode(data, codec, stream)
    except NotImplementedError as error:
        raise CTReadError(
            f"{frame.label}: {describe_syntax(frame.transfer_syntax)}: {error}", code="no_decoder"
        ) from error
    except (RuntimeError, ValueError, TypeError, IndexError, MemoryError) as error:
        raise CTReadError(
            f"{frame.label}: its {describe_syntax(frame.transfer_syntax)} pixels are damaged: "
            f"{error}",
            code="corrupt_pixels",
        ) from error
    if pixels.shape != (frame.rows, frame.columns) or pixels.dtype.kind not in "ui":
        raise CTReadError(
            f"{frame.label}: its pixels decode to {pixels.shape} {pixels.dtype}, the header says "
            f"{frame.rows} x {frame.columns}",
            code="corrupt_pixels",
        )
    pixels = _correct_sign(pixels, stream, frame, codec)
    # bits above the stored ones are in a stream only when it is as deep as the high bit says
    return _low_bits(pixels, frame) if stream.precision == (frame.high_bit or 0) + 1 else pixels


def _decode(data: bytes | memoryview, codec: str | None, stream: Codestream | None) -> np.ndarray:
    import imagecodecs

    if codec == "jpeg-lossless":
        return imagecodecs.jpeg8_decode(data, out=_scratch_for(stream))
    if codec == "jpeg":
        return imagecodecs.jpeg8_decode(data)
    if codec == "jpeg-ls":
        return imagecodecs.jpegls_decode(data)
    # OpenJPEG for HTJ2K too: unlike OpenJPH it tells every error
    return imagecodecs.jpeg2k_decode(data, numthreads=1)


def _scratch_for(stream: Codestream) -> np.ndarray:
    """This thread's array for decoded pixels: a new one for each slice costs page faults."""
    shape = (stream.rows, stream.columns)
    kind = np.uint8 if stream.precision <= 8 else np.uint16
    held = getattr(_scratch, "pixels", None)
    if held is None or held.shape != shape or held.dtype != kind:
        held = _scratch.pixels = np.empty(shape, kind)
    return held


def _check_stream(stream: Codestream | None, data: bytes | memoryview, frame: Frame) -> None:
    """Compare the stream's own header before a decoder believes it."""
    name = describe_syntax(frame.transfer_syntax)
    if stream is None:
        raise CTReadError(
            f"{frame.label}: its pixels are not a stream of {name}", code="corrupt_pixels"
        )
    if (stream.rows, stream.columns) != (frame.rows, frame.columns) or stream.components != 1:
        raise CTReadError(
            f"{frame.label}: the compressed image is {stream.rows} x {stream.columns} with "
            f"{stream.components} component(s), the header says {frame.rows} x {frame.columns} "
            "with 1",
            code="corrupt_pixels",
        )
    if not 2 <= stream.precision <= frame.bits_allocated:
        raise CTReadError(
            f"{frame.label}: the compressed image has {stream.precision} bits, the header "
            f"allocates {frame.bits_allocated}",
            code="corrupt_pixels",
        )
    if not has_end_marker(data):
        raise CTReadError(
            f"{frame.label}: its {name} stream has no end marker: the file is cut off or damaged",
            code="truncated_pixels",
        )


def _correct_sign(pixels: np.ndarray, stream: Codestream, frame: Frame, codec: str) -> np.ndarray:
    """Widen to the allocated bits, keeping two's complement where the codec knows no sign.

    JPEG 2000 streams say whether they are signed, at times against the header; JPEG-LS cannot.
    Then the sign bit is the highest of the stream's precision.
    """
    allocated = f"u{frame.bits_allocated // 8}"
    if pixels.dtype.kind == "i":
        return pixels.astype(f"i{frame.bits_allocated // 8}", copy=False).view(allocated)
    pixels = pixels.astype(allocated, copy=False)
    spare = frame.bits_allocated - min(
        stream.precision, (frame.high_bit or frame.bits_stored - 1) + 1
    )
    if frame.signed and codec in ("jpeg-2000", "htj2k", "jpeg-ls") and spare:
        signed = pixels.view(f"i{frame.bits_allocated // 8}")
        return np.right_shift(np.left_shift(signed, spare), spare).view(allocated)
    return pixels


def _decode_rle(data: bytes | memoryview, frame: Frame) -> np.ndarray:
    """RLE (PS3.5 annex G): one segment a byte of the sample, most significant first."""
    import imagecodecs

    width = frame.bits_allocated // 8
    voxels = frame.rows * frame.columns
    head = bytes(data[:_RLE_HEADER])
    segments = int.from_bytes(head[:4], "little")
    if len(head) < _RLE_HEADER or segments != width:
        raise CTReadError(
            f"{frame.label}: its RLE frame has {segments} segments, {width} are needed for "
            f"{frame.bits_allocated} bits",
            code="corrupt_pixels",
        )
    try:
        pixels = imagecodecs.dicomrle_decode(data, f"<u{width}")
    except (RuntimeError, ValueError, TypeError, IndexError, MemoryError) as error:
        raise CTReadError(
            f"{frame.label}: its RLE pixels are damaged: {error}", code="corrupt_pixels"
        ) from error
    if len(pixels) < voxels * width:
        raise CTReadError(
            f"{frame.label}: its RLE pixels end after {len(pixels) // width} of {voxels} voxels",
            code="truncated_pixels",
        )
    cells = np.frombuffer(pixels, f"<u{width}", voxels).reshape(frame.rows, frame.columns)
    return _low_bits(cells, frame)


def _low_bits(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    """Values that end below the lowest bit of the cell (left-justified) moved down to it."""
    shift = 0 if frame.high_bit is None else frame.high_bit + 1 - frame.bits_stored
    return pixels >> pixels.dtype.type(shift) if shift else pixels
