"""Can the schema change while others are served from it, and does every way lead back?"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest
from databases import ask, execute, own_database
from running import StatementLog

from backend.database import statements
from backend.schema import change as schema_change
from backend.schema.change import MigrationError
from backend.schema.migrate import is_current, move, plan, upgrade

ADD = "INSERT INTO task (user_id, title) VALUES ('alice', 'Buy milk')"
TIME = 60  # only against a hang


@pytest.fixture
def database(postgres: tuple[str, StatementLog]) -> Iterator[str]:
    """A database at the first revision."""
    with own_database(postgres[0]) as url:
        move(url, "0001")
        yield url


async def until(connection: asyncpg.Connection, query: str) -> None:
    async with asyncio.timeout(TIME):
        while not await connection.fetchval(query):  # noqa: ASYNC110 - the event is in the database
            await asyncio.sleep(0.01)


def while_migrating(url: str, begin: str, sign: str, meanwhile: Callable[[asyncpg.Connection], Awaitable[Any]]) -> None:
    """Migrate behind a transaction of somebody else's; at the sign that it waits, do this, and only then let go."""

    async def run() -> None:
        holder, other = await asyncpg.connect(url), await asyncpg.connect(url)
        await holder.execute(begin)
        migrating = asyncio.create_task(asyncio.to_thread(upgrade, url))
        await until(other, sign)
        async with asyncio.timeout(TIME):
            await meanwhile(other)
        assert not migrating.done()
        await holder.execute("COMMIT")
        async with asyncio.timeout(TIME):
            await migrating
        await holder.close()
        await other.close()

    asyncio.run(run())


@pytest.mark.spec("FR-031")
def test_nobody_waits_longer_behind_a_migration_than_it_waits_itself(
    database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(schema_change, "PAUSES", [0.2] * 100)
    waits = (
        "SELECT count(*) FROM pg_locks WHERE relation = 'task'::regclass AND NOT granted AND pid <> pg_backend_pid()"
    )

    async def read_and_write(connection: asyncpg.Connection) -> None:
        for _ in range(2):
            await until(connection, waits)
            await connection.execute(ADD)
            await connection.fetch("SELECT id, title FROM task")

    while_migrating(database, "BEGIN; LOCK TABLE task IN ACCESS SHARE MODE", waits, read_and_write)

    assert is_current(database)
    assert ask(database, "SELECT count(*) FROM task") == [(2,)]
    assert "A long transaction holds the table" in caplog.text


@pytest.mark.spec("FR-031")
def test_an_index_is_built_while_others_read_and_write(database: str) -> None:
    async def read_and_write(connection: asyncpg.Connection) -> None:
        await connection.execute(ADD)
        await connection.fetch("SELECT id, title FROM task")

    while_migrating(
        database,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1",
        "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase = 'waiting for old snapshots'",
        read_and_write,
    )

    assert is_current(database)


@pytest.mark.spec("FR-031")
def test_who_cannot_have_the_table_gives_up_with_a_sentence(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_change, "PAUSES", [0])

    async def refused() -> None:
        holder = await asyncpg.connect(database)
        await holder.execute("BEGIN; LOCK TABLE task IN ACCESS SHARE MODE")
        with pytest.raises(MigrationError, match=r"^A long transaction holds the table"):
            await asyncio.to_thread(upgrade, database)
        await holder.close()

    asyncio.run(refused())
    upgrade(database)

    assert is_current(database)


@pytest.mark.spec("FR-031")
def test_an_index_that_was_left_unfinished_is_built_anew(database: str) -> None:
    execute(database, ADD, ADD, "ALTER TABLE task ADD creation_key text")
    with pytest.raises(asyncpg.UniqueViolationError):
        execute(database, "CREATE UNIQUE INDEX CONCURRENTLY task_created_once ON task (title)")

    upgrade(database)

    found = (
        "SELECT indisvalid, pg_get_indexdef(indexrelid) FROM pg_index WHERE indexrelid = 'task_created_once'::regclass"
    )
    text = "CREATE UNIQUE INDEX task_created_once ON public.task USING btree (creation_key, user_id)"
    assert ask(database, found) == [(True, text)]


@pytest.mark.spec("FR-031")
def test_the_version_before_serves_before_and_after_on_the_same_connections(database: str) -> None:
    async def serve() -> list[list[str]]:
        connection = await asyncpg.connect(database)
        insert = (
            "INSERT INTO task (user_id, title) VALUES ($1, $2) RETURNING id, user_id, title, created_at, updated_at"
        )
        create = await connection.prepare(insert)
        listing = await connection.prepare(statements.LIST.sql)
        toggle = await connection.prepare(statements.TOGGLE.sql)
        seen = []
        for step in (None, "head", "0001"):
            if step:
                await asyncio.to_thread(move, database, step)
            task = await create.fetchrow("alice", str(step))
            assert task
            values = {"id": task["id"], "user_id": "alice", "page_size": 10}
            await toggle.fetch(*statements.TOGGLE.arguments(values))
            seen.append([row["title"] for row in await listing.fetch(*statements.LIST.arguments(values))])
        await connection.close()
        return seen

    seen = asyncio.run(serve())

    assert seen == [["None"], ["head", "None"], ["0001", "head", "None"]]


def test_what_is_done_is_told_and_told_once(database: str) -> None:
    first, second = upgrade(database), upgrade(database)

    assert [line.partition(":")[0] for line in first] == ["Applied 0002"]
    assert second == []


@pytest.mark.spec("FR-031")
def test_the_way_back_loses_nothing_without_a_word(database: str) -> None:
    upgrade(database)
    execute(database, "INSERT INTO task (user_id, title, creation_key) VALUES ('alice', 'Buy milk', 'k')")

    for target, lost in (("-1", "keys"), ("0001", "keys"), ("base", "keys")):
        with pytest.raises(MigrationError, match=rf"lose .*{lost}.*: 1\. Nothing was dropped"):
            move(database, target)
    keys_lost = move(database, "-1", drop_rows=True)
    with pytest.raises(MigrationError, match=r"lose tasks: 1\."):
        move(database, "-1")
    kept = ask(database, "SELECT title FROM task")
    move(database, "base", drop_rows=True)

    assert [line.partition(":")[0] for line in keys_lost] == ["Took back 0002"]
    assert kept == [("Buy milk",)]
    assert ask(database, "SELECT to_regclass('task')::text") == [(None,)]


def test_an_unknown_revision_is_refused_and_a_newer_schema_is_left_as_it_is(database: str) -> None:
    with pytest.raises(MigrationError, match="Known are: base, 0001, 0002"):
        move(database, "0815")
    execute(database, "UPDATE todo_schema_version SET version_num = '0815'")

    done = upgrade(database)

    assert (done, is_current(database)) == ([], True)
    with pytest.raises(MigrationError, match="a newer version of this program"):
        move(database, "-1")


@pytest.mark.parametrize("start", ["base", "0001", "0002"])
def test_the_sql_that_is_printed_does_the_same(database: str, start: str) -> None:
    move(database, start)

    for target in ("head", "base", "head"):
        execute(database, *(statement for statement in plan(database, target).split(";\n") if statement.strip()))

    assert is_current(database)
    assert "CONCURRENTLY" in plan(database, "0001")
    assert plan(database, "head") == ""
