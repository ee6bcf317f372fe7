"""Calls to the Hub: repeated while it is busy, and refusals in words that say what to do."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from ..errors import CTVideoError

__all__ = ["HubError", "retried"]

logger = logging.getLogger(__name__)

_ATTEMPTS = 5
_LONGEST_PAUSE_S = 60.0
_NETWORK = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")


class HubError(CTVideoError):
    """The Hub refused, or could not be reached."""


def retried(call: Callable[[], Any], what: str) -> Any:
    """Call, and call again with growing pauses while the Hub is busy or the connection breaks.

    Parameters
    ----------
    call : callable
        Something that may be called twice: the Hub takes equal content only once.
    what : str
        What is being done, for messages ("push to user/model").

    Raises
    ------
    HubError
        What the Hub refuses for good, and what it did not answer after several attempts.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return call()
        except Exception as error:
            cause = _cause(error)
            if cause is None:
                raise
            words = _for_good(cause, what)
            if words is not None:
                raise HubError(words) from error
            last, reason, pause = error, _reason(cause), _asked_pause(cause)
        if attempt < _ATTEMPTS:
            logger.warning("%s: no answer (%s), attempt %d of %d", what, reason, attempt, _ATTEMPTS)
            time.sleep(_scale() * (min(2**attempt, 30) if pause is None else pause))
    raise HubError(
        f"{what}: the Hub did not answer {_ATTEMPTS} times ({reason}). What is pushed stays there, "
        "and the same command goes on from it. Check the network (and HF_ENDPOINT)."
    ) from last


def _cause(error: BaseException | None) -> BaseException | None:
    """What the Hub or the network said; None for an error of another kind.

    huggingface_hub wraps what befalls the upload of a file in a RuntimeError.
    """
    from huggingface_hub import errors

    said = (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.LocalTokenNotFoundError)
    while error is not None:
        if isinstance(error, said) or _is_network(error):
            return error
        error = error.__cause__ if type(error) is RuntimeError else None
    return None


def _for_good(error: BaseException, what: str) -> str | None:
    """Why trying again is of no use, for people; None where it may help."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return _refusal(error, what)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{what}: HF_HUB_OFFLINE is set, so the Hub is not asked. Unset it."
    return _no_token(what) if isinstance(error, errors.LocalTokenNotFoundError) else None


def _reason(error: BaseException) -> str:
    status = _status(error)
    return type(error).__name__ if status is None else f"status {status}"


def _scale() -> float:
    return float(os.environ.get("CT_VIDEO_HF_PAUSE", "1"))


def _status(error: Any) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _asked_pause(error: Any) -> float | None:
    """Seconds that the Hub asks to wait, within reason."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        return min(float(headers.get("Retry-After", "")), _LONGEST_PAUSE_S)
    except ValueError:
        return None


def _is_network(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return type(error).__module__.partition(".")[0] in _NETWORK


def _no_token(what: str) -> str:
    return (
        f"{what}: nobody is logged in. Log in with `hf auth login`, or set HF_TOKEN to a token "
        "with write permission (huggingface.co/settings/tokens)."
    )


def _refusal(error: Any, what: str) -> str | None:
    """Why the Hub refuses, for people; None where trying again may help."""
    from huggingface_hub import errors, get_token

    status = _status(error)
    said = _last_line(error)
    if status in (402, 413, 507):
        return f"{what}: the Hub has no room left for this (quota). The Hub said: {said}"
    if status in (408, 425, 429) or (status is not None and status >= 500):
        return None
    if status == 401 and get_token() is None:
        return _no_token(what)
    if status == 401:
        return (
            f"{what}: the Hub does not know this token. Make a new one "
            "(huggingface.co/settings/tokens) and log in with `hf auth login`."
        )
    if status == 403:
        return (
            f"{what}: this token may not do that. It needs write permission, in that namespace. "
            f"The Hub said: {said}"
        )
    if isinstance(error, errors.GatedRepoError):
        return f"{what}: access is restricted; ask for it on the repository's page."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{what}: there is no such branch, tag or commit."
    if status == 404 or isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{what}: there is no such repository or namespace, or this token must not see it. "
            "Check the spelling, or log in with `hf auth login`."
        )
    return f"{what}: the Hub refuses: {said}"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
