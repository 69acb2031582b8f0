"""What do clients notice when the database has a bad moment? Real servers, real load; counts are asserted."""

import signal
import time
from collections.abc import Iterator

import pytest
from databases import upgrade
from faults.befall import befall, settle
from faults.load import Load
from relay import Relay, error_response
from servers import Application, Postgres, application, debian_postgres, until

from backend.database import statements

BACKENDS = "SELECT {} FROM pg_stat_activity WHERE application_name LIKE 'todo-backend %'"
DEADLINE = 2.0
# Nobody can tell whether a toggle that was under way has been done, and doing it again would undo it.
ONLY_TOGGLES = {"PATCH 503"}


@pytest.fixture(scope="module")
def relay(server: Postgres) -> Iterator[Relay]:
    with Relay(("127.0.0.1", server.port)).running() as relay:
        yield relay


@pytest.fixture(scope="module")
def app(server: Postgres, relay: Relay) -> Iterator[Application]:
    """With TLS, through the relay, and with the settings that it comes with."""
    with application(server.url(relay.port)) as app:
        yield app


@pytest.fixture(scope="module")
def second_relay(server: Postgres) -> Iterator[Relay]:
    with Relay(("127.0.0.1", server.port)).running() as relay:
        yield relay


@pytest.fixture(scope="module")
def impatient(server: Postgres, second_relay: Relay) -> Iterator[Application]:
    """With a short deadline, for faults that last longer than any; on a relay of its own."""
    with application(server.url(second_relay.port), REQUEST_DEADLINE=str(DEADLINE)) as app:
        yield app


def test_idle_connections_that_are_killed_cost_nobody_anything(app: Application, server: Postgres) -> None:
    load, seen = Load(app.address, 20, 0), len(app.events())
    for _ in range(3):
        with load.running():
            time.sleep(0.3)
        server.ask(BACKENDS.format("pg_terminate_backend(pid)"))
        until(lambda: server.ask(BACKENDS.format("count(*)")) == "0", "the connections survive")
        returned = time.monotonic()
    with load.running():
        time.sleep(0.3)

    outcome = settle("idle connections killed", app, load, seen, returned)

    assert outcome.tally.failures == {}


def test_busy_connections_that_are_killed_cost_toggles_alone(app: Application, server: Postgres) -> None:
    def kill() -> None:
        for _ in range(5):
            server.ask(BACKENDS.format("pg_terminate_backend(pid)"))
            time.sleep(0.3)

    outcome = befall("busy connections killed", app, kill, pause=0)

    assert set(outcome.tally.failures) <= ONLY_TOGGLES


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("restart, fast", signal.SIGINT),
        pytest.param("restart, immediate", signal.SIGQUIT, marks=pytest.mark.long),
        ("kill -9", None),
    ],
)
def test_a_restart_costs_toggles_alone(
    app: Application, server: Postgres, name: str, way: signal.Signals | None
) -> None:
    def restart() -> None:
        if way:
            server.stop(way)
        else:
            server.kill()
        server.start()

    outcome = befall(f"server: {name}", app, restart)

    assert set(outcome.tally.failures) <= ONLY_TOGGLES


@pytest.mark.long
def test_ten_seconds_without_a_server_lose_nothing(app: Application, server: Postgres) -> None:
    def pause() -> None:
        server.stop()
        time.sleep(10)
        server.start()

    outcome = befall("server stopped 10 s", app, pause)

    assert outcome.row.slowest < 20  # twice the deadline


def test_connections_that_are_reset_cost_toggles_alone(app: Application, relay: Relay) -> None:
    def reset() -> None:
        for _ in range(5):
            relay.reset()
            time.sleep(0.3)

    outcome = befall("connections reset", app, reset)

    assert set(outcome.tally.failures) <= ONLY_TOGGLES


@pytest.mark.long
def test_connections_that_are_half_closed_cost_toggles_alone(app: Application, relay: Relay) -> None:
    outcome = befall("connections half-closed", app, relay.half_close)

    assert set(outcome.tally.failures) <= ONLY_TOGGLES


@pytest.mark.long
def test_a_slow_database_is_waited_for(app: Application, relay: Relay) -> None:
    def slow() -> None:
        relay.delay, relay.bytes_per_second = 0.3, 20_000
        time.sleep(2)
        relay.delay = relay.bytes_per_second = 0

    outcome = befall("slow database (600 ms, 20 kB/s)", app, slow)

    assert outcome.tally.failures == {}


