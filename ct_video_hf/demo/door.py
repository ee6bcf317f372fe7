"""What is let in: no request larger than a scan may be, no more uploads than there is room for."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from .limits import DemoLimits
from .store import Store

__all__ = ["Door"]

_OTHERWISE = 1 << 20  # bytes of a request that is no upload
_ENVELOPE = 1 << 20  # what a form adds to its files


class Door:
    """ASGI middleware that turns away what is too large, before it is written anywhere."""

    def __init__(self, app: Any, store: Store, limits: DemoLimits) -> None:
        self.app = app
        self.store = store
        self.limits = limits

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """Answer with 413 or 503, or pass on; a body without a stated length is counted."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        upload = scope["path"].endswith("/upload")
        most = self.limits.upload_bytes + _ENVELOPE if upload else _OTHERWISE
        stated = dict(scope["headers"]).get(b"content-length", b"")
        length = int(stated) if stated.isdigit() else 0
        if length > most:
            await _refuse(413, "This is more than is taken at a time.")(scope, receive, send)
        elif upload and not self.store.room_for(length):
            words = "Too many uploads are under way. Try again in a few minutes."
            await _refuse(503, words)(scope, receive, send)
        else:
            await self.app(scope, _counted(receive, most), send)


def _refuse(status: int, words: str) -> JSONResponse:
    return JSONResponse({"detail": words, "error": words}, status_code=status)


def _counted(receive: Any, most: int) -> Any:
    """``receive`` that hangs up when more comes than may."""
    taken = 0

    async def counted() -> dict[str, Any]:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        return message if taken <= most else {"type": "http.disconnect"}

    return counted
