"""A Hub in memory that dataset repositories are pushed to and read from, for the real clients.

Clients must run in a process of their own: huggingface_hub reads HF_ENDPOINT when imported.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


def _commit(number: int) -> str:
    return hashlib.sha1(str(number).encode()).hexdigest()


@dataclass
class Repo:
    """Files by path; a file that came through LFS is known by its SHA-256."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)

    @property
    def head(self) -> str:
        return _commit(len(self.titles))


class DatasetHub:
    """``repos`` holds what was pushed, ``log`` the requests.

    ``busy_commits`` commits are answered with 503 before one is taken; the server stops taking
    commits at all after ``commits_until_gone``.
    """

    def __init__(self, busy_commits: int = 0, commits_until_gone: int | None = None) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.log: list[str] = []
        self.busy_commits, self.commits_until_gone = busy_commits, commits_until_gone
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> DatasetHub:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc_info) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Variables of a client process with an empty cache in ``home``."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_test",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "CT_VIDEO_HF_PAUSE": "0.01",
            "NO_PROXY": "127.0.0.1",
        }


class _Handler(BaseHTTPRequestHandler):
    hub: DatasetHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.log.append(f"{self.command} {path}")
        if path == "/api/repos/create":
            return self._create(json.loads(self.body))
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path.startswith("/_lfs/"):
            self.hub.objects[path.removeprefix("/_lfs/")] = self.body
            return self._json({})
        found = re.match(r"(?:/api)?/datasets/([^/]+/[^/]+?)(?:\.git)?(?:/(.*))?$", path)
        repo = self.hub.repos.get(found[1]) if found else None
        if repo is None or (repo.private and not self.headers.get("Authorization")):
            return self._json({"error": "Repository not found"}, 404, "RepoNotFound")
        what, _, rest = (found[2] or "").partition("/")
        if what == "resolve":
            return self._file(repo, rest.partition("/")[2])
        if what == "tree":
            return self._json(_tree(repo, rest.partition("/")[2], query))
        if what == "paths-info":
            asked = json.loads(self.body)["paths"] if self.body[:1] == b"{" else None
            asked = parse_qs(self.body.decode())["paths"] if asked is None else asked
            every = _tree(repo, "", {"recursive": ["true"]})
            return self._json([entry for entry in every if entry["path"] in asked])
        if what == "preupload":
            return self._preupload(json.loads(self.body))
        if what == "info":
            return self._lfs(json.loads(self.body))
        if what == "commit":
            return self._commit(repo)
        if what in ("", "revision"):
            siblings = [{"rfilename": name} for name in sorted(repo.files)]
            about = {"id": found[1], "sha": repo.head, "private": repo.private, "tags": []}
            return self._json(about | {"siblings": siblings, "lastModified": None})
        return self._json({"error": f"no route {path}"}, 404, "EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _create(self, asked: dict) -> None:
        name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        if name in self.hub.repos:
            url = f"{self.hub.url}/datasets/{name}"
            return self._json({"error": "You already created this repo", "url": url}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repos[name] = Repo(private)
        return self._json({"url": f"{self.hub.url}/datasets/{name}", "name": name})

    def _preupload(self, asked: dict) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".parquet") else "regular",
                "shouldIgnore": False,
            }
            for file in asked["files"]
        ]
        self._json({"files": modes})

    def _lfs(self, asked: dict) -> None:
        objects = [
            {"oid": entry["oid"], "size": entry["size"], "authenticated": True}
            | ({} if entry["oid"] in self.hub.objects else {
                "actions": {"upload": {"href": f"{self.hub.url}/_lfs/{entry['oid']}", "header": {}}}
            })
            for entry in asked.get("objects", [])
        ]  # fmt: skip
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repo: Repo) -> None:
        if self.hub.busy_commits:
            self.hub.busy_commits -= 1
            return self._json({"error": "busy"}, 503)
        if self.hub.commits_until_gone is not None:
            if not self.hub.commits_until_gone:
                return self._json({"error": "gone"}, 503)
            self.hub.commits_until_gone -= 1
        files = dict(repo.files)
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repo.titles.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        repo.files = files
        commit = {
            "commitOid": repo.head,
            "commitUrl": f"{self.hub.url}/datasets/tester/ct-set/commit/1",
        }
        return self._json({"success": True} | commit)

    def _json(self, content, status: int = 200, code: str | None = None) -> None:
        headers = {"Content-Type": "application/json"}
        self._send(
            status, json.dumps(content).encode(), headers | ({"X-Error-Code": code} if code else {})
        )

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _file(self, repo: Repo, path: str) -> None:
        if path not in repo.files:
            return self._json({"error": "Entry not found"}, 404, "EntryNotFound")
        data, status = repo.files[path], 200
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": repo.head}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        return self._send(status, data, headers | {"Accept-Ranges": "bytes"})

    def log_message(self, *args) -> None:
        """Requests are kept in ``hub.log`` instead of going to stderr."""


def _tree(repo: Repo, under: str, query: dict[str, list[str]]) -> list[dict]:
    deep = query.get("recursive", ["false"])[0].lower() in ("true", "1")
    start = f"{under.strip('/')}/" if under.strip("/") else ""
    found: dict[str, dict] = {}
    for path, data in sorted(repo.files.items()):
        if not path.startswith(start):
            continue
        folder, slash, _ = path[len(start) :].partition("/")
        if slash:
            place = start + folder
            found[place] = {"type": "directory", "path": place, "oid": "0" * 40, "size": 0}
            if not deep:
                continue
        oid = hashlib.sha256(data).hexdigest()
        found[path] = {"type": "file", "path": path, "oid": oid[:40], "size": len(data)}
        if path.endswith(".parquet"):
            found[path]["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 130}
    return list(found.values())
