"""What the viewer asks for: its code, a scan's facts, its slices one by one, and downloads.

Addresses of a scan hold a random token of 192 bits and nothing else; nobody lists them.
"""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .store import Kept, Store

if TYPE_CHECKING:
    from ..dicom import CTVolume
    from ..inference.saliency import SaliencyMap

__all__ = ["PREFIX", "STATIC", "VIEWER", "encode_map", "encode_slice", "routes", "viewer_facts"]

#: First part of every address here.
PREFIX = "ct-video"
#: Where the viewer's code lies, and the address of the module that loads the others.
STATIC = Path(__file__).parent / "static"
VIEWER = f"{PREFIX}/static/viewer.js"

_LONGEST_SIDE = 512  # pixels of a slice that is sent
_LOWEST, _HIGHEST = -1024, 3071  # HU that are sent
_PRIVATE = {
    "Cache-Control": "private, no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_TYPES = {"json": "application/json", "html": "text/html", "csv": "text/csv"}
_GONE = "This scan is no longer kept. Upload it again."


def routes(store: Store) -> list[Route]:
    """Routes that serve what ``store`` keeps."""

    async def facts(request: Request) -> Response:
        kept = store.get(request.path_params["token"])
        if kept is None or kept.volume is None:
            return _gone()
        return JSONResponse(viewer_facts(kept), headers=_PRIVATE)

    async def download(request: Request) -> Response:
        kept = store.get(request.path_params["token"])
        name = request.path_params["name"]
        data = None if kept is None else kept.files.get(name)
        if data is None:
            return _gone()
        headers = _PRIVATE | {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(data, media_type=_TYPES[name.rpartition(".")[2]], headers=headers)

    base = f"/{PREFIX}/{{token}}"
    return [
        Route(f"/{PREFIX}/static/{{name}}", _modules()),
        Route(f"{base}/facts", facts),
        Route(f"{base}/slice/{{index:int}}", _planes(store, attrgetter("volume"), _slice_of)),
        Route(f"{base}/map/{{index:int}}", _planes(store, attrgetter("map"), _map_of)),
        Route(f"{base}/get/{{name}}", download),
    ]


def _modules() -> Callable[[Request], Response]:
    """What answers with a module of the viewer."""
    held = {path.name: path.read_bytes() for path in STATIC.glob("*.js")}
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}

    def module(request: Request) -> Response:
        code = held.get(request.path_params["name"])
        if code is None:
            return Response(status_code=404)
        return Response(code, media_type="text/javascript", headers=headers)

    return module


def _planes(
    store: Store, held: Callable[[Kept], Any], encoded: Callable[[Any, int], bytes]
) -> Callable[[Request], Awaitable[Response]]:
    """What answers with one plane of what ``held`` finds, which may be None."""

    async def plane(request: Request) -> Response:
        kept = store.get(request.path_params["token"])
        index = request.path_params["index"]
        whole = None if kept is None else held(kept)
        if whole is None or not 0 <= index < len(whole):
            return _gone()
        data = await run_in_threadpool(encoded, whole, index)
        headers = _PRIVATE | {"Content-Encoding": "gzip"}
        return Response(data, media_type="application/octet-stream", headers=headers)

    return plane


def _slice_of(volume: CTVolume, index: int) -> bytes:
    return encode_slice(volume.hu[index])


def _map_of(saliency: SaliencyMap, index: int) -> bytes:
    return encode_map(saliency.plane(index))


def _gone() -> Response:
    return JSONResponse({"error": _GONE}, status_code=404, headers=_PRIVATE)


def shown_shape(rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of a slice as it is sent: as it is, or shrunk to 512 on its longer side."""
    scale = min(1.0, _LONGEST_SIDE / max(rows, columns))
    return max(1, round(rows * scale)), max(1, round(columns * scale))


def encode_slice(plane: np.ndarray) -> bytes:
    """A plane for the viewer: HU as differences along rows, high bytes and then low ones, gzipped.

    Differences and bytes of one kind side by side make it about half as large; the viewer adds them
    up again. No value is lost but those outside of -1024..3071 HU.

    Parameters
    ----------
    plane : numpy.ndarray
        int16 (row, column).
    """
    rows, columns = shown_shape(*plane.shape)
    shown = np.asarray(plane)
    if shown.shape != (rows, columns):
        shown = cv2.resize(
            shown.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA
        ).round()
    values = shown.clip(_LOWEST, _HIGHEST).astype(np.int16)
    steps = np.diff(values, axis=1, prepend=np.int16(0)).astype(np.int16).view(np.uint16)
    data = (steps >> 8).astype(np.uint8).tobytes() + (steps & 0xFF).astype(np.uint8).tobytes()
    return gzip.compress(data, compresslevel=1, mtime=0)


def encode_map(plane: np.ndarray) -> bytes:
    """A plane of a saliency map, 0..1, for the viewer: uint8 of the slice's shape, gzipped."""
    rows, columns = shown_shape(*plane.shape)
    if plane.shape != (rows, columns):
        plane = cv2.resize(plane, (columns, rows), interpolation=cv2.INTER_AREA)
    levels = (plane.clip(0.0, 1.0) * 255).round().astype(np.uint8)
    return gzip.compress(levels.tobytes(), compresslevel=1, mtime=0)


def viewer_facts(kept: Kept) -> dict[str, Any]:
    """What the viewer needs beside the slices; JSON-able, without identifiers."""
    volume, result = kept.volume, kept.result
    rows, columns = volume.hu.shape[1:]
    shown_rows, shown_columns = shown_shape(rows, columns)
    _, row_mm, column_mm = volume.spacing
    return {
        "slices": len(volume),
        "rows": shown_rows,
        "columns": shown_columns,
        "height_mm": rows * row_mm,
        "width_mm": columns * column_mm,
        "z_mm": [round(float(z), 2) for z in volume.z_mm],
        "source_index": volume.source_index,
        "clips": [
            {key: clip[key] for key in ("start", "stop", "score")} for clip in result["clips"]
        ],
        "key_slices": [key["index"] for key in result["key_slices"]],
        "relevance": result["slice_relevance"],
        "label": result["label"],
        "map": kept.map is not None,
        "map_words": kept.no_map if kept.map is None else kept.map.method,
    }
