"""What does a client get that sends too much, too slowly or nothing at all, and does anybody else notice it?"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from hostile.test_paths import answered, connected, exchange, raw, recorded
from people import User, signed
from running import serving
from servers import PATIENCE, Application, application, until
from starlette.types import Receive, Scope, Send

from backend.server.limits import Limits, most_connections
from backend.settings import Settings

HEAD = Limits.head_bytes
# Like those of `serve`, but for a test that cannot wait so long.
HASTY = Limits(keep_alive=2, head_seconds=1, body_seconds=1, body_most_seconds=3, stalled_seconds=2, linger_seconds=1)
LIMITED = "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
WITH_64_FILES = ("-c", f"{LIMITED}; runpy.run_module('backend', run_name='__main__')")


@pytest.fixture(scope="module")
def hasty(settings: Settings) -> Iterator[str]:
    with serving(settings, HASTY) as url:
        yield url


@pytest.fixture(scope="module")
def app(database_url: str) -> Iterator[Application]:
    with application(database_url) as app:
        yield app


def memory(app: Application) -> float:
    """Return the most that the process has ever had, in MiB."""
    status = Path(f"/proc/{app.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def everything(wire: socket.socket) -> bytes:
    """Read until the other side ends, however it does."""
    wire.settimeout(PATIENCE)
    received = b""
    with suppress(ConnectionResetError):
        while more := wire.recv(65_536):
            received += more
    return received


def reply(file: IO[bytes]) -> tuple[int, Any]:
    """Read one of several answers; returns its status and content."""
    status = int(file.readline().split()[1])
    headers = dict(line.lower().split(b": ", 1) for line in iter(file.readline, b"\r\n"))
    return status, json.loads(file.read(int(headers[b"content-length"])))


def problem(answer: bytes) -> tuple[int, dict[str, Any]]:
    """Return status and content of the last answer, which must look like all others and end the connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert {"date", "x-request-id", "vary"} <= headers.keys()
    assert headers["content-length"] == str(len(body))
    return int(status.split()[1]), json.loads(body)


def flood(address: tuple[str, int], beginning: bytes, piece: bytes, megabytes: int) -> tuple[int, bytes]:
    """Send the pieces until the server has had enough; return how many bytes it took, and its answer."""
    with socket.create_connection(address, timeout=5) as wire:
        wire.sendall(beginning)
        sent = 0
        with suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
            while sent < megabytes * 1_000_000:
                wire.sendall(piece)
                sent += len(piece)
        return sent, everything(wire)


MANY = b"".join(b"X-%06d: %s\r\n" % (number, b"y" * 50) for number in range(1_000))
CHUNKED = raw(None, "POST", "/api/u/tasks", f"Authorization: Bearer {signed('u')}", "Transfer-Encoding: chunked")
FLOODS = {
    "42 MB of small headers": (b"GET /health HTTP/1.1\r\nHost: x\r\n", MANY, 42),
    "one header of 150 MB": (b"GET /health HTTP/1.1\r\nHost: x\r\nX: ", b"y" * 1_000_000, 150),
    "a URL of 150 MB": (b"GET /", b"y" * 1_000_000, 150),
    "the name of a header of 150 MB": (b"GET /health HTTP/1.1\r\nHost: x\r\n", b"y" * 1_000_000, 150),
    "empty lines in front": (b"", b"\r\n" * 500_000, 42),
    "42 MB of trailers": (CHUNKED + b"0\r\n", MANY, 42),
    "42 MB of trailers behind the answer": (CHUNKED.replace(b"Bearer", b"No") + b"0\r\n", MANY, 42),
    "a chunk extension of 42 MB": (CHUNKED + b"1;", b"y" * 1_000_000, 42),
}


@pytest.mark.spec("FR-022")
@pytest.mark.parametrize(("beginning", "piece", "megabytes"), FLOODS.values(), ids=FLOODS)
def test_what_is_too_large_takes_neither_memory_nor_time(
    app: Application, beginning: bytes, piece: bytes, megabytes: int
) -> None:
    httpx.get(f"{app.base_url}/health")
    before = memory(app)

    sent, answer = flood(app.address, beginning, piece, megabytes)

    print(f"{sent:,} bytes taken, the memory has risen by {memory(app) - before:.1f} MiB")
    assert memory(app) - before < 12
    assert sent < megabytes * 1_000_000  # reading stops; what was sent all the same is in the system's buffers
    if b"No" in beginning:
        assert problem(answer)[0] == 401
    else:
        assert problem(answer) == (431, {"detail": "The URL and the headers of the request are too large."})
    assert httpx.get(f"{app.base_url}/health").is_success


