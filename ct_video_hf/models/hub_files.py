"""A model repository of the Hub as a folder on this machine: data only, and errors in words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from .intact import DamagedDownloadError, check_intact

__all__ = ["HubFilesError", "is_hub_id", "snapshot"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}(/[A-Za-z0-9][\w.\-]{0,95})?")
#: Configuration and weights; no code is ever fetched.
DATA_FILES = ("*.json", "*.safetensors")


class HubFilesError(OSError):
    """A repository that cannot be fetched: which one, why, and what to do."""


def is_hub_id(name: str) -> bool:
    """Whether a text could be a Hub id (user/model)."""
    return _HUB_ID.fullmatch(name) is not None


def snapshot(
    repo: str,
    revision: str | None = None,
    *,
    files: Iterable[str] = DATA_FILES,
    token: str | bool | None = None,
) -> Path:
    """Fetch files of a model repository into the Hub's cache, or find them there.

    Parameters
    ----------
    repo : str
        Hub id (``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and the cache are honoured).
    revision : str, optional
        Branch, tag or commit.
    files : iterable of str
        Patterns of what to fetch at the top level of the repository; the default is JSON and
        safetensors.
    token : str or bool, optional
        Instead of the one that is stored on this machine or in ``HF_TOKEN``.

    Returns
    -------
    pathlib.Path
        A folder whose name is the commit.

    Raises
    ------
    HubFilesError
        No such repository or revision, no access, no network, or a broken download.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repo,
            revision=revision,
            token=token,
            allow_patterns=list(files),
            ignore_patterns=["*/*"],  # nor checkpoints of the training run
        )
    except Exception as error:
        words = _words(repo, revision, error)
        if words is None:
            raise
        raise HubFilesError(words) from error
    try:
        check_intact((path for path in sorted(Path(folder).iterdir()) if path.is_file()), repo)
    except DamagedDownloadError as error:
        raise HubFilesError(str(error)) from error
    return Path(folder)


def _words(repo: str, revision: str | None, error: Exception) -> str | None:
    """What went wrong with the Hub, for people; None for errors that are not the Hub's."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"Access to {repo} is restricted. Ask for access on its page on the Hub, log in with "
            "`hf auth login`, and try again."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}. Check the branch, tag or commit."
    if isinstance(error, errors.RepositoryNotFoundError) and "credentials" not in str(error):
        return (
            f"There is no folder {repo!r} here and no model {repo!r} on the Hub, or it is private: "
            "check the spelling, or log in with `hf auth login`."
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return (
            f"The Hub does not know the token that {repo} was asked for with. Make a new one "
            "(huggingface.co/settings/tokens) and log in with `hf auth login`."
        )
    if status == 403:
        return f"This token may not read {repo}. Take one that may, or ask its owner for access."
    if status in (408, 429) or (status is not None and status >= 500):
        return f"{repo} could not be fetched: the Hub is busy (status {status}). Try again later."
    if isinstance(error, errors.FileMetadataError) or "header" in str(error).lower():
        return (
            f"{repo} could not be fetched: an answer lacks the headers that the Hub sends. A proxy "
            "or a mirror on the way (see HF_ENDPOINT) takes them out; go round it."
        )
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        wanted = repo if revision is None else f"{repo} at {revision}"
        return (
            f"There is no folder {repo!r} here, the Hub cannot be reached, and {wanted} is not in "
            "the local cache. Check the network (and HF_ENDPOINT), or fetch it once with "
            f"`hf download {repo}` where there is a network."
        )
    if isinstance(error, errors.HFValidationError):
        return f"There is no folder {repo!r}, and that is no Hub id (user/model) either."
    if isinstance(error, errors.HTTPError | OSError):  # HTTPError: transport errors, too
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return f"{repo} could not be fetched from the Hub: {first} Try again later."
    return None
