"""A Hub on this machine that serves one model folder, read-only, for tests of downloading.

Clients must run in a process of their own: huggingface_hub reads HF_ENDPOINT when imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LoopbackHub:
    """Serve ``folder`` as ``repo`` with the revisions main and v1; ``log`` lists the requests.

    ``cut`` names a file whose download breaks off half-way.
    """

    def __init__(self, folder: Path, repo: str = "tester/model", cut: str | None = None) -> None:
        self.folder, self.repo, self.cut = folder, repo, cut
        self.log: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Variables of a client process with an empty cache in ``home``."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        return kept | {
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server.server_port}",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": "127.0.0.1",
        }


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        self.hub.log.append(f"{self.command} {path}")
        api = f"/api/models/{self.hub.repo}/"
        resolve = f"/{self.hub.repo}/resolve/"
        if path in (f"{api}revision/main", f"{api}revision/v1", f"{api}revision/{COMMIT}"):
            files = [{"rfilename": file.name} for file in self._files()]
            self._json({"id": self.hub.repo, "sha": COMMIT, "siblings": files})
        elif path.startswith(f"{api}revision/"):
            self._json({"error": "Invalid rev id"}, 404, "RevisionNotFound")
        elif path.startswith(f"{api}tree/"):
            self._json([self._entry(file) for file in self._files()])
        elif path.startswith(resolve):
            self._file(self.hub.folder / path.removeprefix(resolve).partition("/")[2], body=body)
        else:
            self._json({"error": "Repository not found"}, 404, "RepoNotFound")

    def _files(self) -> list[Path]:
        return sorted(file for file in self.hub.folder.iterdir() if file.is_file())

    def _entry(self, file: Path) -> dict:
        size, oid = file.stat().st_size, hashlib.sha1(file.read_bytes()).hexdigest()
        return {"type": "file", "path": file.name, "size": size, "oid": oid}

    def _json(self, content, status: int = 200, code: str | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _file(self, file: Path, *, body: bool) -> None:
        if not file.is_file():
            self._json({"error": "Entry not found"}, 404, "EntryNotFound")
            return
        data = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if not body:
            return
        if file.name == self.hub.cut:
            data = data[: len(data) // 2]
            self.close_connection = True
        self.wfile.write(data)

    def log_message(self, *args) -> None:
        """Requests are kept in ``hub.log`` instead of going to stderr."""
