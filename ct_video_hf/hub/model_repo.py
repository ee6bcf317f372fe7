"""Pushing a model folder to the Hub: in one commit, guarded before and verified after."""

from __future__ import annotations

import datetime
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.hub_sets import is_repo_id
from ..errors import CTVideoError
from .calls import HubError, retried
from .card import ModelCardFacts, render_model_card
from .card_check import check_card_text
from .guard import Plan, plan_upload, refuse_private
from .repo_files import hashes_of, hashes_on_hub

__all__ = ["ModelPush", "files_on_hub", "is_on_hub", "open_model_repo", "push_model"]

_EVAL_RESULTS = ".eval_results/ct_video_hf.yaml"


@dataclass(frozen=True)
class ModelPush:
    """What a push did, or would do.

    Attributes
    ----------
    repo, revision : str
    private : bool
    files : list of str
        Paths in the repository.
    bytes : int
    left_out : list of str
        Names in the folder that stay at home.
    commit : str or None
        None for a dry run.
    verified : int
        Files whose hash on the Hub is that of what was sent.
    """

    repo: str
    revision: str
    private: bool
    files: list[str]
    bytes: int
    left_out: list[str]
    commit: str | None = None
    verified: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def push_model(
    folder: str | os.PathLike,
    repo: str,
    *,
    private: bool = True,
    revision: str = "main",
    license: str | None = None,
    dataset_id: str | None = None,
    message: str = "Model, processor, code, evidence and card",
    dry_run: bool = False,
    token: str | None = None,
) -> ModelPush:
    """Push a model folder as one commit, so that the repository is loadable at every moment.

    Model, processor, code, calibration, figures, metrics and a card rendered for ``repo`` go;
    predictions, checkpoints and names of studies stay. Files of an earlier push that the folder no
    longer has go away with the same commit.

    Parameters
    ----------
    folder : path
        What training, conversion or :func:`.model_folder.save_model_folder` wrote.
    repo : str
        ``user/name``; made where it is not there.
    private : bool
        Whether the repository is made private. One that exists keeps its visibility; a public one
        is refused where private was asked for.
    revision : str
        Branch, made where it is not there.
    license : str, optional
        Identifier of the licence that these weights are published under, for the card.
    dataset_id : str, optional
        Hub id of the data set that the metrics were measured on. With it, results are written to
        ``.eval_results`` as well, which the Hub shows beside that data set.
    dry_run : bool
        Check and list everything, ask and send nothing.

    Raises
    ------
    CTVideoError
        What the guard refuses, see :func:`.guard.plan_upload`.
    HubError
        What the Hub refuses, or hashes that differ after the push.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CTVideoError(f"There is no model folder {folder.name!r}.")
    for name, value in (("repo", repo), ("dataset_id", dataset_id)):
        if value is not None and not is_repo_id(value):
            raise CTVideoError(f"{name} is {value!r}; a Hub id such as user/name is expected.")
    plan = _plan(folder, repo, license, dataset_id)
    told = ModelPush(repo, revision, private, sorted(plan.files), plan.bytes, plan.left_out)
    if dry_run:
        return told
    return _push(told, plan, message, token)


def _plan(folder: Path, repo: str, license: str | None, dataset_id: str | None = None) -> Plan:
    plan = plan_upload(folder)
    facts = ModelCardFacts.from_folder(folder, model_id=repo, license=license)
    plan.files["README.md"] = _card(facts)
    if dataset_id is not None:
        plan.files[_EVAL_RESULTS] = _eval_results(facts, dataset_id)
        refuse_private(_EVAL_RESULTS, plan.files[_EVAL_RESULTS])
    return plan


def files_on_hub(repo: str, token: str | None = None) -> dict[str, str]:
    """Path -> hash of what ``main`` of a model repository holds; empty where there is none.

    Raises
    ------
    HubError
        When the Hub does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi(token=token)

    def ask() -> dict[str, str]:
        try:
            return hashes_on_hub(api, repo, "main")
        except RepositoryNotFoundError:
            return {}

    found = retried(ask, f"look at {repo}")
    return {path: digest for path, digest in found.items() if path != ".gitattributes"}


def is_on_hub(
    folder: str | os.PathLike, repo: str, *, license: str | None = None, token: str | None = None
) -> bool:
    """Whether :func:`push_model` of this folder would change nothing on the Hub, by hashes."""
    there = files_on_hub(repo, token)
    files = _plan(Path(folder), repo, license).files
    return there.keys() == files.keys() and all(
        there[path] in hashes_of(entry) for path, entry in files.items()
    )