@pytest.mark.long
def test_a_stalled_database_is_waited_for(app: Application, relay: Relay) -> None:
    def stall() -> None:
        relay.frozen = True
        time.sleep(2)
        relay.frozen = False

    outcome = befall("database stalled 2 s", app, stall)

    assert outcome.tally.failures == {}


def test_a_black_hole_is_left_at_the_deadline(impatient: Application, second_relay: Relay) -> None:
    def vanish() -> None:
        second_relay.hole = True
        second_relay.lose()
        time.sleep(2 * DEADLINE)
        second_relay.hole = False

    outcome = befall("black hole (deadline 2 s)", impatient, vanish)

    assert outcome.tally.failed > 0
    assert outcome.row.slowest < 2 * DEADLINE  # a plain asyncio.timeout came back after six times the deadline


@pytest.mark.long
def test_connections_that_a_router_forgot_are_found_out_together(impatient: Application, second_relay: Relay) -> None:
    name = "idle connections forgotten by a router"
    outcome = befall(name, impatient, second_relay.lose, clients=2, calm=2 * DEADLINE)

    assert outcome.tally.failed <= 2 * 2  # not one deadline for each of the pool's connections


@pytest.mark.long
def test_a_locked_table_is_waited_for_until_the_deadline(impatient: Application, server: Postgres) -> None:
    def lock(seconds: float) -> None:
        server.ask(f"BEGIN; LOCK TABLE task; SELECT pg_sleep({seconds}); COMMIT")

    short = befall("table locked 1 s", impatient, lambda: lock(1))
    long = befall("table locked 5 s (deadline 2 s), pool exhausted", impatient, lambda: lock(5), clients=30)

    assert short.tally.failures == {}
    assert long.tally.failed >= 30
    assert long.row.slowest < 2 * DEADLINE
    assert server.ask("SELECT count(*) FROM pg_locks WHERE NOT granted") == "0"


def test_a_read_only_database_still_reads_and_says_that_nothing_was_changed(app: Application, server: Postgres) -> None:
    def read_only() -> None:
        server.ask("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        time.sleep(1.5)
        # Read-only or not, the server's own settings may be changed.
        server.ask("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")

    outcome = befall("read-only", app, read_only)

    assert outcome.tally.failed > 0
    assert set(outcome.tally.failures) <= {"POST 503", "PUT 503", "PATCH 503", "DELETE 503"}


@pytest.mark.long
def test_a_full_disk_still_reads_and_says_that_nothing_was_changed(server: Postgres) -> None:
    names = [each.name.encode() for each in statements.ALL if not each.reads]
    full = error_response("53100", "could not extend file: No space left on device")

    with Relay(("127.0.0.1", server.port)).running() as plain:

        def fill() -> None:
            # B binds arguments to a prepared statement.
            plain.refuse = lambda sent: full if sent[:1] == b"B" and any(name in sent for name in names) else None
            time.sleep(1)
            plain.refuse = None

        with application(server.url(plain.port, options="sslmode=disable")) as app:
            outcome = befall("disk full", app, fill)

    assert outcome.tally.failed > 0
    assert set(outcome.tally.failures) <= {"POST 503", "PUT 503", "PATCH 503", "DELETE 503"}


@pytest.mark.long
def test_a_server_with_few_connections_keeps_some_for_others() -> None:
    with debian_postgres(max_connections="8", fsync="off") as server:
        upgrade(server.url())
        with application(server.url(), "--workers", "2", processes=2) as app:
            outcome = befall("30 clients, a server with 5 connections, 2 workers", app, lambda: None, clients=30)
            ours = server.ask(BACKENDS.format("count(*)"))

    assert outcome.tally.failures == {}
    assert int(ours) <= 2  # of five, 85 %, for two workers


@pytest.mark.long
def test_where_others_took_the_connections_the_rest_is_shared() -> None:
    with debian_postgres(max_connections="8", fsync="off") as server:
        upgrade(server.url())
        with application(server.url(), DATABASE_POOL_SIZE="10") as app:
            outcome = befall("30 clients, a pool of 10, a server with 5 connections", app, lambda: None, clients=30)

    assert outcome.tally.failures == {}
