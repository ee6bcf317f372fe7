"""Transfer syntaxes by UID: name, how the header is written and how pixels are compressed.

Source: DICOM PS3.6 table A-1 and PS3.5 section 10.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BIG_ENDIAN",
    "DEFLATED",
    "EXPLICIT_LITTLE",
    "HTJ2K",
    "HTJ2K_LOSSLESS",
    "IMPLICIT_LITTLE",
    "JPEG_2000",
    "JPEG_2000_LOSSLESS",
    "JPEG_BASELINE",
    "JPEG_EXTENDED",
    "JPEG_LOSSLESS",
    "JPEG_LOSSLESS_SV1",
    "JPEG_LS",
    "JPEG_LS_NEAR",
    "RLE",
    "TransferSyntax",
    "describe_syntax",
    "syntax_of",
]

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_2000 = "1.2.840.10008.1.2.4.91"
HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"
HTJ2K_LOSSLESS_RPCL = "1.2.840.10008.1.2.4.202"
HTJ2K = "1.2.840.10008.1.2.4.203"


@dataclass(frozen=True)
class TransferSyntax:
    """One transfer syntax.

    Attributes
    ----------
    uid, name : str
    codec : str or None
        Compression family: ``"raw"``, ``"rle"``, ``"jpeg"``, ``"jpeg-lossless"``, ``"jpeg-ls"``,
        ``"jpeg-2000"``, ``"htj2k"``; None where nothing here decodes it.
    lossy : bool
        Whether pixels in this syntax have lost information by definition.
    remedy : str
        What would decode it, where this package does not.
    """

    uid: str
    name: str
    codec: str | None
    lossy: bool = False
    remedy: str = ""

    @property
    def encapsulated(self) -> bool:
        """Whether pixel data come as fragments."""
        return self.codec != "raw"


_PROGRESSIVE = (
    "this JPEG process is retired from DICOM and not read here; DCMTK's `dcmdjpeg` turns it into "
    "Explicit VR Little Endian"
)
_RETIRED_JPEG = (
    "this JPEG process is retired from DICOM and no common decoder knows it; ask the archive for "
    "the series as Explicit VR Little Endian"
)
_VIDEO = "it holds video, not CT slices"
_CONVERT = "convert it first, for instance `gdcmconv --raw` or `dcmdjpeg`"

_TABLE = [
    TransferSyntax(IMPLICIT_LITTLE, "Implicit VR Little Endian", "raw"),
    TransferSyntax(EXPLICIT_LITTLE, "Explicit VR Little Endian", "raw"),
    TransferSyntax(DEFLATED, "Deflated Explicit VR Little Endian", "raw"),
    TransferSyntax(BIG_ENDIAN, "Explicit VR Big Endian", "raw"),
    TransferSyntax(RLE, "RLE Lossless", "rle"),
    TransferSyntax(JPEG_BASELINE, "JPEG Baseline (Process 1)", "jpeg", lossy=True),
    TransferSyntax(JPEG_EXTENDED, "JPEG Extended (Process 2 & 4)", "jpeg", lossy=True),
    TransferSyntax(JPEG_LOSSLESS, "JPEG Lossless (Process 14)", "jpeg-lossless"),
    TransferSyntax(JPEG_LOSSLESS_SV1, "JPEG Lossless (Process 14, SV1)", "jpeg-lossless"),
    TransferSyntax(JPEG_LS, "JPEG-LS Lossless", "jpeg-ls"),
    TransferSyntax(JPEG_LS_NEAR, "JPEG-LS Near-Lossless", "jpeg-ls", lossy=True),
    TransferSyntax(JPEG_2000_LOSSLESS, "JPEG 2000 Lossless", "jpeg-2000"),
    TransferSyntax(JPEG_2000, "JPEG 2000", "jpeg-2000"),
    TransferSyntax(HTJ2K_LOSSLESS, "High-Throughput JPEG 2000 Lossless", "htj2k"),
    TransferSyntax(HTJ2K_LOSSLESS_RPCL, "High-Throughput JPEG 2000 RPCL Lossless", "htj2k"),
    TransferSyntax(HTJ2K, "High-Throughput JPEG 2000", "htj2k"),
]
_TABLE += [
    TransferSyntax(f"1.2.840.10008.1.2.4.{last}", name, None, lossy=True, remedy=remedy)
    for last, name, remedy in [
        ("52", "JPEG Extended (Process 3 & 5)", _RETIRED_JPEG),
        ("53", "JPEG Spectral Selection, Non-Hierarchical (Process 6 & 8)", _PROGRESSIVE),
        ("54", "JPEG Spectral Selection, Non-Hierarchical (Process 7 & 9)", _RETIRED_JPEG),
        ("55", "JPEG Full Progression, Non-Hierarchical (Process 10 & 12)", _PROGRESSIVE),
        ("56", "JPEG Full Progression, Non-Hierarchical (Process 11 & 13)", _RETIRED_JPEG),
        ("58", "JPEG Lossless, Non-Hierarchical (Process 15)", _RETIRED_JPEG),
    ]
]
_TABLE += [
    TransferSyntax("1.2.840.10008.1.2.4.92", "JPEG 2000 Part 2 Lossless", None, remedy=_CONVERT),
    TransferSyntax("1.2.840.10008.1.2.4.93", "JPEG 2000 Part 2", None, remedy=_CONVERT),
    TransferSyntax(
        "1.2.840.10008.1.2.4.94", "JPIP Referenced", None, remedy="its pixels lie on a server"
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.95",
        "JPIP Referenced Deflate",
        None,
        remedy="its pixels lie on a server",
    ),
    TransferSyntax("1.2.840.10008.1.2.4.110", "JPEG XL Lossless", None, remedy=_CONVERT),
    TransferSyntax("1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression", None, remedy=_CONVERT),
    TransferSyntax("1.2.840.10008.1.2.4.112", "JPEG XL", None, remedy=_CONVERT),
    TransferSyntax("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile", None, remedy=_VIDEO),
    TransferSyntax("1.2.840.10008.1.2.4.102", "MPEG-4 AVC/H.264", None, remedy=_VIDEO),
    TransferSyntax("1.2.840.10008.1.2.4.107", "HEVC/H.265", None, remedy=_VIDEO),
]
_BY_UID = {syntax.uid: syntax for syntax in _TABLE}


def syntax_of(uid: str) -> TransferSyntax:
    """The transfer syntax of a UID; one without a decoder when the UID is not known."""
    known = _BY_UID.get(uid)
    if known is not None:
        return known
    return TransferSyntax(uid, "unknown transfer syntax", None, remedy=_CONVERT)


def describe_syntax(uid: str) -> str:
    """Name and UID for messages and reports, such as ``JPEG-LS Lossless (1.2...4.80)``."""
    return f"{syntax_of(uid).name} ({uid})"
