"""HU to stored values and to compressed, encapsulated frames, for :mod:`.write`.

Source: DICOM PS3.5 sections 8.1.1 (bits), 8.2 and annex A.4 (encapsulation).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CTVideoError
from . import syntax as uids

__all__ = ["StoredPixels", "encapsulate", "encode_frame"]


@dataclass(frozen=True)
class StoredPixels:
    """How HU are stored: bits, sign and rescale (PS3.3 C.7.6.3.1 and C.11.1)."""

    signed: bool
    bits_allocated: int
    bits_stored: int
    high_bit: int
    slope: float
    intercept: float
    photometric: str
    spare_bits: int

    def store(self, hu: np.ndarray) -> np.ndarray:
        """HU to stored values, one whole integer of ``bits_allocated`` each."""
        if self.slope == 1 and float(self.intercept).is_integer():
            values = hu.astype(np.int32) - int(self.intercept)
        else:
            values = np.rint((hu.astype(np.float64) - self.intercept) / self.slope).astype(np.int64)
        low, high = self.limits
        found_low, found_high = int(values.min()), int(values.max())
        if found_low < low or found_high > high:
            raise CTVideoError(
                f"stored values {found_low}..{found_high} do not fit {self.bits_stored} bits "
                f"({'signed' if self.signed else 'unsigned'}, {low}..{high}); "
                "choose another intercept, slope or bits_stored"
            )
        if self.photometric == "MONOCHROME1":
            values = low + high - values
        return values.astype(f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}")

    def place(self, values: np.ndarray) -> np.ndarray:
        """Move the value to its high bit and fill the spare bits above it with a pattern."""
        shift = self.high_bit + 1 - self.bits_stored
        if not shift and not self.spare_bits:
            return values
        width = values.itemsize
        bits = values.view(f"u{width}").astype(np.uint32)
        mask = (1 << self.bits_stored) - 1
        bits = ((bits & mask) << shift) | (self.spare_bits & ~(mask << shift))
        return bits.astype(f"u{width}").view(values.dtype)

    @property
    def limits(self) -> tuple[int, int]:
        """Least and greatest stored value."""
        if self.signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1


def encode_frame(stored: np.ndarray, transfer_syntax: str, bits_stored: int) -> bytes:
    """Compress one plane losslessly.

    Parameters
    ----------
    stored : numpy.ndarray
        (row, column), uint8, int16 or uint16. JPEG lossless, JPEG-LS and RLE know no sign: they
        hold the bits of a signed plane.
    transfer_syntax : str
        UID of RLE, JPEG lossless (.57, .70), JPEG-LS, JPEG 2000 or HTJ2K.
    bits_stored : int
        Precision written into a JPEG 2000 codestream.
    """
    import imagecodecs

    codec = uids.syntax_of(transfer_syntax).codec
    unsigned = stored.view(f"u{stored.itemsize}")
    if codec == "rle":
        from rle.rle import encode_frame as encode_rle

        rows, columns = stored.shape
        return bytes(encode_rle(unsigned.tobytes(), rows, columns, 1, stored.itemsize * 8, "<"))
    if codec == "jpeg-lossless":
        predictor = 1 if transfer_syntax == uids.JPEG_LOSSLESS_SV1 else 6
        return imagecodecs.jpeg8_encode(
            unsigned, lossless=True, predictor=predictor, bitspersample=stored.itemsize * 8
        )
    if codec == "jpeg-ls":
        return imagecodecs.jpegls_encode(unsigned)
    if codec == "jpeg-2000":
        return imagecodecs.jpeg2k_encode(
            stored, level=0, reversible=True, codecformat="j2k", bitspersample=bits_stored
        )
    if codec == "htj2k":
        return imagecodecs.htj2k_encode(stored, reversible=True)
    raise CTVideoError(f"writing {uids.describe_syntax(transfer_syntax)} is not implemented")


def encapsulate(
    frames: Sequence[bytes], *, fragments: int = 1, offset_table: str | None = "basic"
) -> tuple[bytes, dict[tuple[int, str], Any]]:
    """Encapsulated pixel data (PS3.5 A.4) and the extended offset table's elements, if any.

    Parameters
    ----------
    fragments : int
        Into how many pieces each frame is cut.
    offset_table : {"basic", "extended", None}
        What says where the frames begin; None leaves the basic table empty.
    """
    body, offsets, position = [], [], 0
    for frame in frames:
        frame = frame + b"\0" * (len(frame) % 2)
        offsets.append(position)
        step = max(2, (len(frame) // fragments) & ~1)
        cuts = [*range(0, step * fragments, step)[:fragments], len(frame)]
        for start, stop in itertools.pairwise(cuts):
            body.append(struct.pack("<HHI", 0xFFFE, 0xE000, stop - start) + frame[start:stop])
            position += 8 + stop - start
    extra: dict[tuple[int, str], Any] = {}
    table = b""
    if offset_table == "extended" and fragments > 1:
        raise CTVideoError("an extended offset table needs one fragment a frame (PS3.5 A.4)")
    if offset_table == "basic":
        table = struct.pack(f"<{len(offsets)}I", *offsets)
    elif offset_table == "extended":
        extra[0x7FE00001, "OV"] = struct.pack(f"<{len(offsets)}Q", *offsets)
        lengths = [len(frame) for frame in frames]
        extra[0x7FE00002, "OV"] = struct.pack(f"<{len(lengths)}Q", *lengths)
    head = struct.pack("<HHI", 0xFFFE, 0xE000, len(table)) + table
    return head + b"".join(body) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), extra