@pytest.mark.spec("FR-022")
def test_100_000_requests_at_once_wait_outside(app: Application) -> None:
    httpx.get(f"{app.base_url}/health")
    before = memory(app)

    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)  # there is soon no room for the answers
        wire.settimeout(2)
        wire.connect(app.address)
        with suppress(TimeoutError):
            for _ in range(100):
                wire.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000)
        time.sleep(2)  # in which a server that reads them all has read most of them

    assert memory(app) - before < 12
    assert httpx.get(f"{app.base_url}/health").is_success


@pytest.mark.spec("FR-022")
@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 431)])
@pytest.mark.parametrize("by", [1, 1_000])
def test_a_head_has_64_kib_and_not_a_byte_more(base_url: str, more: int, status: int, by: int) -> None:
    """What counts is the URL, and of each header its name, its value and four bytes."""
    fixed = len("/health") + len("Host") + len("test") + 4
    lines = [f"X: {'y' * (by - 5)}"] * ((HEAD - fixed - 500) // by) if by > 5 else []
    used = fixed + len(lines) * by
    lines.append(f"X: {'y' * (HEAD - used - 5 + more)}")

    answer = exchange(base_url, raw(None, "GET", "/health", *lines))

    assert answer.status_code == status


def unanswered(user: User) -> dict[str, tuple[bytes, int | None]]:
    """Return what a client may begin and never end, and how it is told, if at all."""
    return {
        "nothing": (b"", None),
        "an empty line": (b"\r\n", None),
        "half a head": (raw(user, "GET", user.tasks)[:-2], 408),
        "a letter": (b"G", 408),
        "half a body": (raw(user, "POST", user.tasks, "Content-Length: 20", body=b"{"), 408),
        "half a chunk": (raw(user, "POST", user.tasks, "Transfer-Encoding: chunked", body=b"5\r\n{"), 408),
        "no body at all": (raw(user, "POST", user.tasks, "Content-Length: 20"), 408),
    }


@pytest.mark.spec("FR-022")
@pytest.mark.parametrize("kind", unanswered(User("http://x")))
def test_who_does_not_go_on_is_let_go(hasty: str, kind: str) -> None:
    user = User(hasty)
    begun, status = unanswered(user)[kind]

    with connected(hasty) as wire:
        wire.sendall(begun)
        answer = everything(wire)

    assert answer == b"" if status is None else problem(answer) == (
        408, {"detail": "The request took too long to arrive."}
    )  # fmt: skip
    with user.http:
        assert user.list() == []


def is_closed(wire: socket.socket) -> bool:
    """Return whether the other side takes no more; a byte that it does not expect any more tells."""
    try:
        wire.sendall(b"x")
    except ConnectionError:
        return True
    return False


@pytest.mark.spec("FR-022")
def test_who_was_refused_and_does_not_go_is_let_go(hasty: str) -> None:
    with connected(hasty) as wire:
        wire.sendall(b"?\r\n\r\n")
        refused = everything(wire)

        until(lambda: is_closed(wire), "the connection stays open")

    assert problem(refused)[0] == 400


@pytest.mark.spec("FR-022")
def test_a_body_is_not_late_while_the_application_does_not_read_it() -> None:
    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(HASTY.body_most_seconds + 3)
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    with serving(None, HASTY, app, lifespan="off") as url, connected(url) as wire:
        wire.sendall(raw(None, "POST", "/", "Content-Length: 200000", body=200_000 * b"x"))

        assert answered(wire).status_code == 200


@pytest.mark.spec("FR-022")
@pytest.mark.parametrize("kind", ["head", "body"])
def test_a_byte_now_and_then_is_not_progress_enough(hasty: str, alice: User, kind: str) -> None:
    begun = raw(alice, "GET", alice.tasks)[:-2] if kind == "head" else raw(
        alice, "POST", alice.tasks, "Content-Length: 1000"
    )  # fmt: skip
    with connected(hasty) as wire:
        wire.settimeout(0.2)
        wire.sendall(begun)
        received, deadline = b"", time.monotonic() + PATIENCE
        while not received and time.monotonic() < deadline:
            wire.sendall(b"x")
            try:
                received = wire.recv(65_536)
            except TimeoutError:
                continue

    assert received.startswith(b"HTTP/1.1 408 ")


def test_a_slow_but_steady_body_is_waited_for(hasty: str) -> None:
    """1,000 bytes a second are twice what is asked for."""
    user, body = User(hasty), b'{"title": "x", "pad": "' + b"y" * 2_000 + b'"}'

    with connected(hasty) as wire, user.http:
        wire.sendall(raw(user, "POST", user.tasks, f"Content-Length: {len(body)}"))
        for start in range(0, len(body), 100):
            wire.sendall(body[start : start + 100])
            time.sleep(0.1)
        answer = answered(wire)

        assert answer.status_code == 201
        assert len(user.list()) == 1


@pytest.mark.spec("FR-022")
def test_an_idle_connection_is_kept_so_long_as_was_set(settings: Settings) -> None:
    with serving(settings, Limits(keep_alive=3)) as url, connected(url) as wire:
        wire.sendall(raw(None, "GET", "/health"))
        first = answered(wire)
        time.sleep(2)
        wire.sendall(raw(None, "GET", "/health"))
        second = answered(wire)
        started = time.monotonic()
        rest = everything(wire)

    assert (first.status_code, second.status_code, rest) == (200, 200, b"")
    assert time.monotonic() - started > 2  # counted from the last answer


@pytest.mark.spec("FR-022")
def test_who_takes_nothing_of_an_answer_is_let_go(settings: Settings, database_url: str) -> None:
    from lists import give

    with serving(settings, HASTY) as url, recorded() as lines, socket.socket() as wire:
        user = User(url)
        give(database_url, user, 20_000, text=1_000 * "x")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        wire.connect((user.http.base_url.host, user.http.base_url.port))
        wire.sendall(raw(user, "GET", user.tasks))

        until(lambda: any("client gone" in line for line in lines), "the client is waited for")


HALF = b"GET /health HTTP/1.1\r\nHost: x\r\n"


@contextmanager
def crowd(app: Application, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        wires = [stack.enter_context(socket.create_connection(app.address)) for _ in range(count)]
        for wire in wires:
            try:
                wire.sendall(sent)
            except OSError:  # it has been closed already
                continue
        yield wires


@pytest.mark.spec("FR-022")
@pytest.mark.parametrize("sent", [b"", HALF], ids=["silent", "half heads"])
def test_a_hundred_half_heads_on_64_files_leave_room_for_the_honest(database_url: str, sent: bytes) -> None:
    with application(database_url, program=WITH_64_FILES) as app:
        user = User(app.base_url)
        with crowd(app, 100, sent), user.http:
            tasks = [user.add(f"Task {number}") for number in range(10)]
            listed = user.list()
            until(lambda: app.events("connections-closed"), "the log does not say so")
        told, errors = app.events("connections-closed"), [line for line in app.events() if line["level"] == "ERROR"]

    assert listed == tasks[::-1]
    assert len(told) == 1
    assert int(told[0]["message"].split()[0]) >= 100 - 64
    assert errors == []


def begin(url: str, sent: bytes, stack: ExitStack) -> socket.socket:
    wire = stack.enter_context(connected(url))
    wire.sendall(sent)
    time.sleep(0.1)
    return wire


@pytest.mark.spec("FR-022")
def test_who_is_waited_for_makes_room_and_who_is_served_stays() -> None:
    going = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await asyncio.get_running_loop().run_in_executor(None, going.wait)
        elif scope["path"] == "/body":
            await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    slow = raw(None, "GET", "/slow")
    with serving(None, Limits(connections=5), app, lifespan="off") as url, ExitStack() as stack:
        stack.callback(going.set)  # else a failure would wait for the thread for ever
        idle = begin(url, raw(None, "GET", "/"), stack)
        body = begin(url, raw(None, "POST", "/body", "Content-Length: 9"), stack)
        unwanted = begin(url, raw(None, "POST", "/", "Content-Length: 9"), stack)
        answered(idle)
        answered(unwanted)
        silent, half = begin(url, b"", stack), begin(url, HALF, stack)
        gone, served = [], []
        for wire in (silent, half, idle, body, unwanted):
            served.append(begin(url, slow, stack))
            gone.append(everything(wire))
        refused = everything(begin(url, b"", stack))
        going.set()
        statuses = [answered(wire).status_code for wire in served]

    assert (gone, refused) == ([b""] * 5, b"")
    assert statuses == [200] * 5


@pytest.mark.spec("FR-022")
@pytest.mark.parametrize("size", [1, 10_000_000], ids=["still being made", "not taken"])
def test_who_gets_a_long_answer_makes_room(size: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        long = scope["path"] == "/long"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * size * long, "more_body": long})
        while long and (await receive())["type"] != "http.disconnect":
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    with serving(None, Limits(connections=1), app, lifespan="off") as url, ExitStack() as stack:
        gone = begin(url, raw(None, "GET", "/long"), stack)
        other = begin(url, raw(None, "GET", "/"), stack)

        assert answered(other).status_code == 200
        assert len(everything(gone)) < size + 500


def test_what_the_files_cannot_bear_is_told_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from backend.errors import OperatorError

    monkeypatch.setattr("resource.getrlimit", lambda _: (64, 64))
    assert most_connections(None, 5) == 22
    assert most_connections(20, 5) == 20
    with pytest.raises(OperatorError, match=r"^64 open files are too few for 23 clients: .* need 42\. Raise"):
        most_connections(23, 5)
    monkeypatch.setattr("resource.getrlimit", lambda _: (1_000_000, 1_000_000))
    assert most_connections(None, 5) == Limits.connections
    assert most_connections(50_000, 5) == 50_000
    monkeypatch.setattr("resource.getrlimit", lambda _: (-1, -1))
    assert most_connections(None, 5) == Limits.connections


TRAILERS: dict[str, Callable[[User], str]] = {
    "Authorization": lambda user: f"Authorization: Bearer {user.token}",
    "X-Request-Id": lambda _: "X-Request-Id: from-a-trailer",
    "Origin": lambda _: "Origin: http://localhost:3000",
    "Content-Type": lambda _: "Content-Type: text/html",
}


@pytest.mark.spec("FR-023")
@pytest.mark.parametrize("name", TRAILERS)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
def test_a_trailer_is_no_header(base_url: str, alice: User, name: str, *, late: bool) -> None:
    trailer = f"0\r\n{TRAILERS[name](alice)}\r\n\r\n".encode()
    stranger, owner = (
        raw(user, "POST", alice.tasks, "Transfer-Encoding: chunked", body=b'd\r\n{"title":"x"}\r\n')
        for user in (None, alice)
    )

    with connected(base_url) as wire:
        wire.sendall(owner if late else owner + trailer)
        if late:
            time.sleep(0.05)
            wire.sendall(trailer)
        honest = answered(wire)
        wire.sendall(stranger + trailer)
        refused = answered(wire)

    assert (honest.status_code, refused.status_code) == (201, 401)
    assert honest.headers["x-request-id"] != "from-a-trailer"
    assert "access-control-allow-origin" not in honest.headers
    assert len(alice.list()) == 1


@pytest.mark.spec("FR-023")
@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0, HTTP/2.0"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_upgrade_that_is_not_known_is_served_as_if_there_were_none(
    base_url: str, alice: User, protocol: str, framing: str
) -> None:
    title = b'{"title":"x"}'
    line, body = ("Content-Length: 13", title) if framing == "length" else (
        "Transfer-Encoding: chunked", b"d\r\n" + title + b"\r\n0\r\n\r\n"
    )  # fmt: skip
    lines = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    create = raw(alice, "POST", alice.tasks, *lines, line, body=body)
    read = raw(alice, "GET", alice.tasks, *lines)

    with connected(base_url) as wire, wire.makefile("rb") as file:
        wire.sendall(create + read)
        created, listed = reply(file), reply(file)
        for byte in create:
            wire.sendall(bytes([byte]))
        slowly = reply(file)

    assert (created[0], slowly[0], listed) == (201, 201, (200, [created[1]]))
    assert len(alice.list()) == 2


@pytest.mark.spec("FR-023")
@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
def test_what_is_behind_connect_is_never_a_request(base_url: str, alice: User, *, later: bool) -> None:
    create = raw(alice, "POST", alice.tasks, "Content-Length: 13", body=b'{"title":"x"}')
    connect = raw(alice, "CONNECT", alice.tasks)

    with connected(base_url) as wire:
        wire.sendall(connect if later else connect + create)
        if later:
            time.sleep(0.05)
            with suppress(OSError):  # where it is closed already, that is as good
                wire.sendall(create)
        answer = everything(wire)

    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nconnection: close\r\n" in answer
    assert alice.list() == []
