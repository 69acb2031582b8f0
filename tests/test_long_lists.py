"""Does a list that is longer than a page arrive whole, or visibly broken, and does nobody else suffer from it?"""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from databases import ask, execute, using
from lists import give, memory
from people import User
from relay import Relay, error_response, executes
from running import StatementLog, serving, unscoped
from servers import Application, application, until

from backend.settings import Settings
from backend.web.answers import PAGE, encoded

ALL_AT_ONCE = """
    SELECT id, user_id, title, description, completed, created_at, updated_at FROM task
    WHERE user_id = $1 ORDER BY created_at DESC, id DESC
"""
COLUMNS = ("id", "user_id", "title", "description", "completed", "created_at", "updated_at")
# More than the buffers between a server and a client that does not read can hold.
MANY, LONG = 20 * PAGE, 1_000 * "x"
GONE = error_response("57P01", "terminating connection due to administrator command")
BUG = error_response("XX000", "something that nobody has thought of")


def ids(answer: httpx.Response) -> list[int]:
    return [task["id"] for task in answer.json()]


@pytest.mark.spec("EC-8", "FR-021", "US2.5", "SC-004")
@pytest.mark.parametrize("at_once", [1, 7, 5_000], ids=["one by one", "by sevens", "all at once"])
@pytest.mark.parametrize(
    ("count", "statements"),
    [
        *((0, 1), (1, 1), (PAGE - 1, 1), (PAGE, 2), (PAGE + 1, 2), (2 * PAGE - 1, 2), (2 * PAGE, 3)),
        *((999, 4), (1_000, 4), (1_001, 4), (4 * PAGE, 5)),
    ],
)
def test_a_list_is_one_array_of_all_tasks_and_a_statement_for_each_page(  # noqa: PLR0917 - two tables
    alice: User, database_url: str, statement_log: StatementLog, count: int, statements: int, at_once: int
) -> None:
    newest_first = give(database_url, alice, count, at_once=at_once)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in ask(database_url, ALL_AT_ONCE, alice.id)]
    statement_log.new()

    answer = alice.http.get(alice.tasks)

    sent = statement_log.new()
    assert answer.status_code == 200
    assert ids(answer) == newest_first
    assert answer.content == encoded(rows)
    assert len(sent) == statements
    assert unscoped(sent) == []
    assert ("content-length" in answer.headers) == (count < PAGE)


@pytest.mark.spec("FR-021")
def test_head_of_a_long_list_reads_its_first_page_alone(
    alice: User, database_url: str, statement_log: StatementLog
) -> None:
    give(database_url, alice, 3 * PAGE)
    long = alice.http.get(alice.tasks)
    statement_log.new()

    head = alice.http.head(alice.tasks)

    assert (head.status_code, head.content, len(statement_log.new())) == (200, b"", 1)
    assert "content-length" not in head.headers
    for name in ("content-type", "cache-control", "x-content-type-options"):
        assert head.headers[name] == long.headers[name]
    assert alice.http.get("/health").is_success


@pytest.fixture
def relay(line: tuple[Relay, str]) -> Iterator[Relay]:
    yield line[0]
    line[0].refuse = None


@pytest.fixture(scope="module")
def app(line: tuple[Relay, str]) -> Iterator[Application]:
    with application(line[1]) as app:
        yield app


@pytest.fixture
def carol(app: Application) -> Iterator[User]:
    """Somebody whose requests go through the relay."""
    user = User(app.base_url)
    with user.http:
        yield user


def at_page(number: int, then: Callable[[], bytes | None]) -> Callable[[bytes], bytes | None]:
    """Do something as soon as the statement for this page, or a later one, is on its way."""
    pages = iter(range(1, number))

    def passing(sent: bytes) -> bytes | None:
        return then() if executes(sent) and next(pages, None) is None else None

    return passing


