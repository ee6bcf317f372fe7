"""A demo served by the command line in a process of its own, and a visitor without a browser."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

import httpx

from .tiny_runs import REPOSITORY

PATIENCE = 300.0  # seconds; the machine may be busy


_HEED = """
import signal, sys  # a shell may hand on that these are ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""
_COMMAND = f"""{_HEED}
from ct_video_hf.cli import main
sys.exit(main(sys.argv[1:]))
"""
_LIMITED = f"""{_HEED}
import json
from ct_video_hf.demo import DemoLimits, serve
model, port, limits = sys.argv[1:]
running = serve(model, port=int(port), limits=DemoLimits(**json.loads(limits)))
print("The demo is at", running.url, flush=True)
running.wait()
"""


class Demo:
    """``ct-video-hf demo MODEL`` with temporary files in ``folder/tmp`` and its words in ``log``.

    ``limits`` are fields of DemoLimits; ``space`` is a folder whose app.py is run instead.
    ``outside`` counts connections to anywhere else: a proxy that hangs up stands before them.
    """

    def __init__(
        self,
        model: Path | None,
        folder: Path,
        *,
        limits: dict[str, float] | None = None,
        space: Path | None = None,
        variables: dict[str, str] | None = None,
    ) -> None:
        self.tmp, self.home = folder / "tmp", folder / "home"
        self.tmp.mkdir()
        self.home.mkdir()
        self.log = folder / "log.txt"
        self.outside = 0
        self._trap = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._count, daemon=True).start()
        proxy = f"http://127.0.0.1:{self._trap.getsockname()[1]}"
        port = _free_port()
        environment = {
            "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(self.tmp), "HTTP_PROXY": proxy,
            "HTTPS_PROXY": proxy, "NO_PROXY": "127.0.0.1,localhost", "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(self.home), "GRADIO_SERVER_NAME": "127.0.0.1",
            "GRADIO_SERVER_PORT": str(port),
        }  # fmt: skip
        self.url = f"http://127.0.0.1:{port}"
        words = ["-c", _COMMAND, "demo", str(model), "--port", str(port)]
        if limits is not None:
            words = ["-c", _LIMITED, str(model), str(port), json.dumps(limits)]
        if space is not None:
            words = ["app.py"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *words],
                env=os.environ | environment | (variables or {}),
                cwd=space,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait(space is None)
        except BaseException:
            self.process.kill()
            raise

    def _wait(self, says_so: bool) -> None:
        end = time.monotonic() + PATIENCE
        while not (self._answers() and ("The demo is at" in self.log.read_text() or not says_so)):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/config", trust_env=False).status_code == 200
        return False

    def _count(self) -> None:
        while True:
            try:
                connection, _ = self._trap.accept()
            except OSError:
                return
            self.outside += 1
            connection.close()

    def files(self) -> list[Path]:
        """What lies in its temporary folder and holds anything, but Gradio's own notes."""
        return [
            path
            for path in self.tmp.rglob("*")
            if path.is_file() and path.stat().st_size and path.name != "vibe_edit_history"
        ]

    def close(self, number: int = signal.SIGTERM) -> int:
        """End it as a system would, or another way; its exit code."""
        self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self._trap.close()


def _free_port() -> int:
    """A port for a server that starts seconds later.

    Of those that systems hand out by themselves (from 32768 on) another process may have taken it
    by then; who else asks here draws from the same numbers and hardly ever the same one.
    """
    dice = random.SystemRandom()
    while True:
        with (
            suppress(OSError),
            socket.create_server(("127.0.0.1", dice.randint(12000, 32000))) as s,
        ):
            return s.getsockname()[1]


class Visitor:
    """One page of the demo, spoken to as its script does."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.session = uuid.uuid4().hex[:11]
        self.http = httpx.Client(base_url=demo.url, timeout=PATIENCE, trust_env=False)
        self.config = self.http.get("/config").json()

    def upload(self, *files: Path) -> list[dict]:
        """Send files; what the page would hand to a button."""
        sent = [("files", (file.name, file.read_bytes())) for file in files]
        answer = self.http.post("/gradio_api/upload", files=sent)
        answer.raise_for_status()
        return [
            {"path": path, "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}
            for path, file in zip(answer.json(), files, strict=True)
        ]

    def press(self, button: str, uploads: list[dict] | None, policy: str = "strict") -> str:
        """Press a button and wait; the HTML that is shown in the end."""
        return self._call(self._function(button, "click"), [uploads, policy])[0]

    def look(self, html: str, what: str) -> httpx.Response:
        """What the viewer of a result asks for."""
        base = re.search(r'<ct-viewer src="([^"]+)"', html)[1]
        return self.http.get(f"/{base}/{what}")

    def _function(self, name: str, event: str) -> int:
        parts = self.config["components"]
        ids = {part["id"] for part in parts if part["props"].get("elem_id") == name}
        for function in self.config["dependencies"]:
            backend = function["backend_fn"]
            if backend and any(t[0] in ids and t[1] == event for t in function["targets"]):
                return function["id"]
        raise AssertionError(f"no {event} of {name}")

    def arrived(self, box: str, uploads: list[dict]) -> None:
        """What the page does once files are uploaded."""
        self._call(self._function(box, "upload"), [uploads])

    def _call(self, function: int, data: list) -> list:
        self._join(function, data).raise_for_status()
        return self.outcome()

    def join(self, button: str, uploads: list[dict] | None, policy: str = "strict"):
        """Press a button and do not wait; the server's answer to that."""
        return self._join(self._function(button, "click"), [uploads, policy])

    def _join(self, function: int, data: list) -> httpx.Response:
        body = {"fn_index": function, "data": data, "session_hash": self.session}
        return self.http.post("/gradio_api/queue/join", json=body)

    def outcome(self) -> list:
        """Wait for what :meth:`join` began; what is shown in the end."""
        where = {"session_hash": self.session}
        with self.http.stream("GET", "/gradio_api/queue/data", params=where) as stream:
            for line in stream.iter_lines():
                said = json.loads(line[5:]) if line.startswith("data:") else {}
                if said.get("msg") == "process_completed":
                    if not said["success"]:
                        return [f"refused: {said['output']}"]
                    return said["output"]["data"]
        raise AssertionError("the stream ended without an answer")