def _card(facts: ModelCardFacts) -> bytes:
    card = render_model_card(facts)
    problems = check_card_text(card)
    if problems:
        raise CTVideoError(f"The card of {facts.name} is not sound: {'; '.join(problems)}.")
    refuse_private("README.md", card.encode("utf-8"))
    return card.encode("utf-8")


def open_model_repo(
    repo: str, *, private: bool = True, revision: str = "main", token: str | None = None
) -> str:
    """Make a model repository and a branch in it, or find them there.

    Parameters
    ----------
    repo : str
        ``user/name``, or a name under the user whose token it is.
    private : bool
        As for :func:`push_model`.
    revision : str
        Branch.
    token : str, optional

    Returns
    -------
    str
        The repository's full id.

    Raises
    ------
    HubError
        What the Hub refuses, and a public repository where a private one is asked for.
    """
    from huggingface_hub import HfApi

    return _open(HfApi(token=token), repo, private, revision)[0]


def _open(api: Any, repo: str, private: bool, revision: str) -> tuple[str, bool]:
    """The repository's id, and whether it is private."""
    what = f"push to {repo}"
    made = retried(lambda: api.create_repo(repo, private=private, exist_ok=True), what)
    held = bool(retried(lambda: api.model_info(made.repo_id), what).private)
    if private and not held:
        raise HubError(
            f"{what}: the repository is public and a private one was asked for. Change it on the "
            "Hub, or say that it may be public (--public; hub_private_repo=False in training)."
        )
    if revision != "main":
        branch = {"branch": revision, "exist_ok": True}
        retried(lambda: api.create_branch(made.repo_id, **branch), what)
    return made.repo_id, held


def _push(told: ModelPush, plan: Plan, message: str, token: str | None) -> ModelPush:
    from huggingface_hub import CommitOperationAdd, HfApi

    api, what = HfApi(token=token), f"push to {told.repo}"
    _, held = _open(api, told.repo, told.private, told.revision)
    # operations remember what they have uploaded, so a repeated commit sends only what is missing
    added = [
        CommitOperationAdd(path, str(entry) if isinstance(entry, Path) else entry)
        for path, entry in sorted(plan.files.items())
    ]
    commit = retried(lambda: _commit(api, told, added, message), what)
    after = retried(lambda: hashes_on_hub(api, told.repo, commit.oid), what)
    wrong = [path for path, entry in plan.files.items() if after.get(path) not in hashes_of(entry)]
    if wrong:
        raise HubError(
            f"{what}: {len(wrong)} files on the Hub are not what was sent, such as {wrong[0]}. "
            "Push again."
        )
    return ModelPush(
        **{**asdict(told), "private": held, "commit": commit.oid, "verified": len(plan.files)}
    )


def _commit(api: Any, told: ModelPush, added: list[Any], message: str) -> Any:
    """One commit that leaves what was added and nothing else.

    What has to go is asked for each time: a commit whose answer was lost has taken it away already.
    """
    from huggingface_hub import CommitOperationDelete

    kept = {operation.path_in_repo for operation in added} | {".gitattributes"}
    gone = sorted(hashes_on_hub(api, told.repo, told.revision).keys() - kept)
    return api.create_commit(
        told.repo,
        [*added, *map(CommitOperationDelete, gone)],
        commit_message=message,
        revision=told.revision,
    )


def _eval_results(facts: ModelCardFacts, dataset_id: str) -> bytes:
    """Study AUROC and the like in the form that the Hub reads beside the card's metadata."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    split = facts.metrics.get("split", "not stated")
    entries = [
        EvalResultEntry(
            dataset_id=dataset_id,
            task_id=metric.replace("/", "_"),
            value=round(entry["value"], 4),
            date=datetime.date.today().isoformat(),
            notes=_notes(entry, split, facts.metrics.get("confidence")),
        )
        for metric, entry in facts.metrics.items()
        if isinstance(entry, dict) and entry.get("value") is not None
    ]
    if not entries:
        raise CTVideoError(f"{facts.name} has no results to publish for {dataset_id}.")
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False).encode("utf-8")


def _notes(entry: dict[str, Any], split: str, confidence: float | None) -> str:
    words = f"{split} split, n = {entry.get('n')}, {entry.get('positives')} positive"
    if entry.get("low") is not None:
        kind = f"{100 * confidence:.0f} % interval" if confidence else "interval"
        words += f", {kind} {entry['low']:.3f} to {entry['high']:.3f}"
    return words
