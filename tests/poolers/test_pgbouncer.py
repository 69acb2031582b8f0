"""Does the application work through PgBouncer in transaction mode, and is it right even where it is set up wrongly?

Debian 12 has 1.18, which knows nothing of prepared statements. A newer one, which does (since 1.21), is installed
beside it by install-pgbouncer-prepared.sh.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from databases import upgrade
from faults.load import Load, Tally
from people import User
from servers import Postgres, application, debian_postgres, pgbouncer, until

SET_UP, FORGOTTEN = "false", "true"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with debian_postgres(fsync="off") as server:
        upgrade(server.url())
        yield server


@pytest.fixture(scope="module")
def pooler(server: Postgres) -> Iterator[int]:
    """Its port; two connections of the server for everybody."""
    with pgbouncer(server.home, server.port, default_pool_size="2") as port:
        yield port


@pytest.fixture(scope="module")
def newer_pooler(server: Postgres) -> Iterator[int]:
    """The same, of a pooler that knows prepared statements."""
    settings = {"default_pool_size": "2", "max_prepared_statements": "100"}
    with pgbouncer(server.home, server.port, "pgbouncer-prepared", **settings) as port:
        yield port


def test_two_processes_share_a_pooler_that_knows_prepared_statements(server: Postgres, newer_pooler: int) -> None:
    with application(server.url(newer_pooler)) as one, application(server.url(newer_pooler)) as two:
        loads = [Load(app.address, 5, 0) for app in (one, two)]
        with loads[0].running(), loads[1].running():
            until(lambda: sum(load.tally.requests for load in loads) > 400, "no answers")

    with application(server.url()) as app:
        tallies: list[Tally] = [load.verify(app.address) for load in loads]
    assert [(tally.wrong, tally.failures) for tally in tallies] == [({}, {}), ({}, {})]


@pytest.mark.parametrize(("port", "prepared"), [("pooler", SET_UP), ("newer_pooler", "true")], ids=["1.18", "newer"])
def test_all_six_endpoints_work(server: Postgres, port: str, prepared: str, request: pytest.FixtureRequest) -> None:
    pooler = request.getfixturevalue(port)
    with application(server.url(pooler), DATABASE_PREPARED_STATEMENTS=prepared) as app:
        user = User(app.base_url)
        with user.http as http:
            task = user.add("Milk", description="2 l")
            path = f"{user.tasks}/{task['id']}"

            listed = user.list()
            read = http.get(path).json()
            changed = http.put(path, json={"title": "Bread"}).json()
            toggled = http.patch(f"{path}/complete").json()
            again = [http.post(user.tasks, json={"title": "x"}, headers={"Idempotency-Key": "k"}) for _ in range(2)]
            deleted = [http.delete(path).status_code for _ in range(2)]

    assert (listed, read) == ([task], task)
    assert (changed["title"], changed["completed"], toggled["completed"]) == ("Bread", False, True)
    assert [each.status_code for each in again] == [201, 201]
    assert again[0].json() == again[1].json()
    assert deleted == [204, 404]


@pytest.mark.long
def test_a_session_setting_that_the_pooler_refuses_is_done_without(server: Postgres, pooler: int) -> None:
    """PgBouncer says "unsupported startup parameter"; the deadline then ends statements, and the server hears of it."""
    with application(server.url(pooler), DATABASE_PREPARED_STATEMENTS=SET_UP, REQUEST_DEADLINE="1") as app:
        user = User(app.base_url)
        with user.http as http, server.locked(4):
            answer = http.get(user.tasks)
            query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            until(lambda: server.ask(query) == "0", "the statement is still waiting")
            still_locked = server.ask("SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock'") != "0"

    assert answer.status_code == 503
    assert still_locked


@pytest.mark.parametrize(
    "prepared", [pytest.param(SET_UP, marks=pytest.mark.long), FORGOTTEN], ids=["set up", "forgotten"]
)
def test_two_processes_never_run_each_others_statements(server: Postgres, pooler: int, prepared: str) -> None:
    """Where the setting is forgotten, statements may fail, but a toggle never becomes somebody's DELETE."""
    with (
        application(server.url(pooler), DATABASE_PREPARED_STATEMENTS=prepared, REQUEST_DEADLINE="3") as one,
        application(server.url(pooler), DATABASE_PREPARED_STATEMENTS=prepared, REQUEST_DEADLINE="3") as two,
    ):
        loads = [Load(app.address, 5, 0) for app in (one, two)]
        with loads[0].running(), loads[1].running():
            until(lambda: sum(load.tally.requests for load in loads) > 400, "no answers")
        hints = one.log().count("set DATABASE_PREPARED_STATEMENTS=false")

    with application(server.url()) as app:
        tallies: list[Tally] = [load.verify(app.address) for load in loads]

    failures = sum((tally.failures for tally in tallies), Counter[str]())
    print(dict(failures))
    assert [tally.wrong for tally in tallies] == [{}, {}], [tally.examples[:5] for tally in tallies]
    assert (failures == {}) == (prepared == SET_UP)
    assert (hints > 0) == (prepared == FORGOTTEN)


def test_tls_through_the_pooler_verifies_where_the_url_asks_for_it(server: Postgres, pooler: int) -> None:
    """Neon's URL says sslmode=require&channel_binding=require; the certificate of a test is nobody's."""
    verified = f"sslmode=require&channel_binding=require&sslrootcert={server.authority}"
    for port in (pooler, server.port):
        with application(server.url(port, options=verified), DATABASE_PREPARED_STATEMENTS=SET_UP) as app:
            user = User(app.base_url)
            with user.http as http:
                assert http.get(user.tasks).status_code == 200


def test_a_certificate_that_does_not_verify_is_refused_and_named(server: Postgres, pooler: int) -> None:
    seen = (server.home / "pgbouncer.log").read_text().count("login attempt")
    with application(
        server.url(pooler, options="sslmode=require&channel_binding=require"), DATABASE_PREPARED_STATEMENTS=SET_UP
    ) as app:
        user = User(app.base_url)
        with user.http as http:
            answer = http.get(user.tasks)
        reasons = [line["message"] for line in app.events("unavailable")]

    assert answer.status_code == 503
    assert answer.elapsed.total_seconds() < 5  # it is not tried again until the deadline
    assert all("CERTIFICATE_VERIFY_FAILED" in reason for reason in reasons)
    assert (server.home / "pgbouncer.log").read_text().count("login attempt") == seen


@pytest.mark.long
def test_a_pooler_that_restarts_is_waited_for(server: Postgres) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pgbouncer(server.home, server.port, listen_port=str(port)):
        pass  # the port is known to be good
    with application(server.url(port), DATABASE_PREPARED_STATEMENTS=SET_UP) as app:
        user = User(app.base_url)

        async def wait_and_restart() -> httpx.Response:
            async with httpx.AsyncClient(base_url=app.base_url, headers=user.http.headers, timeout=30) as http:
                waiting = asyncio.create_task(http.post(user.tasks, json={"title": "Milk"}))
                await asyncio.sleep(0.5)
                with pgbouncer(server.home, server.port, listen_port=str(port)):
                    return await waiting

        with user.http:
            answer = asyncio.run(wait_and_restart())

    assert answer.status_code == 201
