"""How does an answer look on the wire?"""

from http import HTTPStatus
from random import getrandbits

import orjson

from backend.errors import Problem
from backend.web.headers import Headers, described

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
CLOSE = (b"connection", b"close")
CHUNKED = (b"transfer-encoding", b"chunked")
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}


def head(status: int, date: bytes, headers: Headers) -> bytes:
    """Return the head of an answer; raises ValueError if a header holds a line break, which would inject another."""
    lines = [STATUS_LINES[status], b"date: " + date, *map(b": ".join, headers), b"\r\n"]
    written = b"\r\n".join(lines)
    if written.count(b"\n") != len(lines) or written.count(b"\r") != len(lines):
        raise ValueError("A header of the answer holds a line break.")
    return written


def chunk(body: bytes) -> bytes:
    """Return a chunk of a chunked body (RFC 9112, 7.1); none for no bytes, because an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""


def refusal(problem: Problem, date: bytes) -> tuple[str, bytes]:
    """Return the id and the bytes of the answer to something that is no valid request; the connection ends with it."""
    request_id = f"{getrandbits(128):032x}"
    body = orjson.dumps(problem.content)
    told = [(b"x-request-id", request_id.encode()), (b"vary", b"Origin"), CLOSE]
    return request_id, head(problem.status, date, [*described(body), *told]) + body
