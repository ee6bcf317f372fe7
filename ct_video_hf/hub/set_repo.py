"""Pushing a prepared set to a dataset repository: plain Parquet, resumable, never ``private/``."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.errors import CTDataError
from ..data.export import Shard, plan_shards, published_names, write_shard
from ..data.manifest import read_manifest
from ..data.sharing import refuse_public
from ..data.side_tables import TABLE_SPLIT, parquet_of
from ..models.download import sha256_of
from ..progress import study_progress
from .calls import HubError, retried
from .guard import refuse_private

__all__ = ["PushSummary", "push_set"]

#: What of the manifest goes along; the rest is the studies, which are in the shards.
_PUBLIC = (
    "format", "versions", "provenance", "label_names", "label_weights", "finding", "splits",
    "rejected",
)  # fmt: skip
#: Folders of a repository whose files belong to one push; those of an earlier one are taken away.
_FOLDERS = ("data/", "tables/")


@dataclass(frozen=True)
class PushSummary:
    """What a push did: shards of the set, how many of them were there already, and the commit.

    ``verified`` counts shards that were pushed now and whose hash on the Hub is that of what was
    sent; the name of a shard that was there tells its content.
    """

    repo: str
    private: bool
    studies: int
    shards: int
    kept: int
    commit: str
    verified: int


def push_set(
    folder: str | os.PathLike,
    repo: str,
    *,
    private: bool = True,
    study_names: bool = False,
    shard_bytes: int = 500_000_000,
    token: str | None = None,
    progress: bool = True,
) -> PushSummary:
    """Push a prepared set to the dataset repository ``repo`` of the Hub.

    Shards of Parquet, one study a row group, are written one at a time and pushed each with its own
    commit; the last commit brings the card that names them, the split and fraction files and the
    tables beside the studies, and takes away the shards of an earlier push, so that readers see the
    old set or the new one. A push that was cut off goes on where it stopped.
    ``load_ct_dataset(repo)`` reads the set back, ``load_side_table(repo, name)`` a table.

    Parameters
    ----------
    folder : path
        Of the prepared set. Only its studies, tables, card, split and fraction files leave; never
        ``private/``, and no study that was rejected.
    repo : str
        ``user/name``; made when it is not there.
    private : bool
        Whether the repository has to be private, or public.
    study_names : bool
        Publish the names of studies as they are, as is right for public data sets; otherwise they
        become salted hashes.
    shard_bytes : int
        About how large a shard is before compression.
    token : str, optional
        None takes the one that ``hf auth login`` left.
    progress : bool

    Raises
    ------
    CTDataError
        When the set must not be public, the repository is not as private as was asked, or the
        folder is no whole set.
    CTVideoError
        When the card or the description of the set holds a secret or a path of a machine.
    HubError
        When the Hub refuses, does not answer, or holds other bytes than were sent.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    manifest = read_manifest(folder)
    names = published_names(manifest, None if study_names else _salt(folder, manifest))
    shards = plan_shards(manifest, names, shard_bytes)
    api = HfApi(token=token)
    refuse_public(manifest, private=private)  # before anything is made
    # the tables hold published names alone
    refuse_private("README.md", (folder / "README.md").read_bytes())
    refuse_private("set.json", _described(manifest).encode())
    _open_repo(api, repo, manifest, private)
    there = {path: size for path, (size, _) in _listed(api, repo).items()}
    todo = [shard for shard in shards if shard.path not in there]
    sizes = {shard.path: there.get(shard.path, 0) for shard in shards}
    shown = study_progress(
        todo, len(shards), done=len(shards) - len(todo), what="pushing", show=progress
    )
    sent = {}
    for shard in shown:
        _check_privacy(api, repo, manifest, private)  # a push may take days
        sizes[shard.path], sent[shard.path] = _push_shard(api, repo, folder, shard)
    commit = _push_card(api, repo, folder, manifest, shards, sizes, names)
    _verify(repo, sent, _listed(api, repo, commit.oid))
    kept = len(shards) - len(todo)
    return PushSummary(repo, private, len(names), len(shards), kept, commit.oid, len(sent))


def _salt(folder: Path, manifest: dict[str, Any]) -> str | None:
    if manifest["parameters"].get("hashed_study_ids"):
        return None  # they are hashes already
    path = folder / "private" / "salt"
    if not path.is_file():
        raise CTDataError(
            f"{folder.name} has no private/salt, which turns the names of studies into hashes: "
            "push from the folder that was prepared, or say that the names may be published "
            "(study_names, --study-names)"
        )
    return path.read_text(encoding="utf-8").strip()


def _open_repo(api: Any, repo: str, manifest: dict[str, Any], private: bool) -> None:
    """Make the repository, or check that it is as private as was asked."""
    retried(
        lambda: api.create_repo(repo, private=private, exist_ok=True, repo_type="dataset"),
        _what(repo),
    )
    _check_privacy(api, repo, manifest, private)


def _check_privacy(api: Any, repo: str, manifest: dict[str, Any], private: bool) -> None:
    """Whatever was asked for: what counts is what the Hub says of the repository."""
    info = retried(lambda: api.repo_info(repo, repo_type="dataset"), _what(repo))
    held = bool(info.private)
    refuse_public(manifest, private=held)
    if held != private:
        is_, asked = ("private", "public") if held else ("public", "private")
        raise CTDataError(
            f"the repository {repo} is {is_}, and {asked} was asked for: change it on the Hub, or "
            "ask for what it is"
        )


