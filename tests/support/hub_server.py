#!/usr/bin/env python3
"""A loopback stand-in for the Hugging Face Hub (stdlib + PyYAML only).

Speaks enough of the Hub's HTTP API for the real clients (huggingface_hub 2.4, transformers 5.23,
datasets 5.2, trackio-free Trainer) to create, push to, list, tag, stream from and delete repos:

    HF_ENDPOINT=http://127.0.0.1:PORT HF_HUB_DISABLE_XET=1 HF_TOKEN=hf_write python your_script.py

Storage is content addressed: ROOT/objects/{git,sha256}/.., ROOT/commits/<oid>.json,
ROOT/repos/<type>s/<namespace>/<name>.json. Not implemented: xet CAS, gating, discussions text,
inference, buckets, jobs. It binds to 127.0.0.1 only and is for tests; it is not a secure server.

In tests:   with HubServer(tmp_path) as hub: ... hub.url, hub.log, hub.faults.update(fail_put_every=2)
By hand:    python hub_server.py --root DIR --port 8765 [--fail-put-every 3 ...]
Live knobs: POST /_faults {"truncate": "*.safetensors", "truncate_times": 1};  GET /_log
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import fnmatch
import hashlib
import hmac
import json
import os
import re
import socket
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

TYPES = ("model", "dataset", "space")
LFS_EXT = set(
    "7z arrow avro bin bz2 ckpt dcm ftz gif gz h5 hdf5 jpeg jpg joblib lance lz4 mat mds mlmodel model mp4 msgpack nii npy npz onnx ot "
    "parquet pb pickle pkl png pt pth rar safetensors tar tflite tgz tif tiff wasm wav webm webp xz zip zst tfevents".split()
)
MAX_REGULAR = 10 * 1024 * 1024
GITATTRIBUTES = "".join(
    f"*.{e} filter=lfs diff=lfs merge=lfs -text\n" for e in sorted(LFS_EXT)
).encode()
COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
REPO_ID = re.compile(r"^[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95}$")
DEFAULT_TOKENS = {
    "hf_write": {"name": "tester", "role": "write", "orgs": ["ct-lab"]},
    "hf_read": {"name": "reader", "role": "read", "orgs": []},
    "hf_other": {"name": "other", "role": "write", "orgs": []},
}
DEFAULT_FAULTS = dict(
    latency=0.0,  # seconds added to each request
    fail_put_every=0,  # every Nth PUT of an LFS object (or part) answers fail_status
    fail_commit_every=0,  # every Nth commit POST answers fail_status (nothing is committed)
    busy_commits=0,  # how many commit POSTs answer fail_status first
    commits_left=None,  # how many commits still work before every further one answers fail_status
    lose_commits=0,  # how many commits are made and the connection breaks before the answer
    cut_puts=0,  # how many PUTs of an LFS object break off in the middle
    fail_get_every=0,  # every Nth GET of /resolve answers fail_status
    fail_status=503,
    retry_after=None,  # Retry-After header on the failures above
    truncate=None,  # glob of paths whose GET body is cut short (Content-Length stays the full length)
    truncate_at=0.5,  # fraction sent before the cut
    truncate_times=1,  # how many GETs to cut; -1: always
    corrupt=None,  # glob of paths whose body has its last byte flipped
    misstate=None,  # glob of paths whose hash the listing of a repository tells wrongly
    no_range=False,  # ignore Range headers (answer 200 with the whole body)
    drop_header=None,  # a header name never sent on /resolve ("X-Repo-Commit": a proxy that strips it)
)


def now() -> str:
    return dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    return (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    )


class HubError(Exception):
    def __init__(self, status, message, code=None, body=None):
        self.status, self.message, self.code, self.body = status, message, code, body


def card_metadata(text: str):
    m = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", text, re.S)
    return yaml.safe_load(m.group(1)) if m else None


def check_card(text: str, repo_type: str):
    """(errors, warnings): the part of the Hub's card rules that a package is likely to trip over."""
    try:
        meta = card_metadata(text)
    except yaml.YAMLError as e:
        return [{"message": f"YAML Metadata Error: {e}"}], []
    if meta is None:
        return [], [{"message": "empty or missing yaml metadata in repo card"}]
    if not isinstance(meta, dict):
        return [{"message": "YAML metadata must be a mapping"}], []
    errors = []
    for key in ("tags", "datasets", "metrics", "language", "license"):
        v = meta.get(key)
        if v is not None and not (
            isinstance(v, str) or isinstance(v, list) and all(isinstance(x, str) for x in v)
        ):
            errors.append({"message": f'"{key}" must be a string or an array of strings'})
    if repo_type == "space":
        for key in ("colorFrom", "colorTo"):
            if key in meta and meta[key] not in COLORS:
                errors.append({"message": f'"{key}" must be one of [{", ".join(COLORS)}]'})
        if "sdk" not in meta:
            errors.append({"message": '"sdk" is required'})
        elif meta["sdk"] not in ("gradio", "streamlit", "docker", "static"):
            errors.append({"message": '"sdk" must be one of [gradio, docker, static]'})
        if len(str(meta.get("short_description", ""))) > 60:
            errors.append(
                {
                    "message": '"short_description" length must be less than or equal to 60 characters long'
                }
            )
    if "model-index" in meta:
        mi = meta["model-index"]
        if not isinstance(mi, list):
            errors.append({"message": '"model-index" must be an array'})
        for i, model in enumerate(mi if isinstance(mi, list) else []):
            at = f"model-index[{i}]"
            if not model.get("name"):
                errors.append({"message": f'"{at}.name" is required'})
            if not isinstance(model.get("results"), list):
                errors.append({"message": f'"{at}.results" is required'})
                continue
            for j, res in enumerate(model["results"]):
                at = f"model-index[{i}].results[{j}]"
                for part, keys in (("task", ("type",)), ("dataset", ("type", "name"))):
                    for key in keys:
                        if not (res.get(part) or {}).get(key):
                            errors.append({"message": f'"{at}.{part}.{key}" is required'})
                if not res.get("metrics"):
                    errors.append({"message": f'"{at}.metrics" is required'})
                for k, met in enumerate(res.get("metrics") or []):
                    if not met.get("type"):
                        errors.append({"message": f'"{at}.metrics[{k}].type" is required'})
                    value = met.get("value")
                    if value is None or value != value or value in (float("inf"), float("-inf")):
                        errors.append(
                            {
                                "message": f'"{at}.metrics[{k}].value" is required (and must be finite)'
                            }
                        )
    return errors, []


