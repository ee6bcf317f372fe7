"""A Space on the Hub: the commit of its model, and its push in one commit, compared afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .calls import HubError, retried
from .repo_files import hashes_of, hashes_on_hub

__all__ = ["commit_of", "push_space"]


def commit_of(model: str, revision: str | None = None, *, token: str | None = None) -> str:
    """The commit that a branch or tag of a model stands for now; main by default.

    Raises
    ------
    HubError
        No such model or revision, no access, no network.
    """
    from huggingface_hub import HfApi

    what = f"find {model}" if revision is None else f"find {model} at {revision}"
    return retried(lambda: HfApi(token=token).model_info(model, revision=revision).sha, what)


def push_space(folder: Path, repo: str, *, private: bool = False, token: str | None = None) -> str:
    """Push a folder as a Gradio Space; what an earlier push left and the folder lacks goes.

    Parameters
    ----------
    folder : pathlib.Path
        What :func:`ct_video_hf.demo.space.write_space` wrote.
    repo : str
        ``user/name``; made where it is not there.
    private : bool
        Whether the Space is made private; one that is public already is refused then.
    token : str, optional

    Returns
    -------
    str
        The commit.

    Raises
    ------
    HubError
        What the Hub refuses, and files that are not there afterwards as they were sent.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api, what = HfApi(token=token), f"push to Space {repo}"
    kind = {"repo_type": "space"}
    made = {"space_sdk": "gradio", "private": private, "exist_ok": True}
    retried(lambda: api.create_repo(repo, **kind, **made), what)
    if private and not retried(lambda: api.space_info(repo), what).private:
        raise HubError(f"{what}: the Space is public and a private one was asked for.")
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    added = [CommitOperationAdd(name, str(path)) for name, path in sorted(paths.items())]

    def commit() -> Any:
        there = hashes_on_hub(api, repo, "main", "space")
        gone = sorted(there.keys() - paths.keys() - {".gitattributes"})
        operations = [*added, *map(CommitOperationDelete, gone)]
        return api.create_commit(repo, operations, commit_message="The demo", **kind)

    oid = retried(commit, what).oid
    after = retried(lambda: hashes_on_hub(api, repo, oid, "space"), what)
    wrong = [name for name, path in paths.items() if after.get(name) not in hashes_of(path)]
    if wrong:
        raise HubError(f"{what}: {len(wrong)} files are not there as sent, such as {wrong[0]}.")
    return oid