@pytest.mark.spec("FR-021")
def test_what_is_there_all_the_time_is_listed_once_whatever_comes_and_goes(
    carol: User, relay: Relay, database_url: str
) -> None:
    newest_first = give(database_url, carol, 3 * PAGE)
    listed_already, unlisted_yet = newest_first[PAGE - 2 : PAGE], newest_first[PAGE : PAGE + 5]
    changes = [
        f"DELETE FROM task WHERE id IN ({', '.join(map(str, listed_already + unlisted_yet))})",
        f"INSERT INTO task (user_id, title) VALUES ('{carol.id}', 'Newest')",
        f"UPDATE task SET title = 'Changed', updated_at = now() WHERE user_id = '{carol.id}'",
    ]

    def change() -> None:
        relay.refuse = None
        thread = threading.Thread(target=execute, args=[database_url, *changes])
        thread.start()
        thread.join()

    relay.refuse = at_page(2, change)
    answer = carol.http.get(carol.tasks)

    assert ids(answer) == [task_id for task_id in newest_first if task_id not in unlisted_yet]
    assert len(carol.list()) == 3 * PAGE - 7 + 1


def until_broken(answer: httpx.Response) -> bytes:
    """Return what comes before the connection breaks, which it must in the middle of the body."""
    received: list[bytes] = []

    def read() -> None:
        for piece in answer.iter_bytes():
            received.append(piece)  # noqa: PERF402 - what has come counts, although the end is missing

    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        read()
    return b"".join(received)


@pytest.mark.spec("FR-021", "EC-4", "FR-016")
@pytest.mark.parametrize(
    ("failure", "causes"), [(GONE, ["retry", "retry", "unavailable"]), (BUG, ["failed"])], ids=["database", "bug"]
)
@pytest.mark.parametrize("page", [2, 3])
def test_an_answer_that_cannot_be_finished_is_broken_off(  # noqa: PLR0917 - two tables
    app: Application, carol: User, relay: Relay, database_url: str, failure: bytes, causes: list[str], page: int
) -> None:
    give(database_url, carol, 3 * PAGE)
    relay.refuse = at_page(page, lambda: failure)

    with carol.http.stream("GET", carol.tasks) as answer:
        received = until_broken(answer)

    relay.refuse = None
    assert answer.status_code == 200
    assert received.count(b'"id"') == PAGE + (page - 2) * PAGE
    with pytest.raises(json.JSONDecodeError):
        json.loads(received)
    lines = app.lines_of(answer.headers["x-request-id"])
    assert [line["event"] for line in lines] == [*causes, "broken-off"]
    assert (lines[-1]["status"], lines[-1]["message"][-3:]) == (200, " ms")
    assert len(carol.list()) == 3 * PAGE


@pytest.mark.spec("FR-021", "EC-4")
def test_a_failure_at_the_first_page_is_503_as_ever(
    app: Application, carol: User, relay: Relay, database_url: str
) -> None:
    give(database_url, carol, 3 * PAGE)
    relay.refuse = at_page(1, lambda: GONE)

    answer = carol.http.get(carol.tasks)

    assert answer.status_code == 503
    assert "nothing was changed" in answer.json()["detail"]
    events = [line["event"] for line in app.lines_of(answer.headers["x-request-id"])]
    assert events == ["retry", "retry", "unavailable", "request"]


@pytest.mark.spec("FR-021")
def test_a_connection_that_breaks_between_two_pages_costs_a_second_try_and_nothing_else(
    app: Application, carol: User, relay: Relay, database_url: str
) -> None:
    newest_first = give(database_url, carol, 3 * PAGE)
    once = iter([GONE])
    relay.refuse = at_page(2, lambda: next(once, None))

    answer = carol.http.get(carol.tasks)

    assert ids(answer) == newest_first
    assert [line["event"] for line in app.lines_of(answer.headers["x-request-id"])] == ["retry", "request"]


