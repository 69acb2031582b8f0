"""What do clients notice when the schema of a large table changes under them?"""

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Iterator

import asyncpg
import pytest
from servers import ROOT, Postgres, debian_postgres

from backend.database import statements
from backend.schema.migrate import is_current, move

ROWS = int(os.environ.get("ROWS", "3_000_000"))
USERS = 10_000
FILL = f"""INSERT INTO task (user_id, title, description, created_at)
    SELECT 'user-' || n % {USERS}, 'Task number ' || n, 'Something more about it', now() - n * interval '1 second'
    FROM generate_series(1, {ROWS}) n"""
ADD = "INSERT INTO task (user_id, title) VALUES ($1, 'New')"


@pytest.fixture(scope="module")
def large() -> Iterator[Postgres]:
    """A server with a large table at the first revision."""
    with debian_postgres(max_wal_size="4GB") as server:
        move(server.url(), "0001")
        server.ask(FILL, "VACUUM ANALYZE task")
        yield server


async def light_load(url: str, stop: asyncio.Event) -> list[float]:
    """Two clients who read a list and two who add a task, again and again; return what each turn took."""
    took = []

    async def use(number: int) -> None:
        connection = await asyncpg.connect(url)
        for turn in itertools.count(number):
            if stop.is_set():
                break
            user, started = f"user-{turn % USERS}", time.perf_counter()
            if number % 2:
                await connection.execute(ADD, user)
            else:
                await connection.fetch(
                    statements.LIST.sql, *statements.LIST.arguments({"user_id": user, "page_size": 20})
                )
            took.append(time.perf_counter() - started)
            await asyncio.sleep(0.005)
        await connection.close()

    await asyncio.gather(*(use(number) for number in range(4)))
    return took


async def migrate(url: str) -> None:
    """In a process of its own, which takes nothing from the clients' loop."""
    environment = {**os.environ, "NEON_DATABASE_URL": url}
    command = [sys.executable, "-m", "backend", "migrate"]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment)
    assert await process.wait() == 0


async def under_load(url: str, hold: float = 0) -> tuple[float, float, float]:
    """Return the longest turn in five seconds of peace and while migrating, and how long that took.

    With `hold`, somebody reads the table in one transaction of so many seconds meanwhile.
    """
    stop = asyncio.Event()
    load = asyncio.create_task(light_load(url, stop))
    await asyncio.sleep(5)
    stop.set()
    peace = max(await load)
    stop.clear()
    load = asyncio.create_task(light_load(url, stop))
    holder = await asyncpg.connect(url)
    if hold:
        await holder.execute("BEGIN; SELECT FROM task LIMIT 1")
    asyncio.get_running_loop().call_later(hold, holder.terminate)
    started = time.perf_counter()
    await migrate(url)
    took = time.perf_counter() - started
    stop.set()
    return peace, max(await load), took


def told(what: str, peace: float, migrating: float, took: float) -> str:
    waits = f"longest wait {migrating * 1000:.0f} ms, in peace {peace * 1000:.0f} ms"
    return f"\n{what}: {took:.1f} s, {waits}, the machine's load {os.getloadavg()[0]:.0f}"


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.spec("FR-031")
def test_nobody_notices_that_millions_of_rows_are_migrated(large: Postgres) -> None:
    peace, migrating, took = asyncio.run(under_load(large.url()))

    print(told(f"{ROWS} rows, 0001 to 0002", peace, migrating, took))
    assert is_current(large.url())
    assert migrating < took / 2 or migrating < 1  # it was not the index that they waited for


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.spec("FR-031")
def test_behind_a_transaction_of_15_seconds_nobody_waits_so_long(large: Postgres) -> None:
    move(large.url(), "0001", drop_rows=True)

    peace, migrating, took = asyncio.run(under_load(large.url(), hold=15))

    print(told("behind a transaction of 15 s", peace, migrating, took))
    assert is_current(large.url())
    assert took > 15
    assert migrating < 5  # lock_timeout is 2 s
