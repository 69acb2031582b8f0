"""Which bodies are read, which are refused, and is what is stored exactly what was sent?"""

import gzip
import json
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hostile.test_paths import WITH_BODY, answered, connected, exchange, raw, recorded
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from people import User, signed
from running import StatementLog

from backend.models import WHITE_SPACE

LIMIT = 65_536

# In these tables MARK becomes a random text, which no answer may contain.
RULES: dict[str, list[bytes]] = {
    "title": [
        b'{"title": null, "description": "MARK"}',
        b'{"title": "", "description": "MARK"}',
        b'{"title": "   ", "description": "MARK"}',
        b'{"title": "\\t\\n\\r\\u000b\\u00a0\\u2028", "description": "MARK"}',
        b'{"title": "MARK%s"}' % (b"x" * 169),
        b'{"title": "MARK%s"}' % (b"x" * 60_000),
        b'{"title": 12345678901234567}',
        b'{"title": -0.5}',
        b'{"title": true}',
        b'{"title": ["MARK"]}',
        b'{"title": {"MARK": "MARK"}}',
        b'{"title": "MARK\\u0000"}',
        b'{"title": "\\u0000MARK"}',
        b'{"title": "MARK", "title": ""}',
    ],
    "description": [
        b'{"title": "MARK", "description": "MARK%s"}' % (b"x" * 969),
        b'{"title": "MARK", "description": 5}',
        b'{"title": "MARK", "description": false}',
        b'{"title": "MARK", "description": ["MARK"]}',
        b'{"title": "MARK", "description": {"MARK": 1}}',
        b'{"title": "MARK", "description": "MARK\\u0000MARK"}',
    ],
    "completed": [
        b'{"title": "MARK", "completed": null}',
        b'{"title": "MARK", "completed": "yes"}',
        b'{"title": "MARK", "completed": "true"}',
        b'{"title": "MARK", "completed": "MARK"}',
        b'{"title": "MARK", "completed": ""}',
        b'{"title": "MARK", "completed": 1}',
        b'{"title": "MARK", "completed": 0}',
        b'{"title": "MARK", "completed": 1.0}',
        b'{"title": "MARK", "completed": [true]}',
        b'{"title": "MARK", "completed": {"MARK": true}}',
    ],
}

# What JSON or PostgreSQL cannot carry, as the value of a field.
UNSTORABLE = {
    "1e400": b"1e400",
    "-1e400": b"-1e400",
    "5,000 digits": b"9" * 5_000,
    "5,000 decimals": b"0." + b"3" * 5_000,
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "nan": b"nan",
    "a high surrogate, escaped": b'"MARK\\ud800"',
    "a low surrogate, escaped": b'"\\udfffMARK"',
    "surrogates in the wrong order": b'"\\udc00\\ud800MARK"',
    "a surrogate, encoded": b'"MARK\xed\xa0\x80"',
    "a byte that is no UTF-8": b'"MARK\xff"',
    "an overlong NUL": b'"MARK\xc0\x80"',
    "a letter cut in half": b'"MARK\xc3"',
    "above U+10FFFF": b'"MARK\xf4\x90\x80\x80"',
    "an unescaped line feed": b'"MARK\n"',
    "an unescaped NUL": b'"MARK\0"',
    "1,000 lists": b"[" * 1_000 + b"]" * 1_000,
    "1,000 objects": b'{"MARK":' * 1_000 + b"1" + b"}" * 1_000,
    "30,000 lists": b"[" * 30_000 + b"]" * 30_000,
    "30,000 open lists": b"[" * 30_000,
    "100,000 lists": b"[" * 100_000 + b"]" * 100_000,
}

