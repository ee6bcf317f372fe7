"""A web server on this machine that serves one checkpoint, with faults that can be switched on."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class CheckpointServer:
    """A web server with one file and switchable faults; ``log`` lists (path, Range header)."""

    def __init__(self, content: bytes, name: str = "SLOW.pyth") -> None:
        self.content, self.log = content, []
        self.status, self.cut_at, self.cuts, self.etag = 200, None, 0, '"one"'
        self.failures, self.headers, self.offset = 10**6, {}, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/zoo/{name}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, handler):
        wanted = handler.headers.get("Range")
        self.log.append(wanted)
        if self.status != 200 and self.failures:
            self.failures -= 1
            handler.send_response(self.status)
            for name, value in {"Content-Length": "0", **self.headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            return
        start = 0
        if wanted and handler.headers.get("If-Range") == self.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206 if start else 200)
        if start:
            where = f"bytes {start + self.offset}-{len(self.content) - 1}/{len(self.content)}"
            handler.send_header("Content-Range", where)
        handler.send_header("Content-Length", str(len(self.content) - start))
        handler.send_header("ETag", self.etag)
        handler.end_headers()
        end = len(self.content)
        if self.cuts:
            self.cuts -= 1
            end = min(end, start + self.cut_at)
        handler.wfile.write(self.content[start:end])

    def close(self) -> None:
        """Stop serving."""
        self.http.shutdown()
        self.http.server_close()
