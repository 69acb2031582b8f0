"""Which pages may call the API from a browser, and can they read every answer?"""

import re
from collections.abc import Iterator

import httpx
import pytest
from databases import execute, own_database, using
from hostile.test_paths import OPERATIONS, exchange, raw
from people import ORIGIN, SECRET, User, signed
from running import StatementLog, serving

from backend.errors import PreflightRefused
from backend.schema.migrate import upgrade
from backend.settings import Settings, SettingsError, load_settings

ASKED = "authorization,content-type,idempotency-key,x-request-id"
METHODS = sorted({method for method, _ in OPERATIONS} | {"HEAD"})


@pytest.fixture(scope="module")
def broken_url(settings: Settings, database_url: str) -> Iterator[str]:
    """The API on a table whose column was changed by hand to a type that no statement of ours fits."""
    with own_database(database_url) as url:
        upgrade(url)
        execute(url, "ALTER TABLE task ALTER user_id TYPE bigint USING 1")
        # Prepared beforehand, the statements would be refused while connecting, which is a 503.
        with serving(using(settings, url, database_prepared_statements=False)) as broken:
            yield broken


@pytest.fixture(scope="module")
def cut_off_url(settings: Settings) -> Iterator[str]:
    """The API where nothing listens at the database's address."""
    with serving(using(settings, "postgresql://app@127.0.0.1:1/todo", request_deadline=0.5)) as cut_off:
        yield cut_off


def words(header: str) -> set[str]:
    return {word.strip().lower() for word in header.split(",")}


def preflight(origin: str, method: str, headers: str | None = None) -> dict[str, str]:
    asked = {"Access-Control-Request-Headers": headers} if headers is not None else {}
    return {"Origin": origin, "Access-Control-Request-Method": method, **asked}


@pytest.mark.spec("FR-019", "SC-005")
@pytest.mark.parametrize("asked", [ASKED, "authorization", "Authorization, Content-Type", "content-type", None])
@pytest.mark.parametrize("method", METHODS)
def test_the_frontends_preflight_is_granted_without_a_token(
    anonymous: httpx.Client, statement_log: StatementLog, method: str, asked: str | None
) -> None:
    statement_log.new()

    answer = anonymous.options("/api/someone/tasks/1", headers=preflight(ORIGIN, method, asked))

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert words(answer.headers["access-control-allow-methods"]) == words(",".join(METHODS))
    headers = words(answer.headers["access-control-allow-headers"])
    assert headers == words(ASKED) | {"accept", "accept-language", "content-language"}  # which need no permission
    assert int(answer.headers["access-control-max-age"]) >= 600
    assert "origin" in words(answer.headers["vary"])
    assert statement_log.new() == []


@pytest.mark.spec("FR-019")
@pytest.mark.parametrize(("method", "asked"), [("TRACE", ASKED), ("get", ASKED), ("GET", "x-evil"), ("GET", "cookie")])
def test_a_preflight_for_more_than_there_is_is_refused(anonymous: httpx.Client, method: str, asked: str) -> None:
    answer = anonymous.options("/api/someone/tasks", headers=preflight(ORIGIN, method, asked))

    assert (answer.status_code, answer.json()["detail"]) == (400, PreflightRefused.detail)
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "evil" not in f"{answer.headers} {answer.text}"


OTHER_ORIGINS = [
    "null", "", "*", "file://", "http://localhost", "http://localhost:80", "https://localhost:3000",
    "ws://localhost:3000", "http://localhost:3001", "http://localhost:30000", "http://localhost:300",
    "http://localhost:3000/", "http://localhost:3000/x", "http://localhost:3000.evil.test", "http://localhost:3000:80",
    "http://evil.localhost:3000", "http://xlocalhost:3000", "http://localhost.:3000", "http://LOCALHOST:3000",
    "HTTP://localhost:3000", "http://127.0.0.1:3000", "http://[::1]:3000", "http://user@localhost:3000",
    "http://localhost:3000@evil.test", "http://evil.test/http://localhost:3000", "http://evil.test?http://localhost:3000",
    "http://evil.test#http://localhost:3000", "http://localhost:3000, http://evil.test",
    "http://localhost:3000 http://evil.test", "http://evil.test http://localhost:3000", "http://localhost%3A3000",
    "http://localhost:3000%00", "http://localhost:3000\xa0", "chrome-extension://abcdef", "localhost:3000",
]  # fmt: skip