class Store:
    def __init__(self, root):
        self.root, self.lock = Path(root), threading.RLock()
        for d in ("objects/git", "objects/sha256", "commits", "repos", "tmp"):
            (self.root / d).mkdir(parents=True, exist_ok=True)

    def obj(self, kind, oid):
        if not re.fullmatch(r"[0-9a-f]{40,64}", oid):
            raise HubError(400, "bad object id")
        return self.root / "objects" / kind / oid[:2] / oid

    def write(self, path: Path, data: bytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, tmp = tempfile.mkstemp(dir=self.root / "tmp")
        with os.fdopen(fd, "wb") as f:
            f.write(data)
        os.replace(tmp, path)

    def put_git(self, data):
        oid = git_oid(data)
        if not self.obj("git", oid).exists():
            self.write(self.obj("git", oid), data)
        return oid

    def repo_path(self, rtype, rid):
        if not REPO_ID.match(rid) or ".." in rid or "--" in rid:
            raise HubError(400, f"Invalid repo id {rid!r}")
        return self.root / "repos" / f"{rtype}s" / (rid + ".json")

    def load(self, rtype, rid):
        try:
            return json.loads(self.repo_path(rtype, rid).read_text())
        except FileNotFoundError:
            return None

    def save(self, repo):
        self.write(self.repo_path(repo["type"], repo["id"]), json.dumps(repo, indent=1).encode())

    def commit(self, repo, ref, tree, title, message, user, parent):
        c = dict(
            tree=tree,
            title=title,
            message=message,
            author=user,
            date=now(),
            parent=parent,
            t=time.time_ns(),
        )
        oid = hashlib.sha1(
            json.dumps([repo["type"], repo["id"], c], sort_keys=True).encode()
        ).hexdigest()
        self.write(self.root / "commits" / f"{oid}.json", json.dumps(c).encode())
        repo["refs"][ref] = oid
        repo["commits"].append(oid)
        repo["lastModified"] = c["date"]
        self.save(repo)
        return oid

    def get_commit(self, oid):
        return json.loads((self.root / "commits" / f"{oid}.json").read_text())

    def resolve(self, repo, rev):
        refs = repo["refs"]
        for name in (f"refs/heads/{rev}", f"refs/tags/{rev}", rev):
            if name in refs:
                return refs[name], name
        if re.fullmatch(r"[0-9a-f]{7,40}", rev):
            for oid in repo["commits"]:
                if oid.startswith(rev):
                    return oid, None
        raise HubError(404, f"Invalid rev id: {rev}", "RevisionNotFound")

    def blob(self, entry) -> Path:
        return (
            self.obj("sha256", entry["sha256"])
            if entry.get("sha256")
            else self.obj("git", entry["oid"])
        )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "hub-loopback"
    disable_nagle_algorithm = (
        True  # headers and body are two writes: without this each answer waits ~40 ms
    )

    # ------------------------------------------------------------------ plumbing
    def log_message(self, *a):
        if self.hub.verbose:
            super().log_message(*a)

    @property
    def hub(self) -> "HubServer":
        return self.server.hub

    def _chunks(self):
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while True:
                n = int(self.rfile.readline().split(b";")[0], 16)
                if n == 0:
                    while self.rfile.readline().strip():
                        pass
                    return
                yield self.rfile.read(n)
                self.rfile.readline()
        else:
            left = int(self.headers.get("Content-Length") or 0)
            while left:
                data = self.rfile.read(min(left, 1 << 20))
                if not data:
                    raise ConnectionError("client went away")
                left -= len(data)
                yield data

    def body(self) -> bytes:
        if self._body is None:
            self._body = b"".join(self._chunks())
        return self._body

    def json(self):
        try:
            return json.loads(self.body() or b"{}")
        except ValueError:
            raise HubError(400, "Invalid JSON body") from None

    def send(
        self, status=200, obj=None, data=b"", headers=None, ctype="application/json; charset=utf-8"
    ):
        if self._body is None and self.command in ("POST", "PUT", "DELETE", "PATCH"):
            self.body()  # keep-alive: never leave a body unread
        if obj is not None:
            data = json.dumps(obj).encode()
        self.send_response(status)
        self.send_header("Content-Type", ctype)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Request-Id", f"local-{self._n}")
        for k, v in (headers or {}).items():
            self.send_header(k, v)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self._status = status

    def fault(self, counter, every, what):
        if every:
            with self.hub.lock:
                self.hub.counters[counter] = n = self.hub.counters.get(counter, 0) + 1
            if n % every == 0:
                f = self.hub.faults
                headers = {} if f["retry_after"] is None else {"Retry-After": str(f["retry_after"])}
                raise HubError(f["fail_status"], f"injected fault: {what} #{n}", body=headers)

    def take(self, name):
        """Use up one of a counted fault; whether one was left."""
        with self.hub.lock:
            left = self.hub.faults[name]
            self.hub.faults[name] = max(left - 1, 0)
        return left > 0

    def cut(self):
        self.connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionError("injected fault: the connection breaks")

    def handle_any(self):
        self._body, self._status, started = None, 0, time.time()
        with self.hub.lock:
            self.hub.n += 1
            self._n = self.hub.n
        u = urlsplit(self.path)
        self.q = {k: v for k, v in parse_qs(u.query, keep_blank_values=True).items()}
        self.seg = [unquote(s) for s in u.path.split("/") if s != ""]
        self.raw_path = u.path
        if self.hub.faults["latency"]:
            time.sleep(self.hub.faults["latency"])
        try:
            self.user = self.authenticate()
            self.route()
        except HubError as e:
            headers = {"X-Error-Message": e.message.replace("\n", " ")}
            if e.code:
                headers["X-Error-Code"] = e.code
            headers.update(e.body if isinstance(e.body, dict) else {})
            if getattr(self, "commit_oid", None):
                headers["X-Repo-Commit"] = self.commit_oid
            self.send(e.status, {"error": e.message}, headers=headers)
        except (BrokenPipeError, ConnectionError):
            self.close_connection = True
        except Exception as e:  # a bug in this file: show it to the test
            import traceback

            traceback.print_exc()
            self.send(
                500,
                {"error": f"hub_server bug: {e!r}"},
                headers={"X-Error-Message": f"hub_server bug: {e!r}".replace("\n", " ")},
            )
        finally:
            with self.hub.lock:
                self.hub.log.append(
                    dict(
                        n=self._n,
                        method=self.command,
                        path=self.path,
                        status=self._status,
                        user=(getattr(self, "user", None) or {}).get("name"),
                        range=self.headers.get("Range"),
                        agent=self.headers.get("User-Agent"),
                        ms=round(1e3 * (time.time() - started), 1),
                    )
                )

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    # ------------------------------------------------------------------ auth
    def authenticate(self):
        h = self.headers.get("Authorization")
        if not h or self.seg[:1] in (["_lfs"], ["_cdn"]):
            return None
        tok = h.split(" ", 1)[1].strip() if h.lower().startswith("bearer ") else None
        if tok not in self.hub.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[tok]

    def may_read(self, repo):
        return not repo["private"] or (self.user and self.in_ns(repo["id"].split("/")[0]))

    def in_ns(self, ns):
        return self.user is not None and (
            ns == self.user["name"] or ns in self.user.get("orgs", ())
        )

    def need_write(self, ns):
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        if self.user["role"] != "write":
            raise HubError(
                403,
                f'Forbidden: you must use a write token to perform this action, the token of "{self.user["name"]}" can only read',
            )
        if not self.in_ns(ns):
            raise HubError(
                403,
                f'You don\'t have the rights to create or change a repo under the namespace "{ns}"',
            )

    def repo(self, rtype, rid, write=False):
        self._rtype, self._rid = rtype, rid
        repo = self.hub.store.load(rtype, rid)
        if repo is None or not self.may_read(repo):
            if self.user is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        if write:
            self.need_write(rid.split("/")[0])
        return repo

    def sign(self, *parts):
        return hmac.new(self.hub.secret, "|".join(parts).encode(), "sha256").hexdigest()[:32]

    # ------------------------------------------------------------------ routes
    def route(self):
        s, m = self.seg, self.command
        if s[:1] == ["_faults"]:
            if m == "POST":
                self.hub.set_faults(**self.json())
            return self.send(obj=self.hub.faults)
        if s[:1] == ["_log"]:
            return self.send(obj=self.hub.log)
        if s[:1] == ["_lfs"] and m == "PUT":
            return self.lfs_put(*s[1:])
        if s[:1] == ["_lfs"] and m == "POST":
            return self.lfs_complete(*s[1:])
        if s[:1] == ["_cdn"] and m in ("GET", "HEAD"):
            if self.q.get("sig") != [self.sign("get", s[1])] or self.headers.get("Authorization"):
                raise HubError(403, "bad signature, or a token sent to the CDN")
            return self.send_file(
                self.hub.store.obj("sha256", s[1]),
                f'"{s[1]}"',
                {},
                unquote((self.q.get("name") or [""])[0]),
            )
        if s[:1] == ["api"]:
            return self.api(s[1:])
        # git-lfs batch, resolve
        rtype = "model"
        if s and s[0] in ("datasets", "spaces"):
            rtype, s = s[0][:-1], s[1:]
        if len(s) >= 6 and s[2:5] == ["info", "lfs", "objects"] and s[1].endswith(".git"):
            rid = f"{s[0]}/{s[1][:-4]}"
            return {"batch": self.lfs_batch, "verify": self.lfs_verify}[s[5]](rtype, rid)
        if len(s) >= 5 and s[2] in ("resolve", "raw") and m in ("GET", "HEAD"):
            return self.resolve(rtype, f"{s[0]}/{s[1]}", s[3], "/".join(s[4:]))
        if m in ("GET", "HEAD") and len(s) == 2:
            self.repo(rtype, "/".join(s))
            return self.send(data=f"<h1>{'/'.join(s)}</h1>".encode(), ctype="text/html")
        raise HubError(404, f"no such route in hub_server: {m} {self.raw_path}")

    def api(self, s):
        m = self.command
        if s == ["whoami-v2"]:
            if self.user is None:
                raise HubError(401, "Invalid username or password.")
            u = self.user
            return self.send(
                obj=dict(
                    type="user",
                    id=hashlib.md5(u["name"].encode()).hexdigest()[:24],
                    name=u["name"],
                    fullname=u["name"].title(),
                    email=f"{u['name']}@example.invalid",
                    emailVerified=True,
                    canPay=False,
                    isPro=False,
                    periodEnd=None,
                    avatarUrl="",
                    orgs=[
                        dict(type="org", name=o, fullname=o, roleInOrg="write")
                        for o in u.get("orgs", ())
                    ],
                    auth=dict(
                        type="access_token",
                        accessToken=dict(displayName="local", role=u["role"], createdAt=now()),
                    ),
                )
            )
        if s == ["validate-yaml"]:
            d = self.json()
            errors, warns = check_card(d.get("content", ""), d.get("repoType", "model"))
            return self.send(400 if errors else 200, dict(errors=errors, warnings=warns))
        if s[:1] == ["repos"]:
            return {
                ("create", "POST"): self.create,
                ("delete", "DELETE"): self.delete,
                ("move", "POST"): self.move,
            }[(s[1], m)]()
        if s[:1] == ["telemetry"] or s[:1] == ["event"]:
            return self.send(obj={})
        if s[:1] == ["agent-harnesses"] or s[0].endswith("-tags-by-type"):
            return self.send(obj={})
        if s[:1] == ["collections"]:
            return self.collections(s[1:])
        if s and s[0] in ("models", "datasets", "spaces"):
            rtype = s[0][:-1]
            if len(s) == 1:
                return self.list_repos(rtype)
            if len(s) >= 3:
                return self.repo_api(rtype, f"{s[1]}/{s[2]}", s[3] if len(s) > 3 else "", s[4:])
            raise HubError(
                401 if self.user is None else 404, "Repository not found", "RepoNotFound"
            )
        raise HubError(404, f"no such route in hub_server: {m} {self.raw_path}")

    def repo_api(self, rtype, rid, what, rest):
        m, st = self.command, self.hub.store
        rev = rest[0] if rest else "main"
        if what.startswith("xet-"):
            self.repo(rtype, rid, write="write" in what)
            raise HubError(
                501,
                "this loopback hub has no xet storage: set HF_HUB_DISABLE_XET=1 before importing huggingface_hub",
            )
        if what == "" or what == "revision":
            repo = self.repo(rtype, rid)
            return self.send(obj=self.info(repo, st.resolve(repo, rev)[0]))
        if what == "auth-check":
            self.repo(rtype, rid, write=rest == ["write"])
            return self.send(obj={})
        if what == "preupload":
            repo = self.repo(rtype, rid, write=True)
            try:
                tree = st.get_commit(st.resolve(repo, rev)[0])["tree"]
            except HubError:
                if repo["commits"]:
                    raise
                tree = {}
            d, out = self.json(), []
            ignore = [
                ln.strip()
                for ln in d.get("gitIgnore", "").splitlines()
                if ln.strip() and not ln.startswith("#")
            ]
            for f in d["files"]:
                p, ext = f["path"], f["path"].rsplit(".", 1)[-1].lower()
                sample = base64.b64decode(f.get("sample", ""))
                lfs = (
                    ext in LFS_EXT or "tfevents" in p or b"\0" in sample or f["size"] > MAX_REGULAR
                )
                ign = any(
                    fnmatch.fnmatch(p, g.rstrip("/"))
                    or fnmatch.fnmatch(p.split("/")[-1], g)
                    or p.startswith(g.rstrip("/") + "/")
                    for g in ignore
                )
                old = tree.get(p)
                out.append(
                    dict(
                        path=p,
                        uploadMode="lfs" if lfs else "regular",
                        shouldIgnore=ign,
                        **({"oid": old.get("sha256") or old["oid"]} if old else {}),
                    )
                )
            return self.send(obj=dict(files=out))
        if what == "commit":
            return self.commit(rtype, rid, rev)
        if what == "refs":
            refs = self.repo(rtype, rid)["refs"]
            pick = lambda pre: [
                dict(name=k[len(pre) :], ref=k, targetCommit=v)
                for k, v in refs.items()
                if k.startswith(pre)
            ]  # noqa: E731
            out = dict(
                branches=pick("refs/heads/"),
                tags=pick("refs/tags/"),
                converts=pick("refs/convert/"),
            )
            if "include_prs" in self.q:
                out["pullRequests"] = pick("refs/pr/")
            return self.send(obj=out)
        if what == "tree":
            repo = self.repo(rtype, rid)
            oid, _ = st.resolve(repo, rev)
            self.commit_oid = oid
            return self.page(
                self.tree(
                    repo,
                    oid,
                    "/".join(rest[1:]),
                    self.q.get("recursive", ["false"])[0] in ("true", "True", "1"),
                )
            )
        if what == "paths-info":
            repo = self.repo(rtype, rid)
            oid, _ = st.resolve(repo, rev)
            if "json" in self.headers.get("Content-Type", ""):
                paths = self.json().get("paths", [])
            else:
                paths = parse_qs(self.body().decode()).get("paths", [])
            everything = {e["path"]: e for e in self.tree(repo, oid, "", True)}
            return self.send(
                obj=[everything[p.strip("/")] for p in paths if p.strip("/") in everything]
            )
        if what == "commits":
            repo, out = self.repo(rtype, rid), []
            oid = st.resolve(repo, rev)[0]
            while oid:
                c = st.get_commit(oid)
                out.append(
                    dict(
                        id=oid,
                        title=c["title"],
                        message=c["message"],
                        date=c["date"],
                        authors=[dict(user=c["author"], avatar="")],
                    )
                )
                oid = c["parent"]
            return self.page(out)
        if what in ("branch", "tag") and m in ("POST", "DELETE"):
            with st.lock:
                repo = self.repo(rtype, rid, write=True)
                if what == "branch":
                    name, start = (
                        "refs/heads/" + "/".join(rest),
                        self.json().get("startingPoint", "main") if m == "POST" else None,
                    )
                else:
                    name, start = (
                        "refs/tags/" + (self.json()["tag"] if m == "POST" else "/".join(rest)),
                        "/".join(rest),
                    )
                if m == "DELETE":
                    if name == "refs/heads/main":
                        raise HubError(403, "The main branch is protected and cannot be deleted")
                    if name not in repo["refs"]:
                        raise HubError(404, f"{name} does not exist", "RevisionNotFound")
                    del repo["refs"][name]
                else:
                    target = st.resolve(repo, start)[0]
                    if name in repo["refs"]:
                        raise HubError(409, f"Reference {name} already exists")
                    repo["refs"][name] = target
                st.save(repo)
            return self.send(201 if m == "POST" else 204, obj={} if m == "POST" else None)
        if what == "settings" and m == "PUT":
            with st.lock:
                repo, d = self.repo(rtype, rid, write=True), self.json()
                if "visibility" in d:
                    repo["private"] = d["visibility"] == "private"
                if "private" in d:
                    repo["private"] = bool(d["private"])
                st.save(repo)
            return self.send(obj=d)
        if what == "discussions" and m == "GET":
            self.repo(rtype, rid)
            return self.send(obj=dict(discussions=[], count=0, start=0))
        if rtype == "space" and what == "runtime":
            repo = self.repo(rtype, rid)
            return self.send(
                obj=dict(
                    stage="RUNNING_BUILDING",
                    hardware=dict(current=None, requested="cpu-basic"),
                    storage=None,
                    gcTimeout=172800,
                    sdk=repo.get("sdk"),
                )
            )
        if rtype == "space" and what in ("variables", "secrets"):
            with st.lock:
                repo = self.repo(rtype, rid, write=True)
                if m != "GET":
                    d = self.json()
                    repo.setdefault(what, {})
                    repo[what].pop(d["key"], None) if m == "DELETE" else repo[what].update(
                        {d["key"]: d}
                    )
                    st.save(repo)
            return self.send(obj=repo.get(what, {}))
        raise HubError(404, f"no such route in hub_server: {m} {self.raw_path}")

    # ------------------------------------------------------------------ repos
    def create(self):
        d, st = self.json(), self.hub.store
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        ns = d.get("organization") or self.user["name"]
        rtype, rid = d.get("type") or "model", f"{ns}/{d['name']}"
        if rtype not in TYPES:
            raise HubError(400, f"unsupported repo type {rtype}")
        self.need_write(ns)
        url = f"{self.hub.url}/{'' if rtype == 'model' else rtype + 's/'}{rid}"
        with st.lock:
            if st.load(rtype, rid):
                return self.send(
                    409,
                    dict(error="You already created this repo", url=url),
                    headers={"X-Error-Message": "You already created this repo"},
                )
            repo = dict(
                id=rid,
                type=rtype,
                private=d.get("visibility") == "private" or bool(d.get("private")),
                sdk=d.get("sdk"),
                created=now(),
                lastModified=now(),
                refs={},
                commits=[],
                npr=0,
            )
            tree = {".gitattributes": dict(oid=st.put_git(GITATTRIBUTES), size=len(GITATTRIBUTES))}
            if rtype == "space":
                readme = f"---\ntitle: {d['name']}\nemoji: 🌖\ncolorFrom: gray\ncolorTo: blue\nsdk: {d.get('sdk')}\npinned: false\n---\n".encode()
                tree["README.md"] = dict(oid=st.put_git(readme), size=len(readme))
            st.commit(repo, "refs/heads/main", tree, "initial commit", "", self.user["name"], None)
        self.send(obj=dict(url=url, name=rid, id=hashlib.md5(rid.encode()).hexdigest()[:24]))

    def delete(self):
        d = self.json()
        ns = d.get("organization") or (self.user or {}).get("name", "")
        with self.hub.store.lock:
            self.repo(d.get("type") or "model", f"{ns}/{d['name']}", write=True)
            self.hub.store.repo_path(d.get("type") or "model", f"{ns}/{d['name']}").unlink()
        self.send(obj={})

    def move(self):
        d, st = self.json(), self.hub.store
        rtype = d.get("type") or "model"
        with st.lock:
            repo = self.repo(rtype, d["fromRepo"], write=True)
            self.need_write(d["toRepo"].split("/")[0])
            if st.load(rtype, d["toRepo"]):
                raise HubError(409, "target exists")
            st.repo_path(rtype, repo["id"]).unlink()
            repo["id"] = d["toRepo"]
            st.save(repo)
        self.send(obj={})

    def list_repos(self, rtype):
        out, st = [], self.hub.store
        one = lambda k, default=None: self.q.get(k, [default])[0]  # noqa: E731
        for p in sorted((st.root / "repos" / f"{rtype}s").glob("*/*.json")):
            repo = json.loads(p.read_text())
            if (
                not self.may_read(repo)
                or one("author", repo["id"].split("/")[0]) != repo["id"].split("/")[0]
            ):
                continue
            if (one("search") or "").lower() not in repo["id"].lower():
                continue
            info = self.info(repo, repo["refs"]["refs/heads/main"])
            if not all(t in info["tags"] for t in self.q.get("filter", [])):
                continue
            if "full" not in self.q:
                info.pop("siblings")
            out.append(info)
        self.page(
            sorted(out, key=lambda i: i["lastModified"], reverse=True), int(one("limit", 1000))
        )

    def info(self, repo, oid):
        tree = self.hub.store.get_commit(oid)["tree"]
        blobs = self.q.get("blobs", ["false"])[0] in ("true", "True", "1")
        sib = []
        for p, e in tree.items():
            s = dict(rfilename=p)
            if blobs:
                s.update(size=e["size"], blobId=e["oid"])
                if e.get("sha256"):
                    s["lfs"] = dict(
                        sha256=e["sha256"],
                        size=e["size"],
                        pointerSize=len(pointer(e["sha256"], e["size"])),
                    )
            sib.append(s)
        card = config = None
        try:
            if "README.md" in tree:
                card = card_metadata(self.hub.store.blob(tree["README.md"]).read_text())
            if "config.json" in tree:
                config = json.loads(self.hub.store.blob(tree["config.json"]).read_text())
        except (ValueError, yaml.YAMLError):
            pass
        card = card if isinstance(card, dict) else {}
        tags = [t for t in (card.get("tags") or [])] if isinstance(card.get("tags"), list) else []
        for key in ("library_name", "pipeline_tag"):
            if card.get(key):
                tags.append(card[key])
        for key in ("license", "datasets", "base_model"):
            v = card.get(key) or []
            tags += [
                f"{key.rstrip('s') if key == 'datasets' else key}:{x}"
                for x in ([v] if isinstance(v, str) else v)
            ]
        if config and config.get("model_type"):
            tags += [config["model_type"]] + (["custom_code"] if config.get("auto_map") else [])
        d = dict(
            _id=hashlib.md5(repo["id"].encode()).hexdigest()[:24],
            id=repo["id"],
            author=repo["id"].split("/")[0],
            sha=oid,
            lastModified=repo["lastModified"],
            createdAt=repo["created"],
            private=repo["private"],
            gated=False,
            disabled=False,
            downloads=0,
            likes=0,
            tags=tags,
            siblings=sib,
            cardData=card,
        )
        if repo["type"] == "model":
            d.update(
                modelId=repo["id"],
                config=config
                and {
                    k: config[k] for k in ("architectures", "model_type", "auto_map") if k in config
                },
            )
            for key in ("library_name", "pipeline_tag", "model-index"):
                if card.get(key):
                    d[key] = card[key]
        if repo["type"] == "model" and "evalResults" in self.q.get("expand", []):
            d["evalResults"] = []
            for p in tree:
                if p.startswith(".eval_results/") and p.endswith((".yaml", ".yml")):
                    try:
                        for e in yaml.safe_load(self.hub.store.blob(tree[p]).read_text()):
                            e["dataset"]["id"], e["dataset"]["task_id"], e["value"]
                            d["evalResults"].append(dict(filename=p, data=e))
                    except Exception as e:
                        d["evalResults"].append(
                            dict(filename=p, error=f"invalid eval results: {e!r}")
                        )
        if repo["type"] == "space":
            d.update(
                sdk=repo.get("sdk"),
                runtime=dict(stage="BUILDING", hardware=dict(current=None, requested="cpu-basic")),
            )
        return d

    def tree(self, repo, oid, under, recursive):
        tree, out, dirs = self.hub.store.get_commit(oid)["tree"], [], set()
        pre = under.strip("/") + "/" if under.strip("/") else ""
        c = None
        for p in sorted(tree):
            if not p.startswith(pre):
                continue
            parts = p[len(pre) :].split("/")
            for i in range(1, len(parts) if recursive else min(2, len(parts))):
                d = pre + "/".join(parts[:i])
                if d not in dirs:
                    dirs.add(d)
                    out.append(
                        dict(
                            type="directory",
                            oid=hashlib.sha1((oid + d).encode()).hexdigest(),
                            size=0,
                            path=d,
                        )
                    )
            if len(parts) == 1 or recursive:
                e = tree[p]
                wrong = self.hub.faults["misstate"]
                if wrong and fnmatch.fnmatch(p, wrong):
                    e = {k: v[::-1] if isinstance(v, str) else v for k, v in e.items()}
                item = dict(type="file", oid=e["oid"], size=e["size"], path=p)
                if e.get("sha256"):
                    item["lfs"] = dict(
                        oid=e["sha256"],
                        size=e["size"],
                        pointerSize=len(pointer(e["sha256"], e["size"])),
                    )
                out.append(item)
        if pre and not out:
            raise HubError(404, f"{under} does not exist on this revision", "EntryNotFound")
        if self.q.get("expand", ["false"])[0] in ("true", "True"):
            c = self.hub.store.get_commit(oid)
            for item in out:
                item["lastCommit"] = dict(id=oid, title=c["title"], date=c["date"])
        return out

    def page(self, items, limit=None):
        size = min(limit or self.hub.page_size, self.hub.page_size)
        start = int(self.q.get("cursor", ["0"])[0])
        headers = {}
        if start + size < len(items) and (limit is None or size < limit):
            rest = "&".join(
                f"{quote(k)}={quote(v)}" for k, vs in self.q.items() if k != "cursor" for v in vs
            )
            headers["Link"] = (
                f'<{self.hub.url}{self.raw_path}?{rest}{"&" if rest else ""}cursor={start + size}>; rel="next"'
            )
        self.send(obj=items[start : start + size], headers=headers)

    # ------------------------------------------------------------------ collections
    def collections(self, s):
        found, lock = self.hub.collections, self.hub.lock
        if not s and self.command == "GET":
            owner = self.q.get("owner", [None])[0]
            seen = [c for c in found.values() if owner in (None, c["owner"]["name"])]
            return self.page(
                [c for c in seen if not c["private"] or self.in_ns(c["owner"]["name"])]
            )
        if not s and self.command == "POST":
            d = self.json()
            self.need_write(d["namespace"])
            words = re.sub(r"[^a-z0-9]+", "-", d["title"].lower()).strip("-")
            slug = f"{d['namespace']}/{words}-{hashlib.md5(words.encode()).hexdigest()[:24]}"
            with lock:
                if slug in found:
                    return self.send(409, dict(error="You already have this one", slug=slug))
                found[slug] = dict(
                    slug=slug,
                    title=d["title"],
                    description=d.get("description"),
                    private=bool(d.get("private")),
                    owner=dict(name=d["namespace"]),
                    items=[],
                    lastUpdated=now(),
                    theme="orange",
                    upvotes=0,
                    position=0,
                )
            return self.send(obj=found[slug])
        c = found.get("/".join(s[:2]))
        if c is None or (c["private"] and not self.in_ns(c["owner"]["name"])):
            raise HubError(404, "Collection not found")
        if s[2:] == ["items"] and self.command == "POST":
            self.need_write(c["owner"]["name"])
            d = self.json()
            self.repo(d["item"]["type"], d["item"]["id"])
            with lock:
                if any(i["id"] == d["item"]["id"] for i in c["items"]):
                    raise HubError(409, "This item is already in the collection")
                item = dict(d["item"], _id=f"{len(c['items']):024x}", position=len(c["items"]))
                c["items"].append(item | ({"note": {"text": d["note"]}} if d.get("note") else {}))
        self.send(obj=c)

    # ------------------------------------------------------------------ writes
    def commit(self, rtype, rid, rev):
        st = self.hub.store
        lines = [json.loads(ln) for ln in self.body().splitlines() if ln.strip()]
        repo = self.repo(rtype, rid, write=True)
        self.fault("commit", self.hub.faults["fail_commit_every"], "commit")
        if self.take("busy_commits"):
            self.fault("busy", 1, "commit")
        if self.hub.faults["commits_left"] is not None and not self.take("commits_left"):
            self.fault("gone", 1, "commit")
        head = next(x["value"] for x in lines if x["key"] == "header")
        with st.lock:
            repo = self.repo(rtype, rid, write=True)
            oid, ref = st.resolve(repo, rev)
            if self.q.get("create_pr") == ["1"]:
                repo["npr"] += 1
                ref = f"refs/pr/{repo['npr']}"
            elif ref is None:
                raise HubError(
                    404, f"cannot commit on a detached revision {rev}", "RevisionNotFound"
                )
            elif head.get("parentCommit") and not oid.startswith(head["parentCommit"]):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            tree = dict(st.get_commit(oid)["tree"])
            for line in lines:
                v, key = line["value"], line["key"]
                if key == "header":
                    continue
                p = v["path"]
                if p.startswith("/") or any(
                    x in ("", ".", "..", ".git") for x in p.rstrip("/").split("/")
                ):
                    raise HubError(400, f"Invalid path in repo: {p}")
                if key == "file":
                    data = base64.b64decode(v["content"])
                    if len(data) > MAX_REGULAR:
                        raise HubError(413, f"{p}: files over 10 MiB must be uploaded as LFS")
                    if p == "README.md":
                        errors, _ = check_card(data.decode("utf8", "replace"), rtype)
                        if errors:
                            raise HubError(
                                400,
                                "Invalid metadata in README.md: "
                                + "; ".join(e["message"] for e in errors),
                            )
                    tree[p] = dict(oid=st.put_git(data), size=len(data))
                elif key == "lfsFile":
                    f = st.obj("sha256", v["oid"])
                    if not f.exists():
                        raise HubError(
                            400,
                            f"LFS pointer pointed to a file that does not exist: {p} {v['oid']}",
                        )
                    size = f.stat().st_size
                    tree[p] = dict(
                        oid=st.put_git(pointer(v["oid"], size)), size=size, sha256=v["oid"]
                    )
                elif key == "deletedFile":
                    if tree.pop(p, None) is None:
                        raise HubError(404, f"cannot delete {p}: no such file", "EntryNotFound")
                elif key == "deletedFolder":
                    gone = [x for x in tree if x.startswith(p.rstrip("/") + "/")]
                    if not gone:
                        raise HubError(404, f"cannot delete {p}: no such folder", "EntryNotFound")
                    for x in gone:
                        del tree[x]
                else:
                    raise HubError(400, f"unknown operation {key}")
            new = st.commit(
                repo,
                ref,
                tree,
                head["summary"],
                head.get("description", ""),
                self.user["name"],
                oid,
            )
        if self.take("lose_commits"):
            self.cut()
        base = f"{self.hub.url}/{'' if rtype == 'model' else rtype + 's/'}{rid}"
        out = dict(success=True, commitOid=new, commitUrl=f"{base}/commit/{new}", hookOutput="")
        if ref.startswith("refs/pr/"):
            out["pullRequestUrl"] = f"{base}/discussions/{ref.split('/')[-1]}"
        self.send(obj=out)

    def lfs_batch(self, rtype, rid):
        self.repo(rtype, rid, write=True)
        d, out = self.json(), []
        pre = "" if rtype == "model" else rtype + "s/"
        for o in d["objects"]:
            f = self.hub.store.obj("sha256", o["oid"])
            item = dict(oid=o["oid"], size=o["size"], authenticated=True)
            if not f.exists():
                href = f"{self.hub.url}/_lfs/{o['oid']}"
                part = self.hub.multipart
                if part and o["size"] > part and "multipart" in d.get("transfers", ()):
                    n = -(-o["size"] // part)
                    header = {"chunk_size": str(part)}
                    header.update(
                        {
                            f"{i:05d}": f"{href}/{i}?sig={self.sign('put', o['oid'], str(i))}"
                            for i in range(1, n + 1)
                        }
                    )
                    up = dict(
                        href=f"{href}/complete?sig={self.sign('put', o['oid'], 'complete')}",
                        header=header,
                    )
                else:
                    up = dict(href=f"{href}?sig={self.sign('put', o['oid'])}", header={})
                item["actions"] = dict(
                    upload=up,
                    verify=dict(
                        href=f"{self.hub.url}/{pre}{rid}.git/info/lfs/objects/verify", header={}
                    ),
                )
            out.append(item)
        self.send(obj=dict(transfer="basic", objects=out), ctype="application/vnd.git-lfs+json")

    def lfs_put(self, oid, part=None):
        if self.q.get("sig") != [self.sign(*(["put", oid] + ([part] if part else [])))]:
            raise HubError(403, "bad upload signature")
        if self.hub.faults["fail_put_every"]:
            self.body()
            self.fault("put", self.hub.faults["fail_put_every"], "PUT")
        if self.take("cut_puts"):
            self.rfile.read(1)
            self.cut()
        st = self.hub.store
        fd, tmp = tempfile.mkstemp(dir=st.root / "tmp")
        sha = hashlib.sha256()
        with os.fdopen(fd, "wb") as f:
            for chunk in [self._body] if self._body is not None else self._chunks():
                f.write(chunk)
                sha.update(chunk)
        self._body = b""
        if part:
            os.replace(tmp, st.root / "tmp" / f"{oid}.part{int(part)}")
        elif sha.hexdigest() != oid:
            os.unlink(tmp)
            raise HubError(400, f"sha256 mismatch: expected {oid}, got {sha.hexdigest()}")
        else:
            dest = st.obj("sha256", oid)
            dest.parent.mkdir(parents=True, exist_ok=True)
            os.replace(tmp, dest)
        self.send(headers={"ETag": f'"{sha.hexdigest()[:32]}"'})

    def lfs_complete(self, oid, word):
        if word != "complete" or self.q.get("sig") != [self.sign("put", oid, "complete")]:
            raise HubError(403, "bad upload signature")
        st, sha = self.hub.store, hashlib.sha256()
        parts = [st.root / "tmp" / f"{oid}.part{p['partNumber']}" for p in self.json()["parts"]]
        fd, tmp = tempfile.mkstemp(dir=st.root / "tmp")
        with os.fdopen(fd, "wb") as f:
            for p in parts:
                data = p.read_bytes()
                f.write(data)
                sha.update(data)
        if sha.hexdigest() != oid:
            os.unlink(tmp)
            raise HubError(400, "sha256 mismatch after multipart upload")
        dest = st.obj("sha256", oid)
        dest.parent.mkdir(parents=True, exist_ok=True)
        os.replace(tmp, dest)
        for p in parts:
            p.unlink(missing_ok=True)
        self.send(obj={})

    def lfs_verify(self, rtype, rid):
        self.repo(rtype, rid, write=True)
        d = self.json()
        f = self.hub.store.obj("sha256", d["oid"])
        if not f.exists() or f.stat().st_size != d["size"]:
            raise HubError(404, "object not found or wrong size")
        self.send(obj={})

    # ------------------------------------------------------------------ reads
    def resolve(self, rtype, rid, rev, path):
        st = self.hub.store
        repo = self.repo(rtype, rid)
        if rid in self.hub.gated and not self.in_ns(rid.split("/")[0]):
            raise HubError(403, f"Access to {rid} is restricted", "GatedRepo")
        oid, _ = st.resolve(repo, rev)
        self.commit_oid = oid
        entry = st.get_commit(oid)["tree"].get(path)
        if entry is None:
            raise HubError(404, "Entry not found", "EntryNotFound")
        if self.command == "GET":
            self.fault("get", self.hub.faults["fail_get_every"], "GET")
        headers = {"X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        etag = f'"{entry.get("sha256") or entry["oid"]}"'
        if entry.get("sha256"):
            headers.update({"X-Linked-Etag": etag, "X-Linked-Size": str(entry["size"])})
            if self.hub.cdn_redirect:
                loc = f"http://localhost:{self.hub.port}/_cdn/{entry['sha256']}?sig={self.sign('get', entry['sha256'])}&name={quote(path, safe='')}"
                headers.update({"Location": loc})
                return self.send(
                    302,
                    data=f"Found. Redirecting to {loc}".encode(),
                    headers=self.strip(headers),
                    ctype="text/plain",
                )
        self.send_file(st.blob(entry), etag, headers, path)

    def strip(self, headers):
        drop = (self.hub.faults["drop_header"] or "").lower()
        return {k: v for k, v in headers.items() if k.lower() != drop}

    def send_file(self, file, etag, headers, path):
        faults, size = self.hub.faults, file.stat().st_size
        headers = self.strip(
            {
                **headers,
                "ETag": etag,
                "Content-Disposition": f'inline; filename="{path.split("/")[-1]}";',
            }
        )
        start, end, status = 0, size - 1, 200
        m = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if m and not faults["no_range"] and m.group(0) != "bytes=-":
            if m.group(1):
                start, end = int(m.group(1)), min(int(m.group(2) or size - 1), size - 1)
            else:
                start = max(0, size - int(m.group(2)))
            if start >= size:
                return self.send(416, headers={"Content-Range": f"bytes */{size}"})
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        n = end - start + 1
        cut = n
        if (
            self.command == "GET"
            and faults["truncate"]
            and fnmatch.fnmatch(path, faults["truncate"])
            and faults["truncate_times"]
        ):
            with self.hub.lock:
                if faults["truncate_times"] > 0:
                    faults["truncate_times"] -= 1
            cut = int(n * faults["truncate_at"])
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(n))
        for k, v in headers.items():
            self.send_header(k, v)
        self.end_headers()
        self._status = status
        if self.command == "HEAD":
            return
        with open(file, "rb") as f:
            f.seek(start)
            left = cut
            while left > 0:
                data = f.read(min(left, 1 << 20))
                left -= len(data)
                if left == 0 and faults["corrupt"] and fnmatch.fnmatch(path, faults["corrupt"]):
                    data = data[:-1] + bytes([data[-1] ^ 0xFF])
                self.wfile.write(data)
        if cut < n:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class HubServer:
    """`with HubServer(root) as hub:` serves on 127.0.0.1 in a daemon thread; `hub.env()` is what a client needs."""

    def __init__(
        self,
        root,
        port=0,
        tokens=None,
        page_size=1000,
        multipart=0,
        cdn_redirect=False,
        verbose=False,
        **faults,
    ):
        self.store, self.tokens = Store(root), dict(DEFAULT_TOKENS if tokens is None else tokens)
        self.page_size, self.multipart, self.cdn_redirect, self.verbose = (
            page_size,
            multipart,
            cdn_redirect,
            verbose,
        )
        self.secret, self.lock, self.log, self.counters, self.n = (
            os.urandom(16),
            threading.Lock(),
            [],
            {},
            0,
        )
        self.collections, self.gated = {}, set()
        self.faults = dict(DEFAULT_FAULTS)
        self.set_faults(**faults)
        self._server = _Server(("127.0.0.1", port), Handler)
        self._server.hub = self
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def set_faults(self, **faults):
        unknown = set(faults) - set(DEFAULT_FAULTS)
        if unknown:
            raise HubError(400, f"unknown faults: {sorted(unknown)}")
        self.faults.update(faults)
        self.counters.clear()

    def clear_faults(self):
        self.set_faults(**DEFAULT_FAULTS)

    def files(self, repo, repo_type="model", revision="main"):
        """Path -> content of a repository, as a test looks into it."""
        held = self.store.load(repo_type, repo)
        tree = self.store.get_commit(self.store.resolve(held, revision)[0])["tree"]
        return {
            path: self.store.blob(entry).read_bytes()
            for path, entry in tree.items()
            if path != ".gitattributes"
        }

    def commits(self, repo, repo_type="model"):
        """Commits of a repository, oldest first."""
        return self.store.load(repo_type, repo)["commits"]

    def env(self, home, token="hf_write"):
        """Environment for a client process with a cache of its own; token=None: anonymous."""
        env = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
        }
        env.update(
            HF_ENDPOINT=self.url,
            HF_HOME=str(home),
            HF_HUB_DISABLE_XET="1",
            HF_HUB_DISABLE_TELEMETRY="1",
            HF_HUB_DISABLE_PROGRESS_BARS="1",
            HF_HUB_DISABLE_UPDATE_CHECK="1",
        )
        if token:
            env["HF_TOKEN"] = token
        return env

    def start(self):
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs=dict(poll_interval=0.05), daemon=True
        )
        self._thread.start()
        return self

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    __enter__ = start

    def __exit__(self, *exc):
        self.stop()


