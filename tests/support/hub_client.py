"""The client of this very process, sent to a loopback Hub: for tests that need no fresh one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from huggingface_hub import constants

from .hub_server import HubServer


@contextmanager
def client_of(hub: HubServer, token: str | None = "hf_write", **variables: str) -> Iterator[None]:
    """Point huggingface_hub to ``hub``; it reads its constants at each call, its token as well."""
    environment = {"CT_VIDEO_HF_PAUSE": "0", "HF_TOKEN": token or ""} | variables
    with (
        mock.patch.object(constants, "ENDPOINT", hub.url),
        mock.patch.object(constants, "HF_HUB_DISABLE_XET", True),
        mock.patch.object(constants, "HF_HUB_OFFLINE", False),
        mock.patch.object(constants, "HF_TOKEN_PATH", str(hub.store.root / "no-token")),
        mock.patch.dict("os.environ", environment),
    ):
        yield