@pytest.mark.spec("FR-019")
@pytest.mark.parametrize("origin", OTHER_ORIGINS)
def test_another_origin_is_granted_nothing(base_url: str, alice: User, origin: str) -> None:
    task = alice.add()
    target = f"{alice.tasks}/{task['id']}"

    lines = [f"{name}: {value}" for name, value in preflight(origin, "PUT", ASKED).items()]
    asked = exchange(base_url, raw(None, "OPTIONS", target, *lines))
    sent = exchange(base_url, raw(alice, "GET", target, lines[0]))
    refused = exchange(base_url, raw(alice, "GET", "/api/bob/tasks", lines[0]))

    two = exchange(base_url, raw(alice, "GET", target, lines[0], f"Origin: {ORIGIN}"))

    assert (asked.status_code, sent.status_code, refused.status_code) == (400, 200, 403)
    for answer in (asked, sent, refused, two):
        assert "access-control-allow-origin" not in answer.headers
        assert "origin" in words(answer.headers["vary"])
        assert "evil" not in f"{answer.headers} {'' if answer is asked else answer.text}"


@pytest.mark.spec("FR-019", "FR-015", "FR-016")
@pytest.mark.parametrize(
    "origin", [*OTHER_ORIGINS, f"http://{'a' * 300}.test", "http://<script>.test", 'http://"\x9b.test']
)
def test_a_refused_preflight_says_which_origin_and_what_to_set(
    base_url: str, caplog: pytest.LogCaptureFixture, origin: str
) -> None:
    lines = [f"{name}: {value}" for name, value in preflight(origin, "PUT", ASKED).items()]
    strange = len(origin) > 300 or not re.fullmatch("null|[a-z-]+://[a-zA-Z0-9.:[\\]-]+", origin)

    answer = exchange(base_url, raw(None, "OPTIONS", "/api/bob/tasks", *lines))

    whose = "This origin" if strange else f"The origin {origin}"
    detail = f"{whose} is not allowed; set BETTER_AUTH_URL or CORS_ORIGINS."
    error = {"loc": ["header", "Origin"], "msg": detail, "type": "origin_refused"}
    assert (answer.status_code, answer.json()) == (400, {"detail": detail, "errors": [error]})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert "PUT" in answer.headers["access-control-allow-methods"]
    told = [record for record in caplog.records if record.event == "preflight-refused"]  # type: ignore[attr-defined]  # ours
    assert [(record.getMessage(), record.origin) for record in told] == [(detail, None if strange else origin)]  # type: ignore[attr-defined]  # ours


# Status, token (the owner's, none, or a word), method, path, body and content type.
JSON = "application/json"
ANSWERS: dict[str, tuple[int, str | None, str, str, bytes, str]] = {
    "health": (200, None, "GET", "/health", b"", JSON),
    "a list": (200, "good", "GET", "/api/{user}/tasks", b"", JSON),
    "a new task": (201, "good", "POST", "/api/{user}/tasks", b'{"title": "x"}', JSON),
    "a changed task": (200, "good", "PUT", "/api/{user}/tasks/{id}", b'{"title": "x"}', JSON),
    "a toggled task": (200, "good", "PATCH", "/api/{user}/tasks/{id}/complete", b"", JSON),
    "a deleted task": (204, "good", "DELETE", "/api/{user}/tasks/{id}", b"", JSON),
    "not JSON": (400, "good", "POST", "/api/{user}/tasks", b"{", JSON),
    "no token": (401, None, "GET", "/api/{user}/tasks", b"", JSON),
    "a bad token": (401, "bad", "POST", "/api/{user}/tasks", b"", JSON),
    "another user": (403, "good", "DELETE", "/api/bob/tasks/1", b"", JSON),
    "no such task": (404, "good", "GET", "/api/{user}/tasks/9007199254740993", b"", JSON),
    "no such path": (404, None, "GET", "/nowhere", b"", JSON),
    "no such method": (405, None, "PATCH", "/api/{user}/tasks", b"", JSON),
    "too large": (413, "good", "POST", "/api/{user}/tasks", b" " * 65_537, JSON),
    "another type": (415, "good", "PUT", "/api/{user}/tasks/1", b"{}", "text/plain"),
    "a broken rule": (422, "good", "POST", "/api/{user}/tasks", b"{}", JSON),
    "a broken id": (422, "good", "GET", "/api/{user}/tasks/0", b"", JSON),
}


def called(base_url: str, user: User, case: str, *lines: str) -> httpx.Response:
    _, token, method, path, body, kind = ANSWERS[case]
    task_id = str(user.add()["id"]) if "{id}" in path else ""
    target = path.replace("{user}", user.id).replace("{id}", task_id)
    described = [f"Content-Type: {kind}", f"Content-Length: {len(body)}", *lines]
    described += ["Authorization: Bearer x"] if token == "bad" else []
    return exchange(base_url, raw(user if token == "good" else None, method, target, *described, body=body))


def readable(answer: httpx.Response, origin: str = ORIGIN) -> None:
    """Hold the answer against what a browser on this origin needs in order to read it, errors included."""
    assert answer.headers.get_list("access-control-allow-origin") == [origin]
    assert answer.headers.get_list("access-control-allow-credentials") == ["true"]
    exposed = words(answer.headers["access-control-expose-headers"])
    assert exposed >= {"www-authenticate", "retry-after", "x-request-id"}
    assert "origin" in words(answer.headers["vary"])
    assert answer.headers["x-request-id"]


