"""Which paths and methods are there, in which order is a request judged, and what of the rest counts for nothing?"""

import http.client
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx
import pytest
from people import User, signed
from running import StatementLog

from backend.main import create_app
from backend.settings import Settings
from backend.telemetry.logs import READABLE, UtcFormatter

# Method and path, below the list of a user.
OPERATIONS = [
    ("GET", ""),
    ("POST", ""),
    ("GET", "/{id}"),
    ("PUT", "/{id}"),
    ("DELETE", "/{id}"),
    ("PATCH", "/{id}/complete"),
]
WITH_BODY = [("POST", ""), ("PUT", "/{id}")]


def exchange(base_url: str, request: bytes, *, method: str | None = None) -> httpx.Response:
    """Send these bytes as they are, and return the first answer; `method` is HEAD where no body will come."""
    with connected(base_url) as wire:
        wire.sendall(request)
        return answered(wire, method)


@contextmanager
def connected(base_url: str) -> Iterator[socket.socket]:
    address = urlsplit(base_url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as wire:
        yield wire


def answered(wire: socket.socket, method: str | None = None) -> httpx.Response:
    with http.client.HTTPResponse(wire, method=method) as response:
        response.begin()
        return httpx.Response(response.status, headers=response.getheaders(), content=response.read())


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Collect the lines that the application and its server log, in the form in which they are written."""
    lines: list[str] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    recorder = Recorder()
    recorder.setFormatter(UtcFormatter(READABLE.removesuffix(" request_id=%(request_id)s"), "%Y-%m-%dT%H:%M:%S"))
    loggers = [logging.getLogger(name) for name in ("backend", "uvicorn")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(recorder)
        logger.setLevel(logging.INFO)
    yield lines
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(recorder)
        logger.setLevel(level)


def raw(user: User | None, method: str, target: str, *lines: str, body: bytes = b"") -> bytes:
    """Return a request whose target no client library has tidied up."""
    token = [f"Authorization: Bearer {user.token}"] if user else []
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: test", *token, *lines, "\r\n"]).encode("latin-1") + body


IDS = {
    422: [
        "0", "-1", "-0", "00", "007", "1.5", "1.0", "1.", ".1", "1e3", "abc", "1a", "0x10", "0b1", "1_000", "1,000",
        "+1", "%2B1", "%201", "1%20", "%091", "1%0A", "%0A1", "1%0D", "1%00", "%00", "%0B1", "null", "undefined", "NaN",
        "Infinity", "true", "[1]", "1;2", "%EF%BC%91", "1%EF%BC%91", "%D9%A1", "1%D9%A2", "%E0%A5%A7", "%C2%B2",
        "%F0%9D%9F%8F", "%E2%91%A0",
        "1%E2%80%8B", "%EF%BB%BF1", "%FF", "%C0%80", "%", "%zz", "1%", "1'--", "1%20OR%201=1", "%2531", "..", "%2e%2e",
        str(2**63), str(2**63 + 1), str(2**64), str(2**64 + 1), "9" * 30, "9" * 5_000, "1" + "0" * 20_000,
    ],
    404: ["1" + "0" * 18, *(str(number) for number in (2**31 - 1, 2**31, 2**32, 2**32 + 1, 2**53, 2**63 - 1))],
}  # fmt: skip


@pytest.mark.spec("US6.6", "US6.7", "FR-015", "SC-008")
@pytest.mark.parametrize(
    ("status", "text"),
    [pytest.param(status, text, id=f"{status} {text[:24]}") for status, texts in IDS.items() for text in texts],
)
def test_an_id_is_a_plain_number_in_ascii_digits(base_url: str, alice: User, status: int, text: str) -> None:
    task = alice.add("Untouched")

    requests = [(method, alice.tasks + path.replace("{id}", text)) for method, path in OPERATIONS[2:]]

    answers = [exchange(base_url, raw(alice, *request, "Content-Length: 2", body=b"{}")) for request in requests]

    assert {answer.status_code for answer in answers} == {status}
    for answer in answers:
        content = answer.json()
        assert isinstance(content["detail"], str)
        if status == 422:
            assert content["detail"].startswith("Id ")
            assert [each["loc"] for each in content["errors"]] == [["path", "id"]]
            assert not {"input", "url"} & set(content["errors"][0])
        if len(text) > 6:
            assert text not in answer.text.replace(str(2**63 - 1), "")
    assert alice.list() == [task]


NOWHERE = [
    "/", "//", "/api", "/api/", "/api//tasks", "/API/{user}/tasks", "/api/{user}", "/api/{user}/", "/api/{user}/task",
    "/api/{user}/Tasks", "/api/{user}/TASKS", "/api/{user}//tasks", "//api/{user}/tasks", "/api/{user}/tasks//",
    "/api/{user}/tasks///", "/api/{user}/tasks//1", "/api/{user}/tasks/1//",
    "/api/{user}/tasks/1/complete/x", "/api/{user}/tasks/1/complete//", "/api/{user}/tasks/1/completed",
    "/api/{user}/tasks/1/Complete", "/api/{user}/tasks.json", "/api/{user}/tasks;v=1", "/api/{user}/tasks%00",
    "/api/{user}/tasks%0A", "/api/{user}/tasks%0D%0A", "/api/{user}/tasks%20", "/api/{user}/tasks/%0A/complete/%0A",
    "/api/{user}/tasks/1/complete%0A", "/api/{user}/tasks/1/complete/%0A", "/api/{user}/tasks\\1",
    "/api/./{user}/tasks", "/api/../api/{user}/tasks", "/api/{user}/./tasks", "/api/{user}/../{user}/tasks",
    "/api/{user}/tasks/../tasks",
    "/./api/{user}/tasks", "/x/../api/{user}/tasks", "/%2e/api/{user}/tasks", "/%2e%2e/api/{user}/tasks",
    "/api/{user}/%2e/tasks", "/api/{user}/%2e%2e/{user}/tasks", "/health/x", "/health%0A", "/health%00", "/HEALTH",
    "/healthz", "/metrics", "/admin", "/debug", "/.env", "/backend/.env", "/.git/config", "/favicon.ico", "/robots.txt",
    "/static/../main.py", "/%", "/%zz", "/%FF%FE", "/%C0%AF", "/%u0061pi", "/" + "a" * 20_000, "/a" * 10_000,
    "/api/{user}/tasks" + "/" * 20_000, "/%00" * 5_000, "http://evil.test/", "http://evil.test/x",
]  # fmt: skip


@pytest.mark.spec("FR-014", "FR-015", "FR-016")
@pytest.mark.parametrize("path", [pytest.param(path, id=path[:40]) for path in NOWHERE])
def test_an_unknown_path_is_not_found_with_or_without_a_token(base_url: str, alice: User, path: str) -> None:
    target = path.replace("{user}", alice.id)

    answers = [
        exchange(base_url, raw(user, method, target)) for user in (alice, None) for method in ("GET", "POST", "OPTIONS")
    ]

    for answer in answers:
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not found."})
        assert answer.headers["content-type"] == "application/json"
        assert "location" not in answer.headers


ENCODED_SLASHES = [
    "/api/{user}%2Ftasks", "/api%2F{user}/tasks", "/api%2F{user}%2Ftasks", "%2Fapi/{user}/tasks".replace("%", "/%", 1),
    "/api/{user}/tasks%2F", "/api/{user}/tasks%2F{id}", "/api/{user}/tasks%2f{id}", "/api/{user}/tasks/{id}%2F",
    "/api/{user}%2ftasks%2f{id}", "/api/{user}/tasks/{id}%2Fcomplete", "/health%2F",
]  # fmt: skip


@pytest.mark.spec("FR-003", "FR-014")
@pytest.mark.parametrize("path", ENCODED_SLASHES)
def test_an_encoded_slash_separates_nothing(base_url: str, alice: User, path: str) -> None:
    task = alice.add("Untouched")
    target = path.replace("{user}", alice.id).replace("{id}", str(task["id"]))

    answers = [exchange(base_url, raw(alice, method, target)) for method in ("GET", "PATCH", "DELETE")]

    assert [answer.status_code for answer in answers if not 400 <= answer.status_code < 500] == []
    assert alice.list() == [task]


NO_REQUESTS = {
    "no target": b"GET  HTTP/1.1",
    "a target without a slash": b"GET api/tasks HTTP/1.1",
    "a query alone": b"GET ?token=x HTTP/1.1",
    "a byte that is not ASCII": b"GET /api/caf\xe9/tasks HTTP/1.1",
    "unencoded UTF-8": "GET /api/café/tasks HTTP/1.1".encode(),
    "an unencoded blank": b"GET /api/a b/tasks HTTP/1.1",
    "an unencoded NUL": b"GET /api/a\0b/tasks HTTP/1.1",
    "an escape": b"GET /api/\x1b[31m/tasks HTTP/1.1",
    "an unknown method": b"BREW /api/a/tasks HTTP/1.1",
    "a method in lower case": b"get /api/a/tasks HTTP/1.1",
    "a method with a line feed": b"GE\nT /api/a/tasks HTTP/1.1",
    "CONNECT to another host": b"CONNECT evil.test:443 HTTP/1.1",
    "HTTP/9.9": b"GET /health HTTP/9.9",
    "TLS": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM",
}


@pytest.mark.spec("FR-016")
@pytest.mark.parametrize("line", NO_REQUESTS.values(), ids=NO_REQUESTS)
def test_what_is_no_request_gets_a_400_that_echoes_nothing(base_url: str, line: bytes) -> None:
    with recorded() as lines:
        answer = exchange(base_url, line + b"\r\nHost: test\r\n\r\n")

    assert (answer.status_code, answer.json()["detail"]) == (400, "The request is not valid HTTP.")
    assert [error["type"] for error in answer.json()["errors"]] == ["http_invalid"]
    assert answer.headers["connection"] == "close"
    assert [line for line in lines if "ERROR" in line or "Traceback" in line] == []


FRAMINGS = {
    "two lengths": ["Content-Length: 13", "Content-Length: 13"],
    "two different lengths": ["Content-Length: 13", "Content-Length: 0"],
    "a length and chunks": ["Content-Length: 13", "Transfer-Encoding: chunked"],
    "chunks and a length": ["Transfer-Encoding: chunked", "Content-Length: 13"],
    "a negative length": ["Content-Length: -13"],
    "a signed length": ["Content-Length: +13"],
    "a length in hexadecimal": ["Content-Length: 0xd"],
    "a list of lengths": ["Content-Length: 13, 13"],
    "a length beyond 64 bits": ["Content-Length: 99999999999999999999"],
    "an empty length": ["Content-Length:"],
    "chunks in a list that goes on": ["Transfer-Encoding: chunked, identity"],
    "chunks behind a vertical tab": ["Transfer-Encoding: \x0bchunked"],
}


@pytest.mark.parametrize("lines", FRAMINGS.values(), ids=FRAMINGS)
def test_a_body_of_two_possible_lengths_is_no_request(base_url: str, alice: User, lines: list[str]) -> None:
    answer = exchange(base_url, raw(alice, "POST", alice.tasks, *lines, body=b'{"title":"x"}'))

    assert answer.status_code == 400
    assert alice.list() == []


@pytest.mark.spec("FR-013", "FR-014")
@pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_body_of_an_upgrade_attempt_is_never_taken_for_a_request(
    base_url: str, alice: User, bob: User, upgrade: str, method: str
) -> None:
    task = bob.add("Bob's")
    hidden = raw(bob, "DELETE", f"{bob.tasks}/{task['id']}")
    lines = ("Connection: Upgrade", f"Upgrade: {upgrade}", f"Content-Length: {len(hidden)}")

    with connected(base_url) as wire:
        wire.sendall(raw(alice, method, alice.tasks, *lines))
        time.sleep(0.05)
        wire.sendall(hidden)
        first = answered(wire)
        time.sleep(0.05)

    assert first.status_code in {200, 400}
    assert bob.list() == [task]


@pytest.mark.spec("FR-014", "FR-015")
@pytest.mark.parametrize("path", ["/health", "/api/{user}/tasks", "/nowhere"])
def test_a_websocket_is_not_opened(base_url: str, alice: User, path: str) -> None:
    key = f"Sec-WebSocket-Key: {'A' * 22}=="
    lines = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key)

    answer = exchange(base_url, raw(alice, "GET", path.replace("{user}", alice.id), *lines))

    assert answer.status_code in {200, 404}
    assert "upgrade" not in answer.headers


RESOURCES = {
    "/health": "GET, HEAD",
    "/api/{user}/tasks": "GET, HEAD, POST",
    "/api/{user}/tasks/{id}": "DELETE, GET, HEAD, PUT",
    "/api/{user}/tasks/{id}/complete": "PATCH",
}
METHODS = [
    "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "SEARCH", "LINK", "PURGE",
    "COPY", "LOCK", "MKCOL", "REPORT", "QUERY",
]  # fmt: skip


@pytest.mark.spec("FR-014", "FR-015")
@pytest.mark.parametrize("slash", ["", "/"], ids=["", "with a slash"])
@pytest.mark.parametrize("path", RESOURCES)
def test_another_method_is_told_every_method_there_is_before_a_token_is_looked_at(
    base_url: str, alice: User, statement_log: StatementLog, path: str, slash: str
) -> None:
    task = alice.add("Untouched")
    target = path.replace("{user}", alice.id).replace("{id}", str(task["id"])) + slash
    unknown = [method for method in METHODS if method not in RESOURCES[path].split(", ")]
    statement_log.new()

    with recorded() as lines:
        answers = [exchange(base_url, raw(user, method, target)) for user in (alice, None) for method in unknown]

    for answer in answers:
        assert (answer.status_code, answer.json()) == (405, {"detail": "Method not allowed."})
        assert set(answer.headers["allow"].split(", ")) == set(RESOURCES[path].split(", "))
    assert [line for line in lines if " refused " in line] == []
    assert statement_log.new() == []
    assert alice.list() == [task]


@pytest.mark.spec("FR-014")
@pytest.mark.parametrize("path", ["/health", "/api/{user}/tasks", "/api/{user}/tasks/{id}"])
def test_head_is_answered_like_get_without_the_body(base_url: str, alice: User, path: str) -> None:
    target = path.replace("{user}", alice.id).replace("{id}", str(alice.add()["id"]))

    get = exchange(base_url, raw(alice, "GET", target))
    head = exchange(base_url, raw(alice, "HEAD", target), method="HEAD")

    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length", "cache-control", "vary"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.spec("FR-004", "FR-005", "FR-015")
def test_head_is_refused_like_get(base_url: str, alice: User, bob: User) -> None:
    targets = [(None, alice.tasks), (alice, bob.tasks), (alice, f"{alice.tasks}/{2**62}"), (alice, f"{alice.tasks}/0")]

    answers = [exchange(base_url, raw(user, "HEAD", target), method="HEAD") for user, target in targets]

    assert [(answer.status_code, answer.content) for answer in answers] == [
        (401, b""), (403, b""), (404, b""), (422, b""),
    ]  # fmt: skip
    assert answers[0].headers["www-authenticate"] == 'Bearer realm="todo"'


@pytest.mark.spec("FR-014", "SC-005")
@pytest.mark.parametrize("query", ["", "?status=all", "?", "?user_id=bob&id=2", "?%00=%FF", "?" + "x" * 20_000])
def test_a_trailing_slash_and_any_query_change_nothing(base_url: str, alice: User, query: str) -> None:
    task = alice.add("Milk")
    body = b'{"title":"Bread"}'
    statuses = []

    for method, path in OPERATIONS:
        target = f"{alice.tasks}{path}/".replace("{id}", str(task["id"])) + query
        content = body if (method, path) in WITH_BODY else b""
        answer = exchange(base_url, raw(alice, method, target, f"Content-Length: {len(content)}", body=content))
        statuses.append(answer.status_code)
        assert "location" not in answer.headers
        if (method, path) == ("DELETE", "/{id}"):
            task = alice.add("Another")

    assert statuses == [200, 201, 200, 200, 204, 200]


@pytest.mark.spec("FR-014", "FR-016")
@pytest.mark.parametrize(
    "lines",
    [
        ["X-HTTP-Method-Override: DELETE"],
        ["X-HTTP-Method: DELETE", "X-Method-Override: DELETE", "_method: DELETE"],
        ["X-Original-URL: /health", "X-Rewrite-URL: /health"],
        ["X-Forwarded-Host: evil.test", "X-Forwarded-Proto: https", "X-Forwarded-Prefix: /evil", "X-Forwarded-Port: 1"],
        ["Forwarded: for=evil.test;host=evil.test;proto=https"],
        ["X-User-Id: bob", "X-Forwarded-User: bob", "Remote-User: bob"],
        ["Range: bytes=0-0", "If-None-Match: *", "If-Modified-Since: Fri, 20 Nov 2099 00:00:00 GMT"],
        ["Accept: text/html", "Accept-Language: \xff", "Accept-Encoding: gzip, br", "TE: trailers"],
    ],
    ids=lambda lines: lines[0],
)
def test_headers_that_would_change_the_request_are_ignored(base_url: str, alice: User, lines: list[str]) -> None:
    task = alice.add("Untouched")

    answer = exchange(base_url, raw(alice, "GET", f"{alice.tasks}/{task['id']}", *lines))

    assert (answer.status_code, answer.json()) == (200, task)
    assert "evil" not in str(answer.headers)


@pytest.mark.spec("FR-016")
@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:1", "", "a" * 20_000, "<script>", "localhost@evil.test", "\xff", "[::1", "a, b"]
)
@pytest.mark.parametrize("target", ["/api/{user}/tasks", "/api/{user}/tasks/", "/health/", "/nowhere"])
def test_no_host_is_believed_or_reflected(base_url: str, alice: User, host: str, target: str) -> None:
    request = raw(alice, "GET", target.replace("{user}", alice.id))

    answer = exchange(base_url, request.replace(b"Host: test", f"Host: {host}".encode("latin-1")))

    assert answer.status_code == (404 if target == "/nowhere" else 200)
    assert "location" not in answer.headers
    assert "evil" not in f"{answer.headers} {answer.text}"


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
STRANGERS = {
    "in capitals": ("alice", "Alice"),
    "in small letters": ("ALICE", "alice"),
    "decomposed": (COMPOSED, DECOMPOSED),
    "composed": (DECOMPOSED, COMPOSED),
    "with a blank in front": ("alice", " alice"),
    "with a blank behind": ("alice", "alice "),
    "with a line feed behind": ("alice", "alice\n"),
    "with NUL behind": ("alice", "alice\0"),
    "with a zero-width space": ("alice", "al\u200bice"),
    "with a Cyrillic letter": ("alice", "\u0430lice"),
    "with full-width letters": ("alice", "\uff41lice"),
    "with a dotless i": ("alice", "al\u0131ce"),
    "with a long s": ("boss", "bo\u017f\u017f"),
    "with a sharp s": ("strasse", "stra\u00dfe"),
    "with the Kelvin sign": ("K", "\u212a"),
    "a number with a zero in front": ("1", "01"),
    "a number as a float": ("1", "1.0"),
    "a percent sign decoded twice": ("%41", "A"),
    "a percent sign not decoded": ("A", "%41"),
    "a plus for a blank": ("a b", "a+b"),
    "a blank for a plus": ("a+b", "a b"),
    "a prefix": ("alice", "alic"),
    "a wildcard": ("alice", "%"),
    "an asterisk": ("alice", "*"),
    "null": ("None", "null"),
    "dots": ("alice", ".."),
}


@pytest.mark.spec("FR-003", "FR-005", "EC-7")
@pytest.mark.parametrize(("owner", "other"), STRANGERS.values(), ids=STRANGERS)
def test_user_ids_are_compared_as_code_points(base_url: str, owner: str, other: str) -> None:
    line = f"Authorization: Bearer {signed(owner)}"

    own = exchange(base_url, raw(None, "GET", f"/api/{quote(owner, safe='')}/tasks", line))
    others = exchange(base_url, raw(None, "GET", f"/api/{quote(other, safe='')}/tasks", line))

    assert own.status_code == 200
    assert (others.status_code, others.json()) == (403, {"detail": "These tasks belong to another user."})


@pytest.mark.spec("FR-003")
@pytest.mark.parametrize(
    "path",
    ["%FF", "%C3", "%C0%AF", "%ED%A0%80", "%F8%88%80%80%80", "%ef%bf"],
    ids=["a byte", "half a letter", "overlong", "a surrogate", "five bytes", "two thirds"],
)
def test_bytes_that_are_no_text_name_no_user(base_url: str, path: str) -> None:
    """A lenient decoder would write U+FFFD for them, which is some user's good name."""
    tokens = [signed("\ufffd" * count) for count in (1, 2, 3, 4, 5)]

    answers = [
        exchange(base_url, raw(None, "GET", f"/api/{path}/tasks", f"Authorization: Bearer {token}")) for token in tokens
    ]

    assert [answer.status_code for answer in answers if answer.status_code not in {403, 404}] == []


OWNERS = [
    "a b", "a+b", "%", "%41", "a%2Fb", "é", "e\u0301", "用户", "😀", "a?b", "a#b", "a;b", "a:b@c", "\\", "~", "'", '"',
]  # fmt: skip


@pytest.mark.spec("FR-003", "US1.1")
@pytest.mark.parametrize("owner", OWNERS)
def test_a_user_of_any_name_reaches_their_own_tasks(base_url: str, owner: str) -> None:
    name = f"{owner}{uuid4().hex}"
    target, line = f"/api/{quote(name, safe='')}/tasks", f"Authorization: Bearer {signed(name)}"

    created = exchange(base_url, raw(None, "POST", target, line, "Content-Length: 13", body=b'{"title":"x"}'))
    listed = exchange(base_url, raw(None, "GET", target, line))

    assert created.status_code == 201
    assert created.json()["user_id"] == name
    assert listed.json() == [created.json()]


@pytest.mark.spec("FR-003", "FR-014")
@pytest.mark.parametrize("form", ["02x", "02X"])
def test_any_byte_may_be_percent_encoded_in_either_case(base_url: str, form: str) -> None:
    token = signed("Jos\u00e9")
    encoded = "".join(f"%{byte:{form}}" for byte in "Jos\u00e9".encode())

    answer = exchange(base_url, raw(None, "GET", f"/api/{encoded}/tasks", f"Authorization: Bearer {token}"))

    assert answer.status_code == 200


# What is wrong with a request, in the order in which it is judged; each request is wrong in all that follows, too.
TOO_LARGE = b'{"title":"' + b"x" * 70_000
ORDER = {
    404: ("POST", "/nowhere"),
    405: ("PATCH", "/api/{bob}/tasks/0"),
    401: ("PUT", "/api/{bob}/tasks/0"),
    403: ("PUT", "/api/{bob}/tasks/0"),
    415: ("PUT", "/api/{alice}/tasks/0"),
    413: ("PUT", "/api/{alice}/tasks/0"),
    422: ("PUT", "/api/{alice}/tasks/0"),
    400: ("PUT", "/api/{alice}/tasks/9007199254740993"),
}


@pytest.mark.spec("FR-015", "US1.13")
@pytest.mark.parametrize("status", ORDER)
def test_the_first_fault_in_the_order_of_decisions_decides(
    base_url: str, alice: User, bob: User, statement_log: StatementLog, status: int
) -> None:
    method, path = ORDER[status]
    user = None if status in {404, 405, 401} else alice
    kind = "application/json" if status in {413, 422, 400} else "text/html"
    body = b'{"title":' if status in {422, 400} else TOO_LARGE
    target = path.replace("{alice}", alice.id).replace("{bob}", bob.id)
    statement_log.new()

    answer = exchange(
        base_url, raw(user, method, target, f"Content-Type: {kind}", f"Content-Length: {len(body)}", body=body)
    )

    assert answer.status_code == status
    assert isinstance(answer.json()["detail"], str)
    assert statement_log.new() == []


@pytest.mark.spec("FR-015")
def test_a_broken_rule_is_told_before_a_missing_task(base_url: str, alice: User) -> None:
    target = f"{alice.tasks}/{2**62}"

    invalid = exchange(base_url, raw(alice, "PUT", target, "Content-Length: 12", body=b'{"title":""}'))
    missing = exchange(base_url, raw(alice, "PUT", target, "Content-Length: 13", body=b'{"title":"x"}'))

    assert invalid.status_code == 422
    assert (missing.status_code, missing.json()) == (404, {"detail": "Task not found."})


@pytest.mark.spec("US1.13", "FR-004", "FR-005", "FR-015")
@pytest.mark.parametrize(
    "lines",
    [["Content-Length: 1000000"], ["Transfer-Encoding: chunked"], ["Content-Length: 1000000", "Expect: 100-continue"]],
    ids=["announced", "chunked", "asking first"],
)
@pytest.mark.parametrize(
    ("stranger", "operation"),
    [(stranger, operation) for stranger in ("nobody", "bob") for operation in OPERATIONS],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_stranger_is_answered_before_a_byte_of_the_body_has_come(  # noqa: PLR0917 - two tables
    base_url: str,
    alice: User,
    bob: User,
    statement_log: StatementLog,
    stranger: str,
    operation: tuple[str, str],
    lines: list[str],
) -> None:
    method, path = operation
    target = f"{alice.tasks}{path}".replace("{id}", "1")
    statement_log.new()

    with connected(base_url) as wire:
        wire.settimeout(2)
        wire.sendall(raw(bob if stranger == "bob" else None, method, target, "Content-Type: application/json", *lines))
        beginning = wire.recv(4_096)

    assert beginning.startswith(b"HTTP/1.1 403 " if stranger == "bob" else b"HTTP/1.1 401 ")
    assert statement_log.new() == []


@pytest.mark.spec("US4.6", "US5.9", "FR-015")
@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each not in WITH_BODY], ids=" ".join)
def test_operations_without_a_body_do_not_wait_for_one(base_url: str, alice: User, operation: tuple[str, str]) -> None:
    method, path = operation
    target = f"{alice.tasks}{path}".replace("{id}", str(alice.add()["id"]))

    with connected(base_url) as wire:
        wire.settimeout(2)
        wire.sendall(raw(alice, method, target, "Content-Type: text/html", "Content-Length: 1000000"))
        beginning = wire.recv(4_096)

    assert beginning.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 204 "))


async def test_a_websocket_is_turned_away(settings: Settings) -> None:
    """The command `serve` knows none; another server may bring one here."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/api/alice/tasks", "headers": [], "query_string": b"", "root_path": ""}
    await create_app(settings)(scope, receive, send)

    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_the_documentation_can_only_be_read(base_url: str, path: str) -> None:
    answer = httpx.post(base_url + path)

    assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert answer.headers["cache-control"] == "no-store"


def test_a_file_that_the_documentation_does_not_have_is_not_found(base_url: str) -> None:
    answer = httpx.get(f"{base_url}/docs/assets/nothing.js")

    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
