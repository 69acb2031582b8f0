"""How often does a request go to the database and back? A relay between the two counts."""

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import asyncpg
import httpx
import pytest
from databases import ask, upgrade
from people import ORIGIN, SECRET, User
from relay import Relay, relayed
from running import serving
from servers import Postgres, debian_postgres, until

from backend.database.connection import Connection
from backend.database.statements import ALL
from backend.database.url import connect_arguments
from backend.settings import Settings, load_settings
from backend.web.answers import PAGE

POOL_SIZE = 4
OPERATIONS = ("list", "get", "create", "update", "toggle", "delete")


@pytest.fixture(scope="module")
def tls_server() -> Iterator[Postgres]:
    with debian_postgres(fsync="off") as server:
        upgrade(server.url())
        yield server


@pytest.fixture(params=["socket", "tls"])
def line(request: pytest.FixtureRequest, database_url: str) -> Iterator[tuple[Relay, str]]:
    """A relay in front of the embedded server, and with TLS in front of Debian's; and the URL through it."""
    if request.param == "tls":
        server: Postgres = request.getfixturevalue("tls_server")
        with Relay(("127.0.0.1", server.port)).running() as relay:
            yield relay, server.url(relay.port)
    else:
        with relayed(database_url) as line:
            yield line


def settings(url: str, **others: object) -> Settings:
    return load_settings(
        _env_file=None, better_auth_secret=SECRET, better_auth_url=ORIGIN, neon_database_url=url,
        database_pool_size=POOL_SIZE, **others,
    )  # fmt: skip


@contextmanager
def warm(line: tuple[Relay, str], **others: object) -> Iterator[User]:
    """Serve through the relay; the pool has filled itself before anybody asked."""
    relay, url = line
    before = relay.connections
    with serving(settings(url, **others)) as base_url:
        until(lambda: relay.connections - before == POOL_SIZE and settled(relay), "the pool does not fill")
        user = User(base_url)
        with user.http:
            yield user


def settled(relay: Relay) -> bool:
    """Whether nothing has passed for a moment."""
    before = relay.bytes
    time.sleep(0.15)
    return relay.bytes == before


def operations(user: User) -> dict[str, Callable[[], httpx.Response]]:
    ids = [user.add()["id"] for _ in range(2)]
    one = f"{user.tasks}/{ids[0]}"
    return {
        "list": lambda: user.http.get(user.tasks),
        "get": lambda: user.http.get(one),
        "create": lambda: user.http.post(user.tasks, json={"title": "Bread"}),
        "update": lambda: user.http.put(one, json={"title": "Butter"}),
        "toggle": lambda: user.http.patch(f"{one}/complete"),
        "delete": lambda: user.http.delete(f"{user.tasks}/{ids[1]}"),
    }


def turns(relay: Relay, call: Callable[[], httpx.Response]) -> int:
    before = relay.turns
    assert call().is_success
    return relay.turns - before


def test_every_endpoint_costs_one_round_trip(line: tuple[Relay, str]) -> None:
    relay, _ = line
    with warm(line) as user:
        calls = operations(user)

        counted = {name: turns(relay, calls[name]) for name in OPERATIONS}

    assert counted == dict.fromkeys(OPERATIONS, 1)


def test_a_long_list_costs_a_round_trip_for_each_page(line: tuple[Relay, str]) -> None:
    relay, url = line
    with warm(line) as user:
        user.add()
        connection = connect_arguments(url)["dsn"]
        copies = "INSERT INTO task (user_id, title) SELECT $1, 'Copy' FROM generate_series(1, $2::int)"
        ask(connection, copies, user.id, 2 * PAGE)
        until(lambda: settled(relay), "the copies are not made")

        counted = turns(relay, lambda: user.http.get(user.tasks))

    assert counted == 3


def test_a_create_with_a_key_and_its_retry_cost_one_round_trip_each(line: tuple[Relay, str]) -> None:
    relay, _ = line
    with warm(line) as user:
        user.add()

        def create() -> httpx.Response:
            return user.http.post(user.tasks, json={"title": "Once"}, headers={"Idempotency-Key": "k"})

        counted = [turns(relay, create) for _ in range(2)]

    assert counted == [1, 1]


def test_without_prepared_statements_it_is_two(line: tuple[Relay, str]) -> None:
    relay, _ = line
    with warm(line, database_prepared_statements=False) as user:
        calls = operations(user)

        counted = {name: turns(relay, calls[name]) for name in OPERATIONS}

    assert counted == dict.fromkeys(OPERATIONS, 2)


async def handshake(relay: Relay, url: str) -> int:
    """Count what one new connection costs."""
    before = relay.turns
    connection = await Connection.open(connect_arguments(url) | {"server_settings": {}}, ALL)
    cost = relay.turns - before
    connection.cut()
    return cost


def sever(url: str, application: str = "todo-backend") -> None:
    """End the application's connections as Neon does when it suspends."""

    async def ask() -> None:
        connection = await asyncpg.connect(**connect_arguments(url))
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE $1 || '%'"
        await connection.fetch(query, application)
        await connection.close()

    asyncio.run(ask())


def test_a_replaced_connection_costs_its_handshake_and_no_more(line: tuple[Relay, str]) -> None:
    relay, url = line
    with warm(line) as user:
        calls = operations(user)
        cost = asyncio.run(handshake(relay, url))
        sever(url)
        until(lambda: relay.open == 0, "the connections survive")

        # The first one wakes the database, answers, and lets the others be opened beside it.
        first = turns(relay, calls["get"])
        until(lambda: relay.open == POOL_SIZE and settled(relay), "the pool is not filled again")
        counted = {name: turns(relay, calls[name]) for name in OPERATIONS}

    assert cost + 1 <= first <= POOL_SIZE * cost + 1
    assert counted == dict.fromkeys(OPERATIONS, 1)


def test_an_idle_database_is_left_alone(line: tuple[Relay, str]) -> None:
    relay, url = line
    with warm(line) as user:
        user.add()
        before, connections = relay.bytes, relay.connections
        time.sleep(2)
        awake = relay.bytes - before
        sever(url)
        until(lambda: relay.open == 0, "the connections survive")
        before = relay.bytes
        time.sleep(2)
        asleep = relay.bytes - before

    assert (awake, asleep, relay.connections - connections) == (0, 0, 1)  # the one that severed the others


def test_a_probe_does_not_touch_the_database(line: tuple[Relay, str]) -> None:
    relay, _ = line
    with warm(line) as user:
        before = relay.bytes
        answers = [user.http.get(path).status_code for path in ("/health", "/livez", "/readyz")]
        sent = relay.bytes - before

    assert (answers, sent) == ([200, 200, 200], 0)


def test_at_forty_milliseconds_a_request_takes_hardly_longer_than_its_round_trip(line: tuple[Relay, str]) -> None:
    relay, _ = line
    each_way, medians = 0.02, {}
    with warm(line) as user:
        calls = operations(user)
        del calls["delete"]
        relay.delay = each_way
        for name, call in calls.items():
            # A busy machine may disturb some; a second round trip would disturb all.
            for _ in range(5):
                medians[name] = statistics.median(seconds(call) for _ in range(9))
                if medians[name] < 1.3 * 2 * each_way + 0.01:
                    break

    print({name: f"{median * 1000:.1f} ms" for name, median in medians.items()})
    assert {name: median for name, median in medians.items() if median >= 1.3 * 2 * each_way + 0.01} == {}


def seconds(call: Callable[[], httpx.Response]) -> float:
    started = time.perf_counter()
    assert call().is_success
    return time.perf_counter() - started