NOT_AN_OBJECT = {
    "nothing": (400, b""),
    "white space": (400, b" \r\n\t"),
    "an array": (422, b'[{"title": "MARK"}]'),
    "an empty array": (422, b"[]"),
    "null": (422, b"null"),
    "true": (422, b"true"),
    "a number": (422, b"1"),
    "a text": (422, b'"MARK"'),
    "a word": (400, b"MARK"),
    "an open object": (400, b'{"title": "MARK"'),
    "an open text": (400, b'{"title": "MARK'),
    "a comma too many": (400, b'{"title": "MARK",}'),
    "single quotes": (400, b"{'title': 'MARK'}"),
    "a key without quotes": (400, b'{title: "MARK"}'),
    "a comment": (400, b'{"title": "MARK" /* MARK */}'),
    "two documents": (400, b'{"title": "MARK"}{"title": "MARK"}'),
    "lines of documents": (400, b'{"title": "MARK"}\n{"title": "MARK"}'),
    "NUL behind the object": (400, b'{"title": "MARK"}\0'),
    "JavaScript's prefix": (400, b')]}\',\n{"title": "MARK"}'),
    "a form": (400, b"title=MARK"),
    "XML": (400, b'<?xml version="1.0"?><title>MARK</title>'),
    "XML with an entity": (400, b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><title>&b;MARK</title>'),
    "UTF-16": (400, '{"title": "MARK"}'.encode("utf-16-le")),
    "UTF-16 with its mark": (400, '{"title": "MARK"}'.encode("utf-16")),
    "UTF-32": (400, '{"title": "MARK"}'.encode("utf-32")),
    "UTF-7": (400, b"+AHs-MARK+AH0-"),
    "MessagePack": (400, b"\x81\xa5title\xa4MARK"),
    "YAML": (400, b"title: MARK"),
    "gzip": (400, gzip.compress(b'{"title": "MARK"}')),
    "zeros": (400, bytes(60_000)),
}


CREATE = ("POST", "")


def sent(base_url: str, user: User, body: bytes, *lines: str, operation: tuple[str, str] = CREATE) -> httpx.Response:
    """Send a body with its length; a PUT goes to the user's newest task."""
    method, path = operation
    target = user.tasks if not path else f"{user.tasks}/{user.list()[0]['id']}"
    return exchange(base_url, raw(user, method, target, f"Content-Length: {len(body)}", *lines, body=body))


def marked(body: bytes) -> tuple[bytes, str]:
    marker = uuid4().hex
    return body.replace(b"MARK", marker.encode()), marker


def problem(answer: httpx.Response, marker: str) -> dict[str, Any]:
    """Return the answer's content, which must have the one form of all refusals and echo nothing."""
    content: dict[str, Any] = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert isinstance(content["detail"], str)
    assert content["detail"]
    assert set(content) == ({"detail", "errors"} if answer.status_code in {400, 422} else {"detail"})
    for error in content.get("errors", []):
        assert set(error) == {"loc", "msg", "type"}
        assert {type(error["msg"]), type(error["type"])} == {str}
    assert marker not in f"{answer.headers} {answer.text}"
    return content


@pytest.mark.spec("US1.5", "US3.10", "FR-007", "FR-008", "FR-015", "SC-008", "EC-3")
@pytest.mark.parametrize("operation", WITH_BODY, ids=["POST", "PUT"])
@pytest.mark.parametrize(
    ("field", "body"),
    [pytest.param(field, body, id=body[:50].decode()) for field, bodies in RULES.items() for body in bodies],
)
def test_a_broken_rule_is_a_sentence_that_names_the_field(
    base_url: str, alice: User, operation: tuple[str, str], field: str, body: bytes
) -> None:
    before = [alice.add("Untouched", description="As it was")]
    text, marker = marked(body)

    answer = sent(base_url, alice, text, operation=operation)

    assert answer.status_code == 422
    content = problem(answer, marker)
    assert content["detail"].startswith(f"{field.capitalize()} ")
    assert {tuple(error["loc"][:2]) for error in content["errors"]} == {("body", field)}
    assert alice.list() == before


@pytest.mark.spec("EC-2", "US1.5")
@pytest.mark.parametrize("body", [b"{}", b'{"description": "MARK"}', b'{"Title": "MARK"}', b'{"title ": "MARK"}'])
def test_a_missing_title_is_named(base_url: str, alice: User, body: bytes) -> None:
    text, marker = marked(body)

    answer = sent(base_url, alice, text)

    assert answer.status_code == 422
    assert problem(answer, marker)["detail"] == "Title is required."
    assert alice.list() == []


@pytest.mark.spec("SC-008")
def test_every_broken_rule_is_listed_and_the_first_one_told(base_url: str, alice: User) -> None:
    answer = sent(base_url, alice, b'{"title": "", "description": 1, "completed": "no"}')

    content = problem(answer, "no marker")
    assert [error["loc"] for error in content["errors"]] == [["body", field] for field in RULES]
    assert content["detail"].lower() == f"{content['errors'][0]['msg']}.".lower()


@pytest.mark.spec("US1.10", "FR-015", "EC-3")
@pytest.mark.parametrize("operation", WITH_BODY, ids=["POST", "PUT"])
@pytest.mark.parametrize("value", UNSTORABLE.values(), ids=UNSTORABLE)
def test_what_cannot_be_stored_is_refused_in_every_known_field(
    base_url: str, alice: User, operation: tuple[str, str], value: bytes
) -> None:
    before = [alice.add("Untouched")]
    value, marker = marked(value)
    bodies = [
        b'{"title": %s}' % value,
        b'{"title": "x", "description": %s}' % value,
        b'{"title": "x", "completed": %s}' % value,
    ]

    answers = [sent(base_url, alice, body, operation=operation) for body in bodies]

    for body, answer in zip(bodies, answers, strict=True):
        assert answer.status_code in ({413} if len(body) > LIMIT else {400, 422})
        problem(answer, marker)
    assert alice.list() == before


@pytest.mark.spec("FR-014", "FR-015", "US1.7")
@pytest.mark.parametrize("operation", WITH_BODY, ids=["POST", "PUT"])
@pytest.mark.parametrize("value", [*UNSTORABLE.values(), b'"MARK\\u0000"'], ids=[*UNSTORABLE, "an escaped NUL"])
def test_elsewhere_it_is_ignored_or_refused(
    base_url: str, alice: User, operation: tuple[str, str], value: bytes
) -> None:
    alice.add("Before")
    value, marker = marked(value)
    bodies = [
        b'{"title": "After", "no_such_field": %s}' % value,
        b'{"no_such_field": [{"x": %s}], "title": "After"}' % value,
    ]
    if value.startswith(b'"'):
        bodies += [b'{"title": "After", %s: 1}' % value, b'{"title": "After", "x": {%s: 1}}' % value]

    for body in bodies:
        answer = sent(base_url, alice, body, operation=operation)

        if answer.status_code in {200, 201}:
            assert answer.json() == alice.list()[0]
            assert answer.json()["title"] == "After"
            assert marker not in answer.text
        else:
            assert answer.status_code in ({413} if len(body) > LIMIT else {400, 422})
            problem(answer, marker)


@pytest.mark.spec("US1.10", "FR-015")
@pytest.mark.parametrize("operation", WITH_BODY, ids=["POST", "PUT"])
@pytest.mark.parametrize(("status", "body"), NOT_AN_OBJECT.values(), ids=NOT_AN_OBJECT)
def test_a_body_that_is_no_json_object_is_refused(
    base_url: str, alice: User, operation: tuple[str, str], status: int, body: bytes
) -> None:
    before = [alice.add("Untouched")]
    text, marker = marked(body)

    answer = sent(base_url, alice, text, operation=operation)

    assert answer.status_code == status
    assert [error["loc"] for error in problem(answer, marker)["errors"]] == [["body"]]
    assert alice.list() == before


@pytest.mark.spec("US1.10", "US1.9")
@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"title": "first"}',
        b'{"title": "first", "title": "second"}',
        b'{"title": "first", "t\\u0069tle": "second"}',
        b'{"title": "first", "title": 2}',
        b'{"title": 1, "title": "second"}',
        b'{"title": "", "title": "second"}',
        b'{"title": "first", "title": null}',
        b'{"title": "first", "title": "%s"}' % (b"x" * 201),
        b'{"title": "%s", "title": "second"}' % (b"x" * 201),
        b'{"title": "first", "completed": false, "completed": "yes"}',
        b'{"title": "first", "description": "d", "description": "\\u0000"}',
    ],
)
def test_of_an_ambiguous_body_what_is_checked_is_what_is_stored(base_url: str, alice: User, body: bytes) -> None:
    answer = sent(base_url, alice, body)

    if answer.status_code == 201:
        assert answer.json()["title"] in {"first", "second"}
        assert alice.list() == [answer.json()]
    else:
        assert answer.status_code in {400, 422}
        problem(answer, "x" * 201)
        assert alice.list() == []


