"""A small Hub on loopback that takes uploads, for the real client.

It speaks what `HfApi` asks when it pushes: create a repository, model info, paths-info, validate-
yaml, preupload, Git LFS batch, upload and verify, and commit (NDJSON). What is committed lands in
git repositories laid out as `olah` serves them, see `olah_server`. Folders in repositories are not
supported.

`faults` makes it misbehave, and then it sends the token back in every error, as a careless server
may do.
"""

import contextlib
import hashlib
import json
import re
import socket
import threading
from base64 import b64decode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from git_store import POINTER, Repositories

TOKEN = "hf_" + "FakeTokenOfTheTests" * 2
DROP = "drop the connection"


class UploadServer(ThreadingHTTPServer):
    """The server.

    Attributes:
        repositories: What was pushed.
        faults: HTTP status, or `DROP`, by name of the step: `create`, `info`, `paths`, `yaml`,
            `preupload`, `batch`, `put`, `verify`, `commit`.
        ignored: Names of files that a .gitignore in the repositories excludes.
        before: Called before a step by that name is answered.
        steps: Names of the steps that were asked for, in order.
    """

    daemon_threads = True

    def __init__(self, mirrors: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = Repositories(mirrors)
        self.faults: dict[str, int | str] = {}
        self.ignored: set[str] = set()
        self.before: dict[str, Any] = {}
        self.steps: list[str] = []
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about connections that break: tests break them."""


_REPO = r"/api/models/(?P<repo>[^/]+/[^/]+)"
_ROUTES = (
    ("POST", "create", r"/api/repos/create"),
    ("POST", "yaml", r"/api/validate-yaml"),
    ("GET", "info", rf"{_REPO}(/revision/(?P<revision>[^/]+))?"),
    ("POST", "paths", rf"{_REPO}/paths-info/(?P<revision>[^/]+)"),
    ("POST", "preupload", rf"{_REPO}/preupload/(?P<revision>[^/]+)"),
    ("POST", "commit", rf"{_REPO}/commit/(?P<revision>[^/]+)"),
    ("POST", "batch", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch"),
    ("PUT", "put", r"/lfs/(?P<repo>[^/]+/[^/]+)/(?P<oid>\w{64})"),
    ("POST", "verify", r"/lfs/(?P<repo>[^/]+/[^/]+)/(?P<oid>\w{64})"),
)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: UploadServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PUT(self) -> None:
        self._route("PUT")

    def _route(self, method: str) -> None:
        url = urlsplit(self.path)
        matches = (
            (step, re.fullmatch(pattern, url.path))
            for wanted, step, pattern in _ROUTES
            if wanted == method
        )
        step, match = next(((s, m) for s, m in matches if m), ("", None))
        if match is None:
            return self._refuse(404, f"no such address: {method} {url.path}")
        self.server.steps.append(step)
        if call := self.server.before.get(step):
            call()
        fault = self.server.faults.get(step)
        if fault == DROP:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = self._body()
        if isinstance(fault, int):
            return self._refuse(fault, "the server sends back " + str(self.headers))
        # Uploads go to a signed address, as on the Hub.
        if step != "put" and self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._refuse(401, "Invalid credentials in Authorization header")
        given = {key: unquote(value) for key, value in match.groupdict().items() if value}
        repo = given.get("repo")
        if repo is not None and not self.server.repositories.exists(repo):
            return self._refuse(404, "Repository not found", code="RepoNotFound")
        getattr(self, f"_{step}")(body, parse_qs(url.query), **given)

    def _create(self, body: bytes, query: Any) -> None:
        asked = json.loads(body)
        repo_id = f"{asked['organization']}/{asked['name']}"
        if self.server.repositories.exists(repo_id):
            return self._refuse(409, "You already created this model repo")
        private = asked.get("visibility") == "private" or asked.get("private", False)
        self.server.repositories.create(repo_id, private=private)
        return self._answer({"url": f"{self.server.endpoint}/{repo_id}", "name": repo_id})

    def _yaml(self, body: bytes, query: Any) -> None:
        assert json.loads(body)["repoType"] == "model"
        self._answer({"errors": [], "warnings": []})

    def _info(self, body: bytes, query: Any, repo: str, revision: str = "main") -> None:
        commit = self.server.repositories.resolve(repo, revision)
        if commit is None:
            return self._refuse(404, "Invalid rev id", code="RevisionNotFound")
        names = self.server.repositories.files(repo, commit)
        private = repo in self.server.repositories.private
        siblings = [{"rfilename": name} for name in names]
        return self._answer({"id": repo, "sha": commit, "private": private, "siblings": siblings})

    def _paths(self, body: bytes, query: Any, repo: str, revision: str) -> None:
        commit = self.server.repositories.resolve(repo, revision)
        assert commit is not None
        files = self.server.repositories.files(repo, commit)
        asked = parse_qs(body.decode())["paths"]
        self._answer([files[name] for name in asked if name in files])

    def _preupload(self, body: bytes, query: Any, repo: str, revision: str) -> None:
        commit = self.server.repositories.resolve(repo, revision)
        assert commit is not None
        present = self.server.repositories.files(repo, commit)
        files = []
        for file in json.loads(body)["files"]:
            info = present.get(file["path"], {})
            is_large = file["path"].endswith(".safetensors")
            files.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if is_large else "regular",
                    "shouldIgnore": file["path"] in self.server.ignored,
                    "oid": info.get("lfs", info).get("oid"),
                }
            )
        self._answer({"files": files})

    def _batch(self, body: bytes, query: Any, repo: str) -> None:
        asked = json.loads(body)
        assert asked["operation"] == "upload"
        objects = []
        for item in asked["objects"]:
            href = f"{self.server.endpoint}/lfs/{repo}/{item['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": href}}
            known = self.server.repositories.lfs_path(repo, item["oid"]).exists()
            objects.append(item if known else {**item, "actions": actions})
        self._answer({"transfer": "basic", "objects": objects})

    def _put(self, body: bytes, query: Any, repo: str, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self._refuse(400, "wrong content")
        path = self.server.repositories.lfs_path(repo, oid)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return self._answer({})

    def _verify(self, body: bytes, query: Any, repo: str, oid: str) -> None:
        path = self.server.repositories.lfs_path(repo, oid)
        if not path.is_file() or path.stat().st_size != json.loads(body)["size"]:
            return self._refuse(404, "not uploaded")
        return self._answer({})

    def _commit(self, body: bytes, query: Any, repo: str, revision: str) -> None:
        repositories = self.server.repositories
        items = [json.loads(line) for line in body.splitlines()]
        header = next(item["value"] for item in items if item["key"] == "header")
        parent = repositories.resolve(repo, revision)
        if header.get("parentCommit", parent) != parent:
            return self._refuse(412, "A commit has happened since. Please refresh and try again.")
        files: dict[str, bytes | None] = {}
        for item in items:
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if not repositories.lfs_path(repo, value["oid"]).is_file():
                    return self._refuse(400, f"{value['path']} was not uploaded")
                files[value["path"]] = POINTER.format(value["oid"], value["size"]).encode()
            elif item["key"] == "deletedFile":
                files[value["path"]] = None
        answer = {}
        ref = f"refs/heads/{revision}"
        if query.get("create_pr") == ["1"]:
            number = repositories.next_pull_request(repo)
            ref = f"refs/pr/{number}"
            answer = {"pullRequestUrl": f"{self.server.endpoint}/{repo}/discussions/{number}"}
        commit = repositories.commit(repo, ref, parent, files, header["summary"])
        url = f"{self.server.endpoint}/{repo}/commit/{commit}"
        return self._answer({"commitUrl": url, "commitOid": commit, **answer})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, value: Any, status: int = 200, **headers: str) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, header in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, header)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: int, message: str, code: str = "") -> None:
        line = " ".join(message.split())
        headers = {"X-Error-Message": line, **({"X-Error-Code": code} if code else {})}
        self._answer({"error": message}, status, **headers)


@contextlib.contextmanager
def upload_server(mirrors: Path) -> Iterator[UploadServer]:
    """Run the server; repositories go below `mirrors`."""
    server = UploadServer(mirrors)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
