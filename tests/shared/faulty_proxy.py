"""A proxy in front of the server under test, for what that one cannot do: break, and be private."""

import contextlib
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_PASSED_ON = ("x-repo-commit", "x-error-code", "x-error-message", "etag", "content-type")


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on, except for the faults that a test sets.

    Attributes:
        requests: Method and path of every request, in order.
        token: What `Authorization: Bearer` must hold; `None` lets everybody in.
        drops: How many downloads of weights break off half-way.
        refuses: Whether the connection is closed unanswered after all of `drops` happened.
        echo: Whether errors repeat the token of the request, as a careless server might.
        answers: Status and `x-error-code` by a part of the path, instead of the server's answer.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.requests: list[str] = []
        self.token: str | None = None
        self.drops = 0
        self.refuses = False
        self.echo = False
        self.answers: dict[str, tuple[int, str]] = {}

    @property
    def endpoint(self) -> str:
        """Where the client finds it."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        proxy = self.server
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        proxy.requests.append(f"{self.command} {self.path}")
        given = self.headers.get("Authorization", "")
        if proxy.token is not None and given != f"Bearer {proxy.token}":
            said = f"Invalid credentials {given}" if proxy.echo else "Repository not found"
            headers = {"x-error-code": "RepoNotFound", "x-error-message": said}
            self._send(401, headers, b'{"error": "%s"}' % said.encode())
        elif answer := next((a for part, a in proxy.answers.items() if part in self.path), None):
            self._send(answer[0], {"x-error-code": answer[1]}, b"")
        else:
            self._pass_on(weights=self.command == "GET" and self.path.endswith(".safetensors"))

    def _pass_on(self, *, weights: bool) -> None:
        proxy = self.server
        if weights and proxy.refuses and not proxy.drops:
            self.close_connection = True
            return
        request = urllib.request.Request(
            proxy.upstream + self.path,
            data=self._body or None,
            headers={"Content-Type": self.headers.get("Content-Type", "")},
            method=self.command,
        )
        try:
            answer = urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            body = answer.read()
            headers = {k: v for k in _PASSED_ON if (v := answer.headers[k]) is not None}
            length = answer.headers["content-length"] if self.command == "HEAD" else None
            broken = weights and proxy.drops > 0
            self._send(answer.status, headers, body, length=length, broken=broken)
        proxy.drops -= broken

    def _send(
        self,
        status: int,
        headers: dict[str, str],
        body: bytes,
        *,
        length: str | None = None,
        broken: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if broken else body)
        self.close_connection = self.close_connection or broken


@contextlib.contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    """Run a proxy in this process.

    Args:
        upstream: Endpoint of the server that it passes requests on to.
    """
    with FaultyProxy(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