def padded(size: int) -> bytes:
    body = b'{"title": "x", "pad": ""}'
    return body.replace(b'""', b'"%s"' % (b"p" * (size - len(body))))


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


@pytest.mark.spec("US1.11", "EC-3", "FR-015")
@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413), (2 * LIMIT, 413), (1_000_000, 413)])
@pytest.mark.parametrize("operation", WITH_BODY, ids=["POST", "PUT"])
@pytest.mark.parametrize("framing", ["announced", "one chunk", "chunks of 8 KiB", "chunks of 97 bytes"])
def test_a_body_of_64_kib_is_read_and_one_byte_more_refused(  # noqa: PLR0917 - three tables
    base_url: str, alice: User, operation: tuple[str, str], framing: str, size: int, status: int
) -> None:
    before = alice.add("Before")
    method, path = operation
    target = f"{alice.tasks}{path}".replace("{id}", str(before["id"]))
    body, length = padded(size), {"one chunk": size, "chunks of 8 KiB": 8_192, "chunks of 97 bytes": 97}.get(framing)
    content = chunked(body, length) + b"0\r\n\r\n" if length else body
    line = "Transfer-Encoding: chunked" if length else f"Content-Length: {size}"

    answer = exchange(base_url, raw(alice, method, target, line, body=content))

    assert answer.status_code == (201 if status == 200 and method == "POST" else status)
    if status == 413:
        assert answer.json() == {"detail": "The request body is too large."}
        assert alice.list() == [before]


