"""What a visitor's browser may load: what this server gives, and nothing from elsewhere."""

from __future__ import annotations

from typing import Any

__all__ = ["CONTENT_POLICY", "LocalContent"]

#: Gradio's page has scripts and styles in its text and compiles the listeners of buttons.
CONTENT_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    ]
)


class LocalContent:
    """ASGI middleware that sends :data:`CONTENT_POLICY` with every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """Pass on, with one more header on the way back."""

        async def with_policy(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", CONTENT_POLICY.encode())
                message = message | {"headers": [*message.get("headers", []), policy]}
            await send(message)

        await self.app(scope, receive, with_policy)
