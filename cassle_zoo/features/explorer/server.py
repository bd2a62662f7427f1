"""A server of one page on loopback."""

import re
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cassle_zoo.common.errors import ConfigError

_LOCAL = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")


class PageServer(ThreadingHTTPServer):
    """A server of one page, for this machine only; call `serve_forever`.

    It answers requests for ``/`` that were made to a local address, no others, so that no other
    site can read the page through the browser.

    Attributes:
        page: The page, in HTML.
        server_port: The port.
    """

    page: str = ""

    def __init__(self, port: int = 0) -> None:
        """Take a port.

        Args:
            port: 0 takes a free one.

        Raises:
            ConfigError: It is in use, not allowed, or out of range.
        """
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"port {port} cannot be used: {str(error).rstrip('.')}. Pass another one, or 0 "
                "for any that is free."
            ) from error


class _Handler(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        if not _LOCAL.fullmatch(self.headers.get("Host", "")):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
        elif self.path.partition("?")[0] != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            content = self.server.page.encode("utf-8")
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(ConnectionError):  # the reader went away
                self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Stay silent."""