def _what(repo: str) -> str:
    return f"push to {repo}"


def _listed(api: Any, repo: str, revision: str = "main") -> dict[str, tuple[int, str | None]]:
    """Path -> size and, of a large file, SHA-256, as the Hub tells them."""

    def ask() -> dict[str, tuple[int, str | None]]:
        tree = api.list_repo_tree(repo, repo_type="dataset", recursive=True, revision=revision)
        return {
            entry.path: (entry.size, entry.lfs.sha256 if entry.lfs else None)
            for entry in tree
            if hasattr(entry, "size")
        }

    return retried(ask, _what(repo))


def _verify(repo: str, sent: dict[str, str], there: dict[str, tuple[int, str | None]]) -> None:
    wrong = [path for path, digest in sent.items() if there.get(path, (0, None))[1] != digest]
    if wrong:
        raise HubError(
            f"{_what(repo)}: {len(wrong)} shards on the Hub are not what was sent, such as "
            f"{wrong[0]}. Delete them there and push again."
        )


def _push_shard(api: Any, repo: str, folder: Path, shard: Shard) -> tuple[int, str]:
    """Size and SHA-256 of what was sent."""
    with tempfile.TemporaryDirectory(prefix="ct-video-hf-") as name:
        file = Path(name) / "shard.parquet"
        size = write_shard(shard, folder, file)
        retried(
            lambda: api.upload_file(
                path_or_fileobj=file,
                path_in_repo=shard.path,
                repo_id=repo,
                repo_type="dataset",
                commit_message=f"{shard.split} shard {shard.number + 1} of {shard.of}",
            ),
            _what(repo),
        )
        return size, sha256_of(file)


def _push_card(api, repo, folder, manifest, shards, sizes, names) -> Any:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files = {
        "README.md": _card(repo, folder, manifest, shards, sizes),
        "set.json": _described(manifest),
        "splits.csv": _renamed(folder / "splits.csv", names),
        "fractions.csv": _renamed(folder / "fractions.csv", names),
    }
    contents = {path: text.encode() for path, text in files.items()}
    for name in manifest.get("side_tables", {}):
        contents[_table_path(name)] = parquet_of(folder, name, names)
    added = [
        CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)
        for path, content in contents.items()
    ]

    def commit() -> Any:
        # asked for anew each time: a commit whose answer was lost has taken the files away already
        there = _listed(api, repo)
        ours = sizes.keys() | contents.keys()
        stale = sorted(path for path in there if path.startswith(_FOLDERS) and path not in ours)
        gone = [CommitOperationDelete(path_in_repo=path) for path in stale]
        return api.create_commit(
            repo, [*added, *gone], repo_type="dataset", commit_message="Prepared set"
        )

    return retried(commit, _what(repo))


def _table_path(name: str) -> str:
    return f"tables/{name}.parquet"


def _card(
    repo: str,
    folder: Path,
    manifest: dict[str, Any],
    shards: list[Shard],
    sizes: dict[str, int],
) -> str:
    """The set's data card with ``dataset_info`` and the files of each split at its head."""
    import datasets
    from huggingface_hub import DatasetCard

    from ..data.labels import SPLITS
    from ..data.rows import SCHEMA

    card = DatasetCard((folder / "README.md").read_text(encoding="utf-8"))
    card.text = card.text.replace("path/to/this/folder", repo)
    parts, files = datasets.SplitDict(), []
    for split in SPLITS:
        own = [shard for shard in shards if shard.split == split]
        if own:
            count = sum(len(shard.records) for shard in own)
            size = sum(shard.bytes for shard in own)
            parts.add(datasets.SplitInfo(split, num_bytes=size, num_examples=count))
            files.append({"split": split, "path": [shard.path for shard in own]})
    info = datasets.DatasetInfo(
        features=datasets.Features.from_arrow_schema(SCHEMA),
        splits=parts,
        download_size=sum(sizes.values()),
        dataset_size=sum(shard.bytes for shard in shards),
    )
    from datasets.info import DatasetInfosDict

    DatasetInfosDict({"default": info}).to_dataset_card_data(card.data)
    tables = [
        {"config_name": name, "data_files": [{"split": TABLE_SPLIT, "path": _table_path(name)}]}
        for name in manifest.get("side_tables", {})
    ]
    card.data["configs"] = [{"config_name": "default", "data_files": files}, *tables]
    return str(card)


def _described(manifest: dict[str, Any]) -> str:
    """Parameters, versions, source and counts; nothing of single studies, nothing of the salt."""
    kept = {name: manifest[name] for name in _PUBLIC if name in manifest}
    hidden = ("salt_check",)
    kept["parameters"] = {k: v for k, v in manifest["parameters"].items() if k not in hidden}
    return json.dumps(kept, indent=1, sort_keys=True) + "\n"


def _renamed(file: Path, names: dict[str, str]) -> str:
    """A table of studies under their published names."""
    import csv
    import io

    out = io.StringIO()
    with file.open(newline="", encoding="utf-8") as stream:
        rows = csv.DictReader(stream)
        writer = csv.DictWriter(out, rows.fieldnames or [], lineterminator="\n")
        writer.writeheader()
        try:
            writer.writerows(row | {"study": names[row["study"]]} for row in rows)
        except (KeyError, ValueError, csv.Error) as error:
            raise CTDataError(
                f"{file.name} of {file.parent.name} is damaged, or of another set: copy the set "
                "again"
            ) from error
    return out.getvalue()
