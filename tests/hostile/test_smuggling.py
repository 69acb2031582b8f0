"""Does every shape that two servers could read in two ways end with the documented answer or a closed connection?

The shapes follow the published lists: RFC 9112, sections 6.1, 7.1 and 11.2; Linhart et al. 2005; Kettle 2019; and the
tables of differences between parsers since. Behind each of them comes a canary, which creates a task with a title of
its own: it may be served as it is or not at all, and none of the shapes' own bodies may ever become a request.
"""

import pytest
from hostile.test_paths import connected, raw
from hostile.test_rude_clients import everything
from people import User

BODY = b'{"title":"shape"}'
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKS = b"11\r\n" + BODY + b"\r\n0\r\n\r\n"
TE = b"Transfer-Encoding: chunked"


def lines(*headers: bytes, body: bytes = BODY) -> bytes:
    return b"\r\n".join([b"POST TASKS HTTP/1.1", b"Host: x", b"Authorization: Bearer TOKEN", *headers, b"", b""]) + body


def start(line: bytes) -> bytes:
    return line + b"\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\n" + LENGTH + b"\r\n\r\n" + BODY


REFUSED = {
    # a length and chunks
    "CL.TE": lines(LENGTH, TE, body=CHUNKS),
    "TE.CL": lines(TE, LENGTH, body=CHUNKS),
    "CL 0 and TE": lines(b"Content-Length: 0", TE, body=CHUNKS),
    "TE and CL 0": lines(TE, b"Content-Length: 0", body=CHUNKS),
    "CL and TE identity": lines(LENGTH, b"Transfer-Encoding: identity"),
    "CL and TE unknown": lines(LENGTH, b"Transfer-Encoding: x"),
    "CL and TE in capitals": lines(LENGTH, b"TRANSFER-ENCODING: CHUNKED", body=CHUNKS),
    # lengths
    "two equal lengths": lines(LENGTH, LENGTH),
    "two lengths": lines(LENGTH, b"Content-Length: 0"),
    "two lengths, the short one first": lines(b"Content-Length: 0", LENGTH),
    "a list of lengths": lines(LENGTH + b", 17"),
    "a list of different lengths": lines(LENGTH + b", 0"),
    "a negative length": lines(b"Content-Length: -17"),
    "a length with a plus": lines(b"Content-Length: +17"),
    "a length in hexadecimal": lines(b"Content-Length: 0x11"),
    "a length with a letter": lines(b"Content-Length: 17a"),
    "a length with a point": lines(b"Content-Length: 17.0"),
    "a length with an exponent": lines(b"Content-Length: 1e1"),
    "a length with an underscore": lines(b"Content-Length: 1_7"),
    "a length with a blank inside": lines(b"Content-Length: 1 7"),
    "a quoted length": lines(b'Content-Length: "17"'),
    "a length beyond 64 bits": lines(b"Content-Length: 18446744073709551633"),
    "no length": lines(b"Content-Length:"),
    "a length in other digits": lines("Content-Length: \u0661\u0667".encode()),
    # codings
    "TE chunked, identity": lines(b"Transfer-Encoding: chunked, identity", body=CHUNKS),
    "TE twice, chunked first": lines(TE, b"Transfer-Encoding: identity", body=CHUNKS),
    "TE chunked, chunked": lines(b"Transfer-Encoding: chunked, chunked", body=CHUNKS),
    "TE twice chunked": lines(TE, TE, body=CHUNKS),
    "TE identity": lines(b"Transfer-Encoding: identity", body=CHUNKS),
    "TE gzip": lines(b"Transfer-Encoding: gzip", body=CHUNKS),
    "TE gzip, chunked": lines(b"Transfer-Encoding: gzip, chunked", body=CHUNKS),
    "TE twice, gzip first": lines(b"Transfer-Encoding: gzip", TE, body=CHUNKS),
    "TE xchunked": lines(b"Transfer-Encoding: xchunked", body=CHUNKS),
    "TE chunkedx": lines(b"Transfer-Encoding: chunkedx", body=CHUNKS),
    "TE quoted": lines(b'Transfer-Encoding: "chunked"', body=CHUNKS),
    "TE behind a vertical tab": lines(b"Transfer-Encoding: \x0bchunked", body=CHUNKS),
    "TE before a NUL": lines(b"Transfer-Encoding: chunked\0", body=CHUNKS),
    "TE with a parameter": lines(b"Transfer-Encoding: chunked;q=1", body=CHUNKS),
    "TE empty": lines(b"Transfer-Encoding:", body=CHUNKS),
    # names and line ends
    "a blank before the colon": lines(b"Transfer-Encoding : chunked", body=CHUNKS),
    "a tab before the colon": lines(b"Content-Length\t: 17"),
    "a blank before the name": lines(b" Transfer-Encoding: chunked", body=CHUNKS),
    "a folded value": lines(b"Transfer-Encoding:\r\n chunked", body=CHUNKS),
    "a folded value behind a tab": lines(b"X: y\r\n\tTransfer-Encoding: chunked", body=CHUNKS),
    "a bare LF between headers": lines(b"X: y\nTransfer-Encoding: chunked", body=CHUNKS),
    "a bare CR between headers": lines(b"X: y\rTransfer-Encoding: chunked", body=CHUNKS),
    "bare LFs alone": lines(LENGTH).replace(b"\r\n", b"\n"),
    "a bare LF at the end of the head": lines(LENGTH).replace(b"\r\n\r\n", b"\n\n"),
    "CR CR LF": lines(b"X: y\r", LENGTH),
    "a NUL in a name": lines(b"Content\0-Length: 17"),
    "a NUL in a value": lines(b"X: \0", LENGTH),
    "no colon": lines(b"X", LENGTH),
    "no name": lines(b": y", LENGTH),
    "a control character in a name": lines(b"X\x01: y", LENGTH),
    "a bracket in a name": lines(b"X[: y", LENGTH),
    "a letter that is not ASCII in a name": lines("Contént-Length: 17".encode()),
    # chunks
    "a chunk of no length": lines(TE, body=b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk of a negative length": lines(TE, body=b"-11\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk with a plus": lines(TE, body=b"+11\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk with 0x": lines(TE, body=b"0x11\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk with a blank in front": lines(TE, body=b" 11\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk with a blank behind": lines(TE, body=b"11 \r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk beyond 64 bits": lines(TE, body=b"10000000000000011\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk that is too short": lines(TE, body=b"10\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk with an underscore": lines(TE, body=b"1_1\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk length before a bare LF": lines(TE, body=b"11\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk before a bare LF": lines(TE, body=b"11\r\n" + BODY + b"\n0\r\n\r\n"),
    "a chunk before nothing": lines(TE, body=b"11\r\n" + BODY + b"0\r\n\r\n"),
    "an extension with a bare LF": lines(TE, body=b"11;x\n" + BODY + b"\r\n0\r\n\r\n"),
    "an extension with a bare CR": lines(TE, body=b"11;x\ry\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "the last chunk before a bare LF": lines(TE, body=b"11\r\n" + BODY + b"\r\n0\n\n"),
    "a trailer without a colon": lines(TE, body=b"11\r\n" + BODY + b"\r\n0\r\nX\r\n\r\n"),
    "a trailer that would be a length": lines(TE, body=CHUNKS[:-2] + b"Content-Length: 99\r\n\r\n"),
    "a trailer that would be a coding": lines(TE, body=CHUNKS[:-2] + TE + b"\r\n\r\n"),
    # hosts
    "two hosts": lines(b"Host: y", LENGTH),
    "two equal hosts": lines(b"Host: x", LENGTH),
    "no host": lines(LENGTH).replace(b"Host: x\r\n", b""),
    "a host folded away": lines(b"X: y\r\n Host: z", LENGTH),
    # the first line
    "HTTP/0.9": b"GET TASKS\r\n\r\n",
    "HTTP/0.9 with its number": start(b"POST TASKS HTTP/0.9"),
    "HTTP/1.2": start(b"POST TASKS HTTP/1.2"),
    "HTTP/2.0": start(b"POST TASKS HTTP/2.0"),
    "HTTP/1.10": start(b"POST TASKS HTTP/1.10"),
    "HTTP/01.1": start(b"POST TASKS HTTP/01.1"),
    "http/1.1": start(b"POST TASKS http/1.1"),
    "HTTP/1,1": start(b"POST TASKS HTTP/1,1"),
    "ICE/1.0": start(b"POST TASKS ICE/1.0"),
    "two blanks before the version": start(b"POST TASKS  HTTP/1.1 x"),
    "a tab before the target": start(b"POST\tTASKS HTTP/1.1"),
    "a blank behind the version": start(b"POST TASKS HTTP/1.1 "),
    "a blank before the method": start(b" POST TASKS HTTP/1.1"),
    "a blank in the target": start(b"POST TASKS x HTTP/1.1"),
    "a method of two": start(b"GET POST TASKS HTTP/1.1"),
    "a NUL in the target": start(b"POST TASKS\0 HTTP/1.1"),
    "a bare CR in the first line": start(b"POST TASKS\r HTTP/1.1"),
    "authority-form": start(b"POST evil.test:80 HTTP/1.1"),
}

SERVED = {
    "a length": lines(LENGTH),
    "a length with zeros": lines(b"Content-Length: 00017"),
    "a length and blanks": lines(b"Content-Length: \t 17 \t"),
    "chunks": lines(TE, body=CHUNKS),
    "chunks in capitals": lines(b"tRANSFER-eNCODING: CHUNKED", body=CHUNKS),
    "chunks behind a tab": lines(b"Transfer-Encoding:\tchunked", body=CHUNKS),
    "a chunk in capitals and with zeros": lines(TE, body=b"0000011\r\n" + BODY + b"\r\n000\r\n\r\n"),
    "an extension": lines(TE, body=b'11;a=b;c="d"\r\n' + BODY + b"\r\n0;x\r\n\r\n"),
    "a trailer": lines(TE, body=CHUNKS[:-2] + b"Content-Type: text/html\r\n\r\n"),
    "absolute-form": start(b"POST http://evil.testTASKS HTTP/1.1"),
    "empty lines in front": b"\r\n\r\n" + lines(LENGTH),
    "an underscore in a name": lines(b"Content_Length: 0", LENGTH),
    "a length in another header": lines(b"X: Content-Length: 0", LENGTH),
}

LAST = {
    "HTTP/1.0": start(b"POST TASKS HTTP/1.0"),
    "HTTP/1.0 that would be kept": start(b"POST TASKS HTTP/1.0").replace(b"Host: x", b"Connection: keep-alive"),
    "HTTP/1.0 with chunks": lines(TE, body=CHUNKS).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "Connection: close": lines(b"Connection: close", LENGTH),
}


def told(base_url: str, user: User, shape: bytes) -> list[bytes]:
    """Send the shape and the canary, and return the status of each answer until the connection ends."""
    canary = raw(user, "POST", user.tasks, "Connection: close", "Content-Length: 18", body=b'{"title":"canary"}')
    request = shape.replace(b"TASKS", user.tasks.encode()).replace(b"TOKEN", user.token.encode())
    with connected(base_url) as wire:
        wire.sendall(request + canary)
        answer = everything(wire)
    return [each[:3] for each in answer.split(b"HTTP/1.1 ")[1:]]


def titles(user: User) -> list[str]:
    return [task["title"] for task in user.list()]


def test_there_are_enough_shapes() -> None:
    assert len({*REFUSED.values(), *SERVED.values(), *LAST.values()}) >= 100


@pytest.mark.spec("FR-023")
@pytest.mark.parametrize("shape", REFUSED.values(), ids=REFUSED)
def test_what_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_served(
    base_url: str, alice: User, shape: bytes
) -> None:
    assert told(base_url, alice, shape) == [b"400"]
    assert titles(alice) == []


@pytest.mark.spec("FR-023")
@pytest.mark.parametrize("shape", SERVED.values(), ids=SERVED)
def test_what_can_be_read_in_one_way_is_served_and_so_is_what_comes_behind_it(
    base_url: str, alice: User, shape: bytes
) -> None:
    assert told(base_url, alice, shape) == [b"201", b"201"]
    assert titles(alice) == ["canary", "shape"]


@pytest.mark.spec("FR-023")
@pytest.mark.parametrize("shape", LAST.values(), ids=LAST)
def test_nothing_is_served_behind_the_last_request(base_url: str, alice: User, shape: bytes) -> None:
    assert told(base_url, alice, shape) == [b"201"]
    assert titles(alice) == ["shape"]