@pytest.mark.spec("US1.11")
@pytest.mark.parametrize(
    "line", ["Transfer-Encoding: chunked", f"Content-Length: {10**15}"], ids=["chunks without an end", "10^15 bytes"]
)
def test_a_body_without_end_is_refused_as_soon_as_it_is_too_large(base_url: str, alice: User, line: str) -> None:
    body = padded(LIMIT + 1)
    content = chunked(body, 4_096) if "chunked" in line else body

    answer = exchange(base_url, raw(alice, "POST", alice.tasks, line, body=content))

    assert answer.status_code == 413
    assert alice.list() == []


OTHER_TYPES = [
    "text/plain", "text/html", "text/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
    "application/xml", "application/octet-stream", "application/json5", "application/jsonp", "application/x-json",
    "application/vnd.api+json", "application/json-patch+json", "application/merge-patch+json", "application/ld+json",
    "application/json, text/plain", "application/json text/plain", "application", "json", "*/*", "application/*", ";",
    "", "/", "application/json/x", "applicatio\xf1/json", "application /json", '"application/json"',
]  # fmt: skip


@pytest.mark.spec("US1.12", "FR-015")
@pytest.mark.parametrize("operation", WITH_BODY, ids=["POST", "PUT"])
@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_another_content_type_is_refused(base_url: str, alice: User, operation: tuple[str, str], kind: str) -> None:
    before = [alice.add("Untouched")]

    answer = sent(base_url, alice, b'{"title": "x"}', f"Content-Type: {kind}", operation=operation)

    assert (answer.status_code, answer.json()) == (415, {"detail": "The request body must be application/json."})
    assert alice.list() == before


