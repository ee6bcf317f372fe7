"""What is let in: no request larger than a scan may be, no more uploads than there is room for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse

from .limits import DemoLimits
from .store import Store

__all__ = ["Door"]

_OTHERWISE = 8 << 20  # bytes of a request that is no upload; it may name thousands of files
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
        elif upload:
            await self.app(scope, _counted(receive, most), _owned(send, self.store))
        else:
            body = await _whole(_counted(receive, most))
            if _names_an_address(body):
                words = "Addresses are not fetched. Upload the scan."
                await _refuse(422, words)(scope, receive, send)
            else:
                await self.app(scope, _again(body, receive), send)


def _refuse(status: int, words: str) -> JSONResponse:
    return JSONResponse({"detail": words, "error": words}, status_code=status)


async def _whole(receive: Any) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Any) -> Any:
    """``receive`` that gives a body that was read already, and then what follows."""
    given = False

    async def again() -> dict[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _names_an_address(body: bytes) -> bool:
    """Whether a file is named by an address, which Gradio would fetch for whoever asks."""
    try:
        waiting = [json.loads(body)]
    except (ValueError, RecursionError):
        return False
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if "://" in str(part.get("path", "")):
                return True
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return False


def _owned(send: Any, store: Store) -> Any:
    """``send`` that tells of uploads, a list of paths, where :meth:`.Store.own` has put them."""
    taken = False

    async def owned(message: dict[str, Any]) -> None:
        nonlocal taken
        if message["type"] == "http.response.start":
            taken = message["status"] == 200
        elif taken and message.get("body"):
            body = message["body"]
            for path in json.loads(body):
                old, new = Path(path), store.own(path)
                body = body.replace(old.parent.name.encode(), new.parent.name.encode(), 1)
            message = message | {"body": body}
        await send(message)

    return owned


def _counted(receive: Any, most: int) -> Any:
    """``receive`` that hangs up when more comes than may."""
    taken = 0

    async def counted() -> dict[str, Any]:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        return message if taken <= most else {"type": "http.disconnect"}

    return counted
