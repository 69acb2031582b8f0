"""What do clients notice when processes are killed and replaced, or other clients behave badly?"""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from databases import upgrade
from faults.befall import GUARD, befall, settle
from faults.load import Load
from people import signed
from servers import Application, Postgres, application, debian_postgres, until

REQUEST = "GET /api/{0}/tasks HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {1}\r\n"
ENOUGH = 20_000


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """The socket that an old and a new instance share, as systemd or a small launcher holds it."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield listener


@pytest.fixture(scope="module")
def app(server: Postgres) -> Iterator[Application]:
    with application(server.url()) as app:
        yield app


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_rolling_restart_fails_no_request(server: Postgres, listener: socket.socket, workers: int) -> None:
    with ExitStack() as stack:

        def serve() -> Application:
            arguments = ("--workers", str(workers)) if workers > 1 else ()
            return stack.enter_context(
                application(server.url(), *arguments, listener=listener, processes=workers)
            )  # fmt: skip

        old, codes = serve(), []
        load = Load(old.address, 10, 0.02)
        with load.running():
            for _ in range(2):
                new = serve()
                codes.append(old.stop())
                old = new
            time.sleep(0.3)

        outcome = settle(f"rolling restart, {workers} worker(s) each", new, load, 0)

    assert codes == [0, 0]
    assert outcome.tally.failures == {}


@pytest.mark.long
def test_sigterm_finishes_what_is_under_way(server: Postgres, listener: socket.socket) -> None:
    with ExitStack() as stack:
        old = stack.enter_context(application(server.url(), listener=listener))
        load = Load(old.address, 10, 0)
        with load.running():
            time.sleep(0.5)
            code = old.stop()
            # Who came later waits in the socket's queue for the next one.
            new = stack.enter_context(application(server.url(), listener=listener))
            time.sleep(0.5)
        outcome = settle("SIGTERM, then a new process", new, load, 0)

    assert code == 0
    assert outcome.tally.failures == {}


def test_sigterm_lets_a_slow_statement_end(server: Postgres, listener: socket.socket) -> None:
    with application(server.url(), listener=listener) as app, socket.create_connection(app.address) as line:
        line.sendall((REQUEST.format("u", signed("u")) + "\r\n").encode())
        assert empty_list(line).startswith(b"HTTP/1.1 200")
        with server.locked(1.5):
            line.sendall((REQUEST.format("u", signed("u")) + "\r\n").encode())
            time.sleep(0.3)
            app.process.send_signal(signal.SIGTERM)
            answer = empty_list(line)

        assert answer.startswith(b"HTTP/1.1 200")
        assert app.process.wait(GUARD) == 0


def empty_list(line: socket.socket) -> bytes:
    """Read the whole answer of somebody who has no tasks; head and body come one after the other."""
    line.settimeout(GUARD)
    answer = b""
    while not answer.endswith(b"[]"):
        answer += line.recv(65_536)
    return answer


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_can_be_told_before_it_happens(server: Postgres, listener: socket.socket, workers: int) -> None:
    arguments = ("--workers", str(workers)) if workers > 1 else ()
    # A connection for each request, so that either worker may answer it.
    with (
        application(server.url(), *arguments, listener=listener, processes=workers, STOP_DELAY="4") as app,
        httpx.Client(base_url=app.base_url, headers={"Connection": "close"}) as client,
    ):
        until(lambda: client.get("/readyz").status_code == 200, "it is not ready")
        app.process.send_signal(signal.SIGTERM)
        # Each worker hears of it by itself.
        until(lambda: all(client.get("/readyz").status_code == 503 for _ in range(20)), "nobody is told")
        told, alive = client.get("/readyz").json(), client.get("/livez").status_code

        assert (told, alive) == ({"detail": "Not ready: stopping."}, 200)
        assert app.process.wait(GUARD) == 0


@pytest.mark.long
def test_a_start_without_a_database_serves_503_and_recovers() -> None:
    with debian_postgres(fsync="off") as late:
        upgrade(late.url())
        late.stop()
        with application(late.url(), REQUEST_DEADLINE="1") as app:
            outcome = befall("started without its database", app, late.start, calm=1.5)

    assert outcome.tally.failed > 0


def test_slow_and_half_closed_clients_hinder_nobody(app: Application) -> None:
    head = REQUEST.format("slow", signed("slow"))
    post = head.replace("GET", "POST") + "Content-Length: 100\r\n\r\n{"
    with ExitStack() as stack:

        def connect(sent: str) -> socket.socket:
            line = stack.enter_context(socket.create_connection(app.address))
            line.sendall(sent.encode())
            return line

        def misbehave() -> None:
            slow = [connect(head) for _ in range(100)] + [connect(post) for _ in range(100)]
            for _ in range(3):
                for line in slow:
                    line.sendall(b"X")
                time.sleep(0.2)
            for line in slow[:50]:
                line.shutdown(socket.SHUT_WR)
            for line in slow[50:150]:
                line.close()

        outcome = befall("200 clients with slow heads and bodies", app, misbehave)
        half_closed = [connect(f"{head}\r\n") for _ in range(50)]
        for line in half_closed:
            line.shutdown(socket.SHUT_WR)
        answers = [whole(line) for line in half_closed]

    assert outcome.tally.failures == {}
    assert {answer[:15] for answer in answers} == {b"HTTP/1.1 200 OK"}


def whole(line: socket.socket) -> bytes:
    """Read until the other side has ended, too."""
    line.settimeout(GUARD)
    answer = b""
    while more := line.recv(65_536):
        answer += more
    return answer


def test_clients_that_go_away_give_their_connection_back(app: Application, server: Postgres) -> None:
    head = f"{REQUEST.format('gone', signed('gone'))}\r\n".encode()
    with server.locked(1):
        for _ in range(50):
            with socket.create_connection(app.address) as line:
                line.sendall(head)

    outcome = befall("50 clients gone while they waited", app, lambda: None)

    assert outcome.tally.failures == {}


def test_512_idle_clients_hinder_nobody(app: Application) -> None:
    head = f"{REQUEST.format('idle', signed('idle'))}\r\n".encode()
    with ExitStack() as stack:

        def stay() -> None:
            lines = [stack.enter_context(socket.create_connection(app.address)) for _ in range(512)]
            # Not more at once than may wait however slow the machine is just now.
            for some in (lines[n : n + 64] for n in range(0, 512, 64)):
                for line in some:
                    line.sendall(head)
                assert {line.recv(65_536)[:15] for line in some} == {b"HTTP/1.1 200 OK"}

        outcome = befall("512 idle keep-alive clients", app, stay)

    assert outcome.tally.failures == {}


@pytest.mark.long
def test_no_kill_of_application_or_database_loses_an_acknowledged_write(listener: socket.socket) -> None:
    with debian_postgres() as server:
        upgrade(server.url())
        load = Load(listener.getsockname()[:2], 40, 0)
        with ExitStack() as stack:
            app = stack.enter_context(application(server.url(), listener=listener))
            with load.running():
                for _ in range(20):
                    time.sleep(1)
                    app.process.kill()
                    app.process.wait()
                    app = stack.enter_context(application(server.url(), listener=listener))
                for _ in range(20):
                    time.sleep(1)
                    server.kill()
                    server.start()
                returned = time.monotonic()
                until(lambda: load.tally.writes >= ENOUGH, "there are not enough writes", 600)

            outcome = settle("kill -9 of the application x20, of the database x20", app, load, 0, returned)

    print(f"{outcome.tally.writes:,} acknowledged writes")
    assert outcome.row.lost == 0