def main():
    p = argparse.ArgumentParser(description="loopback stand-in for the Hugging Face Hub")
    p.add_argument("--root", required=True)
    p.add_argument("--port", type=int, default=8765)
    p.add_argument(
        "--token",
        action="append",
        default=[],
        help="TOKEN:USER:ROLE (role read or write); default hf_write:tester:write and friends",
    )
    p.add_argument(
        "--multipart",
        type=int,
        default=0,
        help="offer multipart uploads with parts of this many bytes",
    )
    p.add_argument(
        "--cdn-redirect",
        action="store_true",
        help="302 LFS downloads to a signed URL on another host name (localhost)",
    )
    p.add_argument("--page-size", type=int, default=1000)
    p.add_argument("-v", "--verbose", action="store_true")
    for k, v in DEFAULT_FAULTS.items():
        flag = "--" + k.replace("_", "-")
        if isinstance(v, bool):
            p.add_argument(flag, action="store_true")
        else:
            p.add_argument(flag, type=type(v) if v is not None else str, default=v)
    a = vars(p.parse_args())
    toks = {
        t.split(":")[0]: dict(name=t.split(":")[1], role=t.split(":")[2], orgs=[])
        for t in a.pop("token")
    } or None
    hub = HubServer(tokens=toks, **a)
    print(
        f"HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1 HF_TOKEN={next(iter(hub.tokens))}", flush=True
    )
    try:
        hub._server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