@pytest.mark.spec("US1.12", "SC-005")
@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Content-Type: application/json"],
        ["content-type: APPLICATION/JSON"],
        ["Content-Type: application/json; charset=utf-8"],
        ["Content-Type: application/json;charset=UTF-8"],
        ["Content-Type: application/json ; x=y; "],
        ["Content-Type: application/json", "Content-Language: ar", "Content-Location: /x"],
    ],
    ids=str,
)
def test_json_and_nothing_at_all_are_read(base_url: str, alice: User, lines: list[str]) -> None:
    answer = sent(base_url, alice, '{"title": "Käse"}'.encode(), *lines)

    assert answer.status_code == 201
    assert answer.json()["title"] == "Käse"


@pytest.mark.spec("US1.10")
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "x-evil"])
def test_a_compressed_body_is_not_unpacked(base_url: str, alice: User, coding: str) -> None:
    bomb = gzip.compress(b'{"title": "x", "pad": "' + b"p" * 10_000_000 + b'"}')

    answer = sent(base_url, alice, bomb, f"Content-Encoding: {coding}", "Content-Type: application/json")

    assert answer.status_code in {400, 415}
    problem(answer, "pppp")
    assert alice.list() == []


@pytest.mark.spec("FR-015", "US1.13")
def test_a_client_that_asks_first_is_told_to_go_on_if_it_is_the_owner(base_url: str, alice: User, bob: User) -> None:
    lines = ("Expect: 100-continue", "Content-Length: 14")

    with connected(base_url) as wire:
        wire.sendall(raw(alice, "POST", alice.tasks, *lines))
        owner = wire.recv(25)
        wire.sendall(b'{"title": "x"}')
        created = answered(wire)
    with connected(base_url) as wire:
        wire.sendall(raw(bob, "POST", alice.tasks, *lines))
        stranger = wire.recv(25)

    assert owner == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert created.status_code == 201
    assert stranger.startswith(b"HTTP/1.1 403 ")


@pytest.mark.spec("US1.1")
def test_a_body_may_come_byte_by_byte(base_url: str, alice: User) -> None:
    body = '{"title": "Zoë 😀"}'.encode()

    with connected(base_url) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.sendall(raw(alice, "POST", alice.tasks, f"Content-Length: {len(body)}"))
        for byte in body:
            wire.sendall(bytes([byte]))
            time.sleep(0.002)
        answer = answered(wire)

    assert answer.status_code == 201
    assert answer.json()["title"] == "Zoë 😀"


@pytest.mark.spec("EC-1", "FR-004")
@pytest.mark.parametrize(
    ("method", "body", "before"),
    [("POST", b'{"title": "x"}', 0), ("PUT", b'{"title": "x"}', 13), ("POST", b'{"title": null}', 1)],
    ids=["a task that comes late", "a change whose last byte comes late", "a task that breaks a rule"],
)
def test_a_token_that_expires_while_the_body_comes_is_answered_401(
    base_url: str, alice: User, method: str, body: bytes, before: int
) -> None:
    target = alice.tasks if method == "POST" else f"{alice.tasks}/{alice.add()['id']}"
    stored, expires = alice.list(), time.time() + 1
    token = f"Authorization: Bearer {signed(alice.id, exp=expires)}"

    with recorded() as lines, connected(base_url) as wire:
        wire.sendall(raw(None, method, target, token, f"Content-Length: {len(body)}", body=body[:before]))
        while time.time() <= expires:
            time.sleep(0.01)
        wire.sendall(body[before:])
        answer = answered(wire)

    assert (answer.status_code, answer.json()) == (401, {"detail": "The access token has expired."})
    assert 'error_description="The access token expired"' in answer.headers["www-authenticate"]
    assert any("reason=expired" in line for line in lines)
    assert alice.list() == stored


