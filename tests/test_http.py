"""Is what goes over the wire HTTP, whatever the application does?"""

import asyncio
import inspect
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from hostile.test_paths import answered, connected, exchange, raw, recorded
from hostile.test_rude_clients import everything, problem, reply
from people import User
from running import serving
from servers import until
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from backend.server import wire
from backend.server.clients import StartQueue

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
Work = Callable[[Receive, Send], Awaitable[None]]


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(content: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


@contextmanager
def doing(work: Work, **options: Any) -> Iterator[str]:
    """Serve an application that does this for each request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await work(receive, send)

    with serving(None, app=app, lifespan="off", **options) as url:
        yield url


def sending(*messages: Message) -> Work:
    async def work(_receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return work


def test_uvicorn_still_makes_and_stops_its_protocols_as_ours_is_made_and_stopped() -> None:
    """What uvicorn does not document: the arguments, `shutdown`, and what `Server` looks at until it may stop."""
    parameters = list(inspect.signature(HttpToolsProtocol.__init__).parameters)

    assert parameters == ["self", "config", "server_state", "app_state", "_loop"]
    assert (ServerState().connections, ServerState().tasks) == (set(), set())
    assert callable(HttpToolsProtocol.shutdown)


def whole(url: str, request: bytes) -> tuple[bytes, bytes]:
    """Return head and body of the only answer on a connection that the other side ends."""
    with connected(url) as line:
        line.sendall(request)
        line.shutdown(socket.SHUT_WR)
        head, _, rest = everything(line).partition(b"\r\n\r\n")
    return head, rest


LENGTH = (b"content-length", b"3")
ANSWERS = {
    "a length": (GET, [start(LENGTH), body(b"abc")], b"content-length: 3", b"abc"),
    "a length, in pieces": (GET, [start(LENGTH), body(b"a", more=True), body(b"bc")], b"content-length: 3", b"abc"),
    "chunks": (GET, [start(), body(b"abc")], b"transfer-encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n"),
    "empty pieces": (
        GET, [start(), body(b"", more=True), body(b"a", more=True), body(b"")], b"chunked", b"1\r\na\r\n0\r\n\r\n",
    ),
    "HTTP/1.0": (OLD, [start(), body(b"ab", more=True), body(b"c")], b"connection: close", b"abc"),
    "HEAD": (GET.replace(b"GET", b"HEAD"), [start(LENGTH), body(b"abc")], b"content-length: 3", b""),
    "HEAD without a length": (GET.replace(b"GET", b"HEAD"), [start(), body(b"abc")], b"200 OK", b""),
    "204": (GET, [start(status=204), body(b"")], b"204 No Content", b""),
    "304": (GET, [start(status=304), body(b"abc")], b"304 Not Modified", b""),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "messages", "told", "content"), ANSWERS.values(), ids=ANSWERS)
def test_the_end_of_an_answer_is_told_as_the_client_can_understand_it(
    request_: bytes, messages: list[Message], told: bytes, content: bytes
) -> None:
    with doing(sending(*messages)) as url:
        head, rest = whole(url, request_)

    assert told in head
    assert rest == content
    assert (b"chunked" in head) == (b"0\r\n\r\n" in content)
    assert head.count(b"\r\ndate: ") == 1
    assert b"server:" not in head


BUGS: dict[str, list[Message]] = {
    "a line feed in a value": [start((b"x", b"a\r\nset-cookie: b")), body(b"")],
    "a bare LF in a value": [start((b"x", b"a\nset-cookie: b")), body(b"")],
    "a line feed in a name": [start((b"x: a\r\nset-cookie", b"b")), body(b"")],
    "a body first": [body(b"abc")],
    "two heads": [start(), start()],
    "nothing": [{"type": "http.response.trailers"}],
}


@pytest.mark.parametrize("messages", BUGS.values(), ids=BUGS)
def test_an_application_that_is_wrong_is_a_500_with_its_trace_in_the_log(messages: list[Message]) -> None:
    with doing(sending(*messages)) as url, recorded() as lines, connected(url) as line:
        line.sendall(GET)
        answer = everything(line)

    assert problem(answer) == (500, {"detail": "Internal server error."})
    assert b"set-cookie" not in answer
    assert sum("ERROR failed" in line for line in lines) == 1


BROKEN = {
    "too long": [start(LENGTH), body(b"a", more=True), body(b"bcd")],
    "too short": [start(LENGTH), body(b"a", more=True), body(b"b")],
    "without end": [start(), body(b"a", more=True)],
    "nothing at all": [],
}


@pytest.mark.parametrize("messages", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_goes_wrong_in_the_middle_has_no_end(messages: list[Message]) -> None:
    with doing(sending(*messages)) as url, connected(url) as line:
        line.sendall(GET + GET)
        answer = everything(line)

    assert answer.partition(b"\r\n\r\n")[2] in {b"a", b"1\r\na\r\n", b""}


def test_a_header_is_checked_before_it_is_written() -> None:
    with pytest.raises(ValueError, match="line break"):
        wire.head(200, b"today", [(b"x", b"a\rb")])


def test_pipelined_requests_are_answered_in_their_order_also_when_no_more_will_come(base_url: str, alice: User) -> None:
    create = raw(alice, "POST", alice.tasks, "Content-Length: 13", body=b'{"title":"x"}')
    read = raw(alice, "GET", alice.tasks)

    with connected(base_url) as line, line.makefile("rb") as file:
        line.sendall(create + read + raw(alice, "GET", "/nowhere") + create + read)
        line.shutdown(socket.SHUT_WR)
        replies = [reply(file) for _ in range(5)]
        rest = file.read()

    assert [status for status, _ in replies] == [201, 200, 404, 201, 200]
    assert [len(replies[each][1]) for each in (1, 4)] == [1, 2]
    assert rest == b""


def test_who_makes_a_mistake_gets_the_answers_before_it(base_url: str, alice: User) -> None:
    with connected(base_url) as line, line.makefile("rb") as file:
        line.sendall(raw(alice, "GET", alice.tasks) + raw(alice, "GET", alice.tasks, "X : y") + GET)
        first, second = reply(file), reply(file)
        rest = file.read()

    assert (first, second[0], rest) == ((200, []), 400, b"")


@pytest.mark.parametrize(("rest", "kept"), [(60_000, True), (70_000, False)])
def test_a_body_that_nobody_wants_is_read_on_if_it_is_short(
    base_url: str, alice: User, rest: int, *, kept: bool
) -> None:
    with connected(base_url) as line:
        line.sendall(raw(None, "POST", alice.tasks, f"Content-Length: {rest}"))
        refused = answered(line)
        line.sendall(b"x" * rest)
        if kept:
            line.sendall(raw(alice, "GET", alice.tasks))
            assert answered(line).json() == []
        else:
            assert everything(line) == b""

    assert refused.status_code == 401
    assert ("connection" in refused.headers) == (not kept)


@pytest.mark.parametrize("length", [66_000, 100_000, 130_000])
def test_a_body_that_nobody_wants_and_that_is_there_already_ends_as_well(
    base_url: str, alice: User, length: int
) -> None:
    refused = raw(None, "POST", alice.tasks, f"Content-Length: {length}", body=b"x" * length)

    with connected(base_url) as line, line.makefile("rb") as file:
        line.sendall(refused + raw(alice, "GET", alice.tasks, "Connection: close"))
        statuses = [each.split(b" ", 1)[0] for each in file.read().split(b"HTTP/1.1 ")[1:]]

    assert statuses in ([b"401", b"200"], [b"401"])


def test_who_asked_first_and_was_refused_may_have_sent_no_body(base_url: str, alice: User) -> None:
    """Its next request would be taken for the body."""
    with connected(base_url) as line:
        line.sendall(raw(None, "POST", alice.tasks, "Content-Length: 100", "Expect: 100-continue"))
        refused = answered(line)

    assert (refused.status_code, refused.headers["connection"]) == (401, "close")


@pytest.mark.parametrize("chunk", [b"x\r\n", b"5\r\nabcdefgh\r\n"])
def test_a_body_that_goes_wrong_is_a_400(base_url: str, alice: User, chunk: bytes) -> None:
    with connected(base_url) as line:
        line.sendall(raw(alice, "POST", alice.tasks, "Transfer-Encoding: chunked"))
        time.sleep(0.05)
        line.sendall(chunk)
        answer = everything(line)

    assert problem(answer)[0] == 400
    assert alice.list() == []


def test_an_application_waits_for_a_client_that_reads_slowly() -> None:
    sent = 0

    async def work(_receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(start())
        for _ in range(300):
            await send(body(b"x" * 100_000, more=True))
            sent += 1
        await send(body(b""))

    with doing(work) as url, connected(url) as line:
        line.sendall(GET)
        before = -1
        while before != sent:
            before = sent
            time.sleep(0.3)
        waited, answer = sent, answered(line)

    assert 1 <= waited < 300
    assert len(answer.content) == 30_000_000


def test_when_the_time_to_stop_runs_out_there_is_a_line_for_each_request_and_no_trace() -> None:
    begun = False

    async def work(_receive: Receive, _send: Send) -> None:
        nonlocal begun
        begun = True
        await asyncio.sleep(60)

    with recorded() as lines, doing(work, timeout_graceful_shutdown=1) as url, connected(url) as line:
        line.sendall(GET)
        until(lambda: begun, "the request does not arrive")

    assert [each for each in lines if "Traceback" in each] == []
    assert [each.split(" ", 2)[2] for each in lines if "cut off" in each] == [
        "cut off, as the time to stop has run out"
    ]


def test_the_last_answers_of_a_server_that_stops_say_so() -> None:
    going = asyncio.Event()

    async def work(_receive: Receive, send: Send) -> None:
        going.set()
        await asyncio.sleep(0.5)
        await send(start(LENGTH))
        await send(body(b"abc"))

    with recorded() as lines, serving_in_thread(work) as (line, stop):
        line.sendall(GET)
        until(going.is_set, "the request does not arrive")
        stop()
        answer = answered(line)

    assert (answer.content, answer.headers["connection"]) == (b"abc", "close")
    assert [each for each in lines if "ERROR" in each] == []


@contextmanager
def serving_in_thread(work: Work) -> Iterator[tuple[socket.socket, Callable[[], None]]]:
    """Yield a connection, and what makes the server stop."""
    leave = threading.Event()
    ready: list[str] = []

    def serve() -> None:
        with doing(work) as url:
            ready.append(url)
            leave.wait()

    thread = threading.Thread(target=serve)
    thread.start()
    until(lambda: ready, "it does not start")
    with connected(ready[0]) as line:
        try:
            yield line, leave.set
        finally:
            leave.set()
            thread.join()


def test_a_target_may_be_absolute_or_carry_a_fragment(base_url: str) -> None:
    for target in ("/health#x", "http://evil.test/health?x#y", "HTTP://evil.test:1/health"):
        assert exchange(base_url, raw(None, "GET", target)).status_code == 200
    assert exchange(base_url, raw(None, "GET", "http://evil.test")).status_code == 404


async def test_sixteen_requests_at_most_are_started_in_one_iteration_and_in_their_order() -> None:
    queue, started = StartQueue(), list[int]()
    for number in range(40):
        queue.add(partial(started.append, number))

    counts = [len(started)]
    for _ in range(3):
        await asyncio.sleep(0)
        counts.append(len(started))

    assert counts == [16, 32, 40, 40]
    assert started == list(range(40))