def ask_as_of_old(user: User) -> tuple[http.client.HTTPResponse, bytes]:
    """Ask as a client or a proxy that knows HTTP/1.0 only, and nothing of chunks."""
    with socket.create_connection((user.http.base_url.host, user.http.base_url.port or 80), timeout=30) as wire:
        wire.sendall(f"GET {user.tasks} HTTP/1.0\r\nAuthorization: Bearer {user.token}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(wire)
        answer.begin()
        try:
            return answer, answer.read()
        except http.client.IncompleteRead as broken:
            return answer, broken.partial


@pytest.mark.spec("FR-021")
def test_a_client_that_knows_no_chunks_gets_all_until_the_connection_ends(
    carol: User, relay: Relay, database_url: str
) -> None:
    newest_first = give(database_url, carol, 3 * PAGE)

    whole, body = ask_as_of_old(carol)
    relay.refuse = at_page(3, lambda: GONE)
    broken, rest = ask_as_of_old(carol)

    assert (whole.status, broken.status) == (200, 200)
    assert [task["id"] for task in json.loads(body)] == newest_first
    assert whole.getheader("content-length") is None
    assert whole.getheader("connection") == "close"
    assert rest.count(b'"id"') == PAGE + PAGE
    with pytest.raises(json.JSONDecodeError):
        json.loads(rest)


@pytest.mark.spec("FR-021")
def test_a_client_that_knows_no_chunks_gets_none(carol: User, database_url: str) -> None:
    give(database_url, carol, 3 * PAGE)

    whole, _ = ask_as_of_old(carol)

    assert whole.getheader("transfer-encoding") is None


@contextmanager
def stalled(
    user: User, statement_log: StatementLog, behind: bytes = b""
) -> Iterator[tuple[socket.socket, http.client.HTTPResponse]]:
    """Ask for the list, read its head and then nothing, until the server has nowhere to write any more; send `behind`
    with the request."""
    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        wire.settimeout(60)
        wire.connect((user.http.base_url.host, user.http.base_url.port))
        wire.sendall(
            f"GET {user.tasks} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {user.token}\r\n\r\n".encode() + behind
        )
        answer = http.client.HTTPResponse(wire)
        answer.begin()
        until(lambda: quiet(statement_log), "the server reads on and on")
        yield wire, answer


def quiet(statement_log: StatementLog) -> bool:
    before = len(statement_log.all())
    time.sleep(0.3)
    return len(statement_log.all()) == before


def pages_read(statement_log: StatementLog) -> int:
    """Return how many pages have been asked for since the last call."""
    return sum("FROM task" in statement for statement in statement_log.new())


@pytest.mark.spec("FR-021", "SC-011")
def test_a_slow_reader_holds_no_connection_and_gets_all_in_the_end(
    settings: Settings, database_url: str, statement_log: StatementLog
) -> None:
    with serving(using(settings, database_url, database_pool_size=1, request_deadline=1)) as base_url:
        slow, other = User(base_url), User(base_url)
        newest_first = give(database_url, slow, MANY, text=LONG)
        statement_log.new()
        with slow.http, other.http, stalled(slow, statement_log) as (_, answer):
            before = pages_read(statement_log)
            task = other.add()
            listed = other.list()
            time.sleep(1.5)  # the deadline is for a statement, and not for a reader
            tasks = json.loads(answer.read())

    assert 1 <= before < MANY // PAGE
    assert listed == [task]
    assert [each["id"] for each in tasks] == newest_first


@pytest.mark.spec("FR-021")
@pytest.mark.parametrize("behind", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["alone", "another behind"])
def test_a_client_that_has_gone_is_read_to_no_more(
    app: Application, carol: User, database_url: str, statement_log: StatementLog, behind: bytes
) -> None:
    give(database_url, carol, MANY, text=LONG)
    statement_log.new()

    with stalled(carol, statement_log, behind) as (wire, answer):
        before = pages_read(statement_log)
        wire.close()
        answer.close()
    until(lambda: app.lines_of(answer.getheader("x-request-id")), "the server does not notice")

    assert quiet(statement_log)
    assert 1 <= before < MANY // PAGE
    assert pages_read(statement_log) == 0
    lines = app.lines_of(answer.getheader("x-request-id"))
    assert [(line["event"], line["level"]) for line in lines] == [("client-gone", "INFO"), ("broken-off", "INFO")]


@pytest.mark.spec("SC-011")
def test_a_hundred_thousand_tasks_take_little_memory_and_others_are_served_meanwhile(
    database_url: str, statement_log: StatementLog
) -> None:
    with application(database_url) as app, ThreadPoolExecutor(1) as thread:
        many, few = User(app.base_url), User(app.base_url)
        with many.http, few.http:
            newest_first = give(database_url, many, 100 * PAGE, text=100 * "x")
            task, before = few.add(), memory(app)
            statement_log.new()

            listing = thread.submit(many.list)
            while not listing.done():
                assert few.list() == [task]

            rise = memory(app) - before

    further = [") < (" in statement for statement in statement_log.new()]
    others = further[further.index(True) : -further[::-1].index(True)].count(False)
    print(f"{others} requests of another user between the pages; the memory has risen by {rise:.1f} MiB")
    assert [each["id"] for each in listing.result()] == newest_first
    assert further.count(True) >= 100  # more where its reader was waited for
    assert others > 10
    assert rise < 60
