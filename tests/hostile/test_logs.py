"""Does the log tell the truth, once and in one line, and nothing that is none of its business?"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pytest
from databases import execute, own_database, upgrade
from hostile.test_paths import OPERATIONS, exchange, raw
from people import ORIGIN, SECRET, User, signed
from servers import free_port

ROOT = Path(__file__).resolve().parents[2]
PROXY = "10.9.8.0/24"

LINE = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})Z (INFO|WARNING|ERROR) ([ -~]+?) request_id=([A-Za-z0-9._~-]{1,128})"
)
REFUSAL = re.compile(
    r"refused (?P<method>[A-Z]+) (?P<path>/\S*) reason=(?P<reason>[a-z0-9-]+)"
    r" user=(?P<user>None|'[^']*'|\"[^\"]*\") client=(?P<client>\S+)"
)
ACCESS = re.compile(r"[A-Z]+ (?:/|\*)\S* [2-5]\d\d \d+\.\d ms [A-Za-z0-9._~-]{1,128}")


@dataclass
class Production:
    """`python -m backend serve`, and what it has written to its standard error."""

    base_url: str
    _log: Path
    _read: int = 0

    def new(self) -> list[str]:
        """Return the lines that have come since the last call, split wherever some reader would begin a new one."""
        text = self._log.read_bytes().decode()
        new, self._read = text[self._read :], len(text)
        return new.splitlines()

    def user(self) -> User:
        return User(self.base_url)


@contextmanager
def production(url: str, log: Path, **environment: str) -> Iterator[Production]:
    port = free_port()
    given = {
        "ENVIRONMENT": "production",
        "BETTER_AUTH_SECRET": SECRET,
        "BETTER_AUTH_URL": ORIGIN,
        "NEON_DATABASE_URL": url,
        "TRUSTED_PROXIES": "",
        "API_DOCS": "",
        "LOG_FORMAT": "text",
        "FORWARDED_ALLOW_IPS": "*",  # uvicorn's own variable, which must not count.
        "TZ": "Pacific/Auckland",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "backend", "serve", "--port", str(port)],
            cwd=ROOT,
            env=os.environ | given | environment,
            stderr=output,
            stdout=output,
        )
    server = Production(f"http://127.0.0.1:{port}", log)
    try:
        while not answers(server.base_url):
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        server.new()
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def answers(base_url: str) -> bool:
    try:
        return exchange(base_url, raw(None, "GET", "/readyz")).status_code == 200
    except OSError:  # Nobody listens yet, or somebody who is still starting on a busy machine.
        return False


@pytest.fixture(scope="module")
def constrained(database_url: str) -> Iterator[str]:
    """A database whose table knows one rule that the application does not."""
    with own_database(database_url) as url:
        upgrade(url)
        execute(url, "ALTER TABLE task ADD CONSTRAINT innermost CHECK (title NOT LIKE 'unwanted%')")
        yield url


@pytest.fixture(scope="module")
def server(constrained: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    with production(constrained, tmp_path_factory.mktemp("serve") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def behind_proxies(constrained: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    log = tmp_path_factory.mktemp("serve") / "log"
    with production(constrained, log, TRUSTED_PROXIES=f"127.0.0.1, {PROXY}") as running:
        yield running


def messages(lines: list[str]) -> list[str]:
    """Return what the lines say, each of which must have the form of a line and nothing but printable ASCII."""
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    return [
        f"{found[3]} {found[4]}" if found[3].endswith(" ms") else found[3]
        for line in lines
        if (found := LINE.fullmatch(line))
    ]


def refusals(lines: list[str]) -> list[dict[str, str | None]]:
    """Return the refusals; every other line must be that of an answer."""
    refused = [message for message in messages(lines) if not ACCESS.fullmatch(message)]
    assert [message for message in refused if not REFUSAL.fullmatch(message)] == []
    return [found.groupdict() for message in refused if (found := REFUSAL.fullmatch(message))]


FORGED = signed("alice", secret="another secret of thirty-two bytes")
REFUSALS = {
    "no token": (None, "no-authorization-header", None),
    "Basic": ("Basic YWxpY2U6cGFzc3dvcmQ=", "no-bearer-token", None),
    "an opaque token": ("Bearer jv4mPn8Vd0XqLrT2bYwKc7HsZg9Ua1Ef", "not-a-jwt", None),
    "forged": (f"Bearer {FORGED}", "signature", None),
    "expired": (f"Bearer {signed('alice', exp=1)}", "expired", None),
    "without identity": (f"Bearer {signed('', email='alice@example.com')}", "identity", None),
    "another user's": (f"Bearer {signed('mallory', email='mallory@example.com')}", "foreign-path", "'mallory'"),
}


@pytest.mark.spec("SC-009", "EC-5", "FR-017")
@pytest.mark.parametrize("operation", OPERATIONS, ids=" ".join)
@pytest.mark.parametrize(("authorization", "reason", "user"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_logged_once_with_everything_but_the_token(
    server: Production, operation: tuple[str, str], authorization: str | None, reason: str, user: str | None
) -> None:
    method, path = operation
    target = f"/api/alice/tasks{path}".replace("{id}", "1")
    lines = [f"Authorization: {authorization}"] if authorization else []

    answer = exchange(server.base_url, raw(None, method, target, *lines))
    logged = server.new()

    assert answer.status_code == (403 if user else 401)
    assert refusals(logged) == [
        {"method": method, "path": target, "reason": reason, "user": user or "None", "client": "127.0.0.1"}
    ]
    assert len(logged) == 2
    for line in logged:
        written = datetime.fromisoformat(line[:23]).replace(tzinfo=UTC)
        assert abs(datetime.now(UTC) - written) < timedelta(seconds=5)
    secrets = re.split(r"[ .]", authorization.partition(" ")[2]) if authorization else []
    assert [secret for secret in [*secrets, "example.com", SECRET] if secret in "\n".join(logged)] == []


@pytest.mark.spec("FR-017", "SC-009")
def test_nothing_of_a_request_but_method_and_path_is_logged(server: Production) -> None:
    user, mark = server.user(), uuid4().hex
    lines = [
        f"Cookie: session={mark}", f"Referer: http://{mark}.test/", f"User-Agent: {mark}", f"Origin: http://{mark}.test",
        f"X-Forwarded-For: {mark}", f"X-Real-IP: {mark}", f"Forwarded: for={mark}", f"{mark}: {mark}",
        f"Proxy-Authorization: Bearer {mark}",
    ]  # fmt: skip
    body = b'{"title": "%s", "description": 5, "%s": 1}' % (mark.encode(), mark.encode())
    kinds = ["application/json", f"text/{mark}"]

    with user.http:
        for caller, path, kind in product((user, None), (user.tasks, "/api/bob/tasks"), kinds):
            described = [*lines, f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
            target = f"{path}?access_token={mark}#{mark}"
            request = raw(caller, "POST", target, *described, body=body)
            exchange(server.base_url, request.replace(b"Host: test", f"Host: {mark}".encode()))
    logged = "\n".join(server.new())

    assert mark not in logged
    assert [part for part in user.token.split(".") if part in logged] == []
    assert SECRET not in logged
    assert len(refusals(logged.splitlines())) == 6


FORGERY = "x\r\n2026-01-01T00:00:00.000Z WARNING refused GET x reason=expired user='root' client=6.6.6.6"
TRICKS = {
    "a line feed": f"a\n{FORGERY}",
    "a carriage return": f"a\r{FORGERY}",
    "a vertical tab and a form feed": f"a\v\f{FORGERY}",
    "information separators": f"a\x1c\x1d\x1e{FORGERY}",
    "next line": f"a\x85{FORGERY}",
    "a line separator": f"a\u2028{FORGERY}",
    "a paragraph separator": f"a\u2029{FORGERY}",
    "an ANSI colour": "a\x1b[31;1mred",
    "an ANSI erasure": "a\x1b[2J\x1b[1A\x1b[2K",
    "an eight-bit control sequence": "a\x9b2J",
    "a terminal's title": "a\x1b]0;evil\x07",
    "a backspace": "a\b\b\b\b",
    "DEL": "a\x7f",
    "NUL": "a\0",
    "right to left": "a\u202egnp.exe",
    "emoji": "😀",
    "a format": "%s %d %n {0} {x}",
    "quotes": "' client=6.6.6.6 user='root",
    "blanks": "a reason=none user='root' client=6.6.6.6",
    "a backslash": "\\n\\r\\",
}


@pytest.mark.spec("SC-009")
@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS)
def test_a_path_forges_no_line(server: Production, trick: str) -> None:
    encoded = quote(trick, safe="")
    targets = [f"/api/{encoded}/tasks", f"/api/{encoded}/tasks/{encoded}", f"/{encoded}", f"/api/a/tasks?{encoded}"]

    for target in targets:
        exchange(server.base_url, raw(None, "GET", target))
    logged = server.new()

    paths = [target.partition("?")[0][:256] for target in targets]
    assert [(each["path"], each["client"]) for each in refusals(logged)] == [
        (path, "127.0.0.1") for path in (paths[0], paths[1], paths[3])
    ]
    assert len(logged) == 7


@pytest.mark.spec("SC-009")
@pytest.mark.parametrize("trick", [each for each in TRICKS.values() if not re.search("[\0-\x1f\x7f]", each)])
def test_a_users_name_forges_no_line(server: Production, trick: str) -> None:
    lines = [f"Authorization: Bearer {signed(trick)}"]

    answer = exchange(server.base_url, raw(None, "GET", "/api/alice/tasks", *lines))
    logged = server.new()

    assert answer.status_code == 403
    message = messages(logged)[0]
    assert message.startswith("refused GET /api/alice/tasks reason=foreign-path user=")
    assert message.endswith(f"user={trick!a} client=127.0.0.1")
    assert len(logged) == 2


@pytest.mark.spec("SC-009")
@pytest.mark.parametrize("value", ["a", "0", "A.b_c~d-e", "x" * 128, "0b1f4e9e-3b44-4d8e-9b52-6d1f6c0a7c11", "---"])
def test_a_harmless_request_id_is_taken_over(server: Production, value: str) -> None:
    answer = exchange(server.base_url, raw(None, "GET", "/nowhere", f"X-Request-Id: {value}"))

    assert answer.headers.get_list("x-request-id") == [value]
    assert [message.split(" ")[-1] for message in messages(server.new())] == [value]


@pytest.mark.spec("SC-009", "FR-016")
@pytest.mark.parametrize(
    "value",
    [
        "", "x" * 129, "x" * 20_000, "a b", "a\tb", "a,b", "a/b", "a:b", "a=b", "a%0Ab", "a'b", 'a"b', "<a>", "${jndi:ldap://x}",
        "a\x85b", "\xe9", "\xe2\x80\xa8", "a;b", "(a)", "@",
    ],
)  # fmt: skip
def test_any_other_request_id_is_replaced(server: Production, value: str) -> None:
    answer = exchange(server.base_url, raw(None, "GET", "/nowhere", f"X-Request-Id: {value}"))

    [given] = answer.headers.get_list("x-request-id")
    assert re.fullmatch("[0-9a-f]{32}", given)
    assert [message.split(" ")[-1] for message in messages(server.new())] == [given]


@pytest.mark.spec("SC-009")
def test_every_answer_has_a_request_id_of_its_own(server: Production) -> None:
    paths = ["/health", "/health", "/x", "/api/a/tasks"]

    answers = [exchange(server.base_url, raw(None, "GET", path)) for path in paths]

    assert len({answer.headers["x-request-id"] for answer in answers}) == 4
    server.new()


@pytest.mark.spec("SC-009")
@pytest.mark.parametrize(
    "line",
    ["X-Forwarded-For: 6.6.6.6", "X-Real-IP: 6.6.6.6", "Forwarded: for=6.6.6.6", "CF-Connecting-IP: 6.6.6.6"],
)
def test_without_the_setting_no_header_says_who_the_client_is(server: Production, line: str) -> None:
    exchange(server.base_url, raw(None, "GET", "/api/a/tasks", line))

    assert [each["client"] for each in refusals(server.new())] == ["127.0.0.1"]


@pytest.mark.spec("SC-009", "FR-020")
@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ([], "127.0.0.1"),
        (["X-Forwarded-For: 192.0.2.7"], "192.0.2.7"),
        (["X-Forwarded-For: 2001:db8::7"], "2001:db8::7"),
        (["X-Forwarded-For: 6.6.6.6, 192.0.2.7"], "192.0.2.7"),
        (["X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.9.8.7"], "192.0.2.7"),
        (["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 192.0.2.7"], "192.0.2.7"),
        (["X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.9.7.7"], "10.9.7.7"),
        (["X-Real-IP: 6.6.6.6", "Forwarded: for=6.6.6.6"], "127.0.0.1"),
    ],
    ids=str,
)
def test_with_the_setting_the_last_address_that_is_no_proxy_is_the_client(
    behind_proxies: Production, lines: list[str], client: str
) -> None:
    exchange(behind_proxies.base_url, raw(None, "GET", "/api/a/tasks", *lines))

    assert [each["client"] for each in refusals(behind_proxies.new())] == [client]


@pytest.mark.spec("SC-009")
@pytest.mark.parametrize(
    "value",
    [
        "6.6.6.6 reason=none user='root'", "6.6.6.6\x85" + FORGERY.replace("\r\n", "\x85"), "\x9b2J", "\xe2\x80\xa8x",
        "<script>", "evil.test", "\xa0", "6.6.6.6\tclient=7.7.7.7", "x" * 20_000,
    ],
)  # fmt: skip
def test_what_a_careless_proxy_hands_on_forges_no_line(behind_proxies: Production, value: str) -> None:
    exchange(behind_proxies.base_url, raw(None, "GET", "/api/a/tasks", f"X-Forwarded-For: {value}"))
    logged = behind_proxies.new()

    assert len(logged) == 2
    message = messages(logged)[0]
    assert message.startswith("refused GET /api/a/tasks reason=no-authorization-header user=None client=")
    assert message.count(" client=") == message.count(" reason=") == message.count(" user=") == 1
    assert len(message) < 1_000


@pytest.mark.spec("FR-016", "FR-015")
def test_a_fault_of_our_own_is_told_to_the_log_alone(server: Production) -> None:
    user = server.user()

    with user.http:
        answer = user.http.post(user.tasks, json={"title": "unwanted"}, headers={"Origin": ORIGIN})
        stored = user.list()
    logged = "\n".join(server.new())

    assert (answer.status_code, answer.json()) == (500, {"detail": "Internal server error."})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["x-request-id"] in logged
    assert f" ERROR failed POST {user.tasks}" in logged
    assert logged.count("Traceback (most recent call last)") == 1
    assert "innermost" in logged
    assert stored == []


@pytest.mark.spec("FR-017", "SC-009")
@pytest.mark.parametrize("name", ["a line feed", "next line", "a line separator", "an ANSI erasure", "quotes"])
def test_a_fault_of_our_own_lets_no_text_of_the_clients_into_the_log(server: Production, name: str) -> None:
    """PostgreSQL's words about a broken constraint quote the row."""
    user, mark, trick = server.user(), uuid4().hex, TRICKS[name]

    with user.http:
        answer = user.http.post(user.tasks, json={"title": f"unwanted {trick}", "description": mark})
    logged = server.new()

    assert answer.status_code == 500
    assert [line for line in logged if mark in line or "6.6.6.6" in line or "\x1b" in line] == []
    begun = [line for line in logged if LINE.match(line)]
    assert [line for line in begun if not re.search(f" (POST|failed POST) {user.tasks}", line)] == []


@pytest.mark.spec("FR-016")
@pytest.mark.parametrize("path", ["/docs", "/docs/", "/openapi.json", "/redoc", "/docs/oauth2-redirect"])
def test_production_shows_no_documentation(server: Production, path: str) -> None:
    answer = exchange(server.base_url, raw(None, "GET", path))

    assert (answer.status_code, answer.json()) == (404, {"detail": "Not found."})
    server.new()


@pytest.mark.spec("FR-016")
@pytest.mark.parametrize("target", ["/health", "/nowhere", "/api/a/tasks", "not a target"])
def test_production_names_neither_server_nor_framework(server: Production, target: str) -> None:
    answer = exchange(server.base_url, raw(None, "GET", target))

    assert {"server", "x-powered-by", "via"} & set(answer.headers) == set()
    assert not re.search(r"(?i)uvicorn|starlette|fastapi|python|\d+\.\d+\.\d+", f"{answer.text}")
    server.new()