@pytest.mark.spec("FR-019", "FR-015")
@pytest.mark.parametrize("case", ANSWERS)
def test_the_frontend_can_read_every_answer(base_url: str, alice: User, case: str) -> None:
    answer = called(base_url, alice, case, f"Origin: {ORIGIN}")

    assert answer.status_code == ANSWERS[case][0]
    readable(answer)


def failed(base_url: str, method: str, path: str) -> httpx.Response:
    """Send what would succeed if the server were well."""
    lines = (f"Authorization: Bearer {signed('alice')}", f"Origin: {ORIGIN}", "Content-Length: 13")
    target = f"/api/alice/tasks{path}".replace("{id}", "1")
    return exchange(base_url, raw(None, method, target, *lines, body=b'{"title":"x"}'))


@pytest.mark.spec("FR-019", "FR-016", "FR-015")
@pytest.mark.parametrize("operation", OPERATIONS, ids=" ".join)
def test_the_frontend_can_read_that_we_have_failed(broken_url: str, operation: tuple[str, str]) -> None:
    answer = failed(broken_url, *operation)

    assert (answer.status_code, answer.json()) == (500, {"detail": "Internal server error."})
    readable(answer)


@pytest.mark.spec("FR-019", "FR-015")
@pytest.mark.parametrize("operation", OPERATIONS, ids=" ".join)
def test_the_frontend_can_read_that_the_database_is_away(cut_off_url: str, operation: tuple[str, str]) -> None:
    answer = failed(cut_off_url, *operation)

    assert (answer.status_code, list(answer.json())) == (503, ["detail"])
    assert int(answer.headers["retry-after"]) > 0
    readable(answer)


@pytest.mark.spec("FR-019", "SC-005")
@pytest.mark.parametrize("case", ANSWERS)
def test_a_caller_without_an_origin_is_served_alike(base_url: str, alice: User, case: str) -> None:
    answer = called(base_url, alice, case)

    assert answer.status_code == ANSWERS[case][0]
    assert "access-control-allow-origin" not in answer.headers
    assert "origin" in words(answer.headers["vary"])


@pytest.mark.spec("FR-019")
def test_a_cookie_from_the_frontend_is_no_token(anonymous: httpx.Client, alice: User) -> None:
    cookie = f"better-auth.session_token={alice.token}; token={alice.token}"

    answer = anonymous.get(alice.tasks, headers={"Origin": ORIGIN, "Cookie": cookie})

    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


def configured(settings: Settings, **changes: str) -> Settings:
    given = {"better_auth_secret": SECRET, "better_auth_url": ORIGIN, "neon_database_url": settings.database_url}
    return load_settings(_env_file=None, **given | changes)


@pytest.mark.spec("FR-019", "FR-020")
def test_more_origins_may_be_named_by_a_setting(settings: Settings) -> None:
    named = "https://App.Example.com:443/some/path, http://[::1]:8080,, https://bücher.example/ "
    with serving(configured(settings, cors_origins=named)) as url:
        granted = [ORIGIN, "https://app.example.com", "http://[::1]:8080", "https://xn--bcher-kva.example"]
        refused = ["https://app.example.com:443", "http://app.example.com", "https://example.com"]

        lines = {origin: [f"{k}: {v}" for k, v in preflight(origin, "PUT").items()] for origin in [*granted, *refused]}
        answers = {origin: exchange(url, raw(None, "OPTIONS", "/api/a/tasks", *lines[origin])) for origin in lines}
        simple = {origin: exchange(url, raw(None, "GET", "/api/a/tasks", f"Origin: {origin}")) for origin in granted}

    assert [answers[origin].headers["access-control-allow-origin"] for origin in granted] == granted
    assert [origin for origin in refused if "access-control-allow-origin" in answers[origin].headers] == []
    for origin, answer in simple.items():
        readable(answer, origin)


@pytest.mark.spec("FR-019", "FR-020")
@pytest.mark.parametrize("url", ["http://localhost:3000/", "HTTP://LocalHost:3000/login?x#y", "http://localhost:03000"])
def test_the_frontends_url_counts_by_its_origin(settings: Settings, url: str) -> None:
    assert configured(settings, better_auth_url=url).better_auth_url == ORIGIN


@pytest.mark.spec("FR-019", "FR-020", "FR-017")
@pytest.mark.parametrize("origins", ["*", "null", "localhost:3000", "ftp://x.test", "https://", f"{ORIGIN}, *"])
def test_what_is_no_origin_stops_the_start(settings: Settings, origins: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        configured(settings, cors_origins=origins)

    assert "CORS_ORIGINS" in str(refusal.value)
    assert f" {origins}" not in str(refusal.value)