@pytest.mark.parametrize("farewell", ["closed", "half closed", "reset"])
@pytest.mark.parametrize("line", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("begun", [b"", b"1", b'd\r\n{"title":"x"}\r\n'], ids=["no byte", "one byte", "a chunk"])
def test_a_client_that_leaves_in_the_middle_of_a_body_does_no_harm(  # noqa: PLR0917 - three tables
    base_url: str, alice: User, statement_log: StatementLog, farewell: str, line: str, begun: bytes
) -> None:
    statement_log.new()

    with recorded() as lines:
        with connected(base_url) as wire:
            wire.sendall(raw(alice, "POST", alice.tasks, line, body=begun))
            time.sleep(0.02)
            if farewell == "reset":
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif farewell == "half closed":
                wire.shutdown(socket.SHUT_WR)
                assert wire.recv(1_024) == b""
        deadline = time.monotonic() + 5
        while not any("client gone" in each for each in lines) and time.monotonic() < deadline:
            time.sleep(0.005)

    assert [each for each in lines if "ERROR" in each or "Traceback" in each] == []
    assert [each.split(" ", 2)[2] for each in lines if "client gone" in each] == [f"client gone POST {alice.tasks}"]
    assert statement_log.new() == []
    assert alice.list() == []


TEXTS = {
    "blanks at both ends": "  \t milk \n ",
    "a line feed": "milk\nbread\r\neggs",
    "every control but NUL": "".join(map(chr, [*range(1, 32), *range(127, 160)])),
    "an information separator alone": "\x1c",
    "a zero-width space alone": "\u200b",
    "a byte-order mark alone": "\ufeff",
    "a Mongolian vowel separator alone": "\u180e",
    "a Braille blank alone": "\u2800",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪",
    "combining characters": "Z\u0351\u036b\u0343a\u0300\u0301e\u0301",
    "composed and decomposed": "\u00e9 e\u0301 \ufb01 \u212b",
    "right to left": "\u202e\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd\u202c",
    "line separators": "a\u2028b\u2029c\x85d",
    "non-characters": "\ufffe\uffff\U0010ffff\ufdd0",
    "private use": "\ue000\U000f0000",
    "the replacement character": "\ufffd",
    "SQL": "'; DROP TABLE task; --",
    "SQL parameters": "$1 $2 %s %(title)s :title ? \\' E'\\x41'",
    "HTML": "<script>alert(1)</script>&amp;&#x3C;",
    "a template": "{{7*7}} ${7*7} #{7*7} <%= 7*7 %>",
    "JSON": '{"title": "x"} \\" \\\\ \\u0041 \\n',
    "a path": "../../etc/passwd%00%2e%2e",
    "words that mean something elsewhere": "null",
    "a number": "0123",
    "a log line": "x\n2026-01-01T00:00:00.000Z WARNING refused",
}


@pytest.mark.spec("US1.9", "FR-007", "FR-008", "FR-013")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_is_stored_and_returned_exactly_as_sent(alice: User, text: str) -> None:
    created = alice.add(text, description=text)
    path = f"{alice.tasks}/{created['id']}"

    updated = alice.http.put(path, json={"title": f"{text}.", "description": f"{text}\n"}).json()

    assert (created["title"], created["description"]) == (text, text)
    assert (updated["title"], updated["description"]) == (f"{text}.", f"{text}\n")
    assert alice.list() == [updated]


characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
titles = st.text(characters, min_size=1, max_size=200).filter(lambda text: text.strip(WHITE_SPACE) != "")
descriptions = st.none() | st.text(characters, max_size=1_000)
quoted = st.text(st.characters(exclude_categories=["Cs"]), max_size=300).map(lambda text: f'{{"title":"{text}"}}')


@pytest.fixture(scope="module")
def author(base_url: str) -> Iterator[User]:
    user = User(base_url)
    with user.http:
        yield user


@pytest.mark.spec("US1.9", "FR-007", "FR-008")
@hypothesis_settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(title=titles, description=descriptions, escaped=st.booleans())
@example(title="\U0010ffff" * 200, description="\U0001f600" * 1_000, escaped=True)
@example(title="\x01", description="", escaped=False)
def test_any_text_is_stored_and_returned_exactly_as_sent(
    author: User, title: str, description: str | None, *, escaped: bool
) -> None:
    body = json.dumps({"title": title, "description": description}, ensure_ascii=escaped)

    created = author.http.post(author.tasks, content=body.encode())
    read = author.http.get(f"{author.tasks}/{created.json().get('id')}")

    assert created.status_code == 201, created.text
    assert (created.json()["title"], created.json()["description"]) == (title, description)
    assert read.json() == created.json()


@pytest.mark.spec("US1.10", "FR-015")
@hypothesis_settings(max_examples=120, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=st.binary(max_size=200) | quoted.map(str.encode))
def test_any_bytes_get_an_answer_of_the_one_form(author: User, body: bytes) -> None:
    before = author.list()

    answer = author.http.post(author.tasks, content=body, headers={"Content-Type": "application/json"})

    if answer.status_code == 201:
        assert author.list() == [answer.json(), *before]
    else:
        assert answer.status_code in {400, 422}
        problem(answer, "no marker")
        assert author.list() == before


LETTERS = {"ASCII": "x", "Latin": "é", "Han": "漢", "astral": "😀", "combining": "\u0301", "line feeds": "a\n"}


@pytest.mark.spec("FR-007", "FR-008", "EC-3")
@pytest.mark.parametrize("escaped", [False, True], ids=["as it is", "escaped"])
@pytest.mark.parametrize("letter", LETTERS)
def test_lengths_count_code_points(alice: User, letter: str, *, escaped: bool) -> None:
    text = LETTERS[letter] * 1_001
    sizes = [(200, 1_000), (201, 0), (1, 1_001)]
    bodies = [json.dumps({"title": text[:a], "description": text[:b]}, ensure_ascii=escaped) for a, b in sizes]

    fits, title, description = (alice.http.post(alice.tasks, content=body.encode()) for body in bodies)

    assert fits.status_code == 201
    assert (fits.json()["title"], fits.json()["description"]) == (text[:200], text[:1_000])
    assert (title.status_code, title.json()["errors"][0]["loc"]) == (422, ["body", "title"])
    assert (description.status_code, description.json()["errors"][0]["loc"]) == (422, ["body", "description"])
    assert alice.list() == [fits.json()]


@pytest.mark.spec("FR-007", "US1.5")
@pytest.mark.parametrize("blank", WHITE_SPACE, ids=[f"U+{ord(blank):04X}" for blank in WHITE_SPACE])
def test_a_title_of_white_space_is_empty(alice: User, blank: str) -> None:
    answers = [alice.http.post(alice.tasks, json={"title": blank * count}) for count in (1, 200)]

    assert [answer.status_code for answer in answers] == [422, 422]
    assert {answer.json()["detail"] for answer in answers} == {"Title should not be blank."}
    assert alice.list() == []


@pytest.mark.spec("US1.6", "US1.7", "US3.8", "FR-014")
@pytest.mark.parametrize(
    "fields",
    [
        {"id": 1, "user_id": "bob", "created_at": "2000-01-01T00:00:00Z", "updated_at": None},
        {"id": "x" * 1_000, "user_id": 7, "created_at": [], "updated_at": {}},
        {"no_such_field": "high", "no_such_list": ["a"], "no_such_date": None, "": "", "task": {"title": "inner"}},
        {"__class__": 1, "__proto__": {"completed": True}, "constructor": 1, "model_config": {}, "self": 1, "cls": 1},
        {"model_fields_set": ["completed"], "metadata": 1, "registry": 1, "Completed": True, "COMPLETED": True},
        {f"field {number}": number for number in range(3_000)},
    ],
    ids=lambda fields: ", ".join(fields)[:40],
)
def test_fields_that_are_not_the_clients_are_ignored(alice: User, bob: User, fields: dict[str, Any]) -> None:
    created = alice.http.post(alice.tasks, json={"title": "Milk"} | fields).json()

    updated = alice.http.put(f"{alice.tasks}/{created['id']}", json=fields).json()

    assert set(created) == {"id", "user_id", "title", "description", "completed", "created_at", "updated_at"}
    assert (created["user_id"], created["title"], created["completed"]) == (alice.id, "Milk", False)
    assert updated == created
    assert (alice.list(), bob.list()) == ([created], [])
