"""How do the bytes that a client sends become a request?"""

from typing import TYPE_CHECKING
from urllib.parse import unquote

import httptools

from backend.errors import BadRequest, HeadTooLarge, Problem

if TYPE_CHECKING:
    from backend.server.protocol import HttpConnection

# `feed` must be called with no more than this at once: all requests that are pipelined in it are kept in memory.
SLICE = 4_096


class RequestParser:
    """Parses with httptools, and also refuses what two servers could read in two ways."""

    def __init__(self, connection: "HttpConnection", head_limit: int) -> None:
        self._connection = connection
        self._head_limit = head_limit
        self._parser = httptools.HttpRequestParser(self)
        self._problem: Problem = BadRequest("it is not valid HTTP")
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._overhead = 0  # bytes since the last head or piece of a body was complete

    def feed(self, data: bytes) -> bytes:
        """Parse, and return what was not parsed: what follows a request for an upgrade. Raises Problem."""
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._parser.get_method() != b"CONNECT":
                self._parse_without_upgrade()
            return data[upgrade.args[0] :]
        except httptools.HttpParserError:
            raise self._problem from None
        if self._overhead > self._head_limit:
            raise HeadTooLarge("its head is too large")
        return b""

    def close(self) -> None:
        """Break the reference cycles."""
        del self._parser, self._connection

    def on_message_begin(self) -> None:
        self._url, self._headers = b"", []
        self._connection.on_head_begun()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        version = self._parser.get_http_version()
        self._check_head(version)
        method, upgrade = self._parser.get_method(), self._parser.should_upgrade()
        if upgrade and method != b"CONNECT":
            return  # `feed` parses it again
        path, query = self._target()
        text = path.decode("ascii")
        request = {
            "http_version": version,
            "method": method.decode(),
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "headers": self._headers,
        }
        # `on_header` gets the trailers, too, which are no headers (RFC 9110, 6.5.1): into a list that nobody reads.
        self._headers, self._overhead = [], 0
        keep_alive = version == "1.1" and not upgrade and self._parser.should_keep_alive()
        self._connection.on_request(request, keep_alive=keep_alive)

    def on_body(self, body: bytes) -> None:
        self._overhead = 0
        self._connection.on_body(body)

    def on_message_complete(self) -> None:
        self._overhead = 0
        self._connection.on_request_complete()

    def _check_head(self, version: str) -> None:
        """Raise for a head that is too large, or that no server may accept (RFC 9112, 3.2)."""
        if self._overhead > self._head_limit - SLICE:
            size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers)
            if size > self._head_limit:
                self._problem = HeadTooLarge("its head is too large")
                raise self._problem
        names = [name for name, _ in self._headers]
        hosts = names.count(b"host")
        if version not in {"1.0", "1.1"} or hosts > 1 or (version == "1.1" and not hosts):
            raise self._problem
        if b"transfer-encoding" in names:
            codings = [value.lower() for name, value in self._headers if name == b"transfer-encoding"]
            if codings != [b"chunked"]:
                raise self._problem

    def _target(self) -> tuple[bytes, bytes]:
        if self._url.startswith(b"/") and b"#" not in self._url:
            path, _, query = self._url.partition(b"?")
            return path, query
        parsed = httptools.parse_url(self._url)
        return parsed.path or b"/", parsed.query or b""

    def _parse_without_upgrade(self) -> None:
        """Parse the head again without the upgrade to another protocol, which a server may ignore (RFC 9110, 7.8).

        Otherwise httptools would take everything that follows for that protocol.
        """
        version = self._parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self._parser.get_method(), self._url, version)]
        lines += [b"%b: %b" % header for header in self._headers if header[0] != b"upgrade"]
        self._parser, self._overhead = httptools.HttpRequestParser(self), 0
        self.feed(b"\r\n".join([*lines, b"\r\n"]))
