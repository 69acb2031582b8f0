"""Is the schema there, and how does it get there?"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from backend.database.statements import COLUMNS
from backend.database.url import connect_arguments, direct
from backend.schema.change import LOCK_TIMEOUT, WAY_ON, MigrationError, patiently
from backend.schema.found_table import look_alikes, why_not_as_it_is

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
VERSION_TABLE = "todo_schema_version"
MAY_READ_VERSION = f"SELECT has_table_privilege(to_regclass('{VERSION_TABLE}'), 'SELECT')"
# Any number will do as long as every version of this program takes the same one.
MIGRATION_LOCK = 2_002_002
# Seconds that the server may take for what only looks.
LOOK_LIMIT = 10
BASE, HEAD = "base", "head"
# How many the table has; null where there is no table.
PARTITIONS = """SELECT (SELECT count(*) FROM pg_partition_tree(oid) WHERE level = 1)
    FROM pg_class WHERE oid = to_regclass('task')"""


def upgrade(url: str, *, partitions: int = 0) -> list[str]:
    """Bring the schema up to date; any number of processes may do so at once. Returns what was done.

    Each migration is committed by itself, and what an interrupted run has left is taken up by the next.
    """
    return move(url, HEAD, partitions=partitions)


def move(url: str, to: str, *, drop_rows: bool = False, adopted: bool = False, partitions: int = 0) -> list[str]:
    """Bring the schema to a revision, `head`, `base` or `-1` (one back), up or down; return what was done.

    Rows are dropped on the way only where the caller says so, and an adopted table stays. A table `task` that is there
    already is looked at, unless `adopt` has done so. A new one gets so many partitions.
    """

    def work(connection: Connection) -> list[str]:
        return _move(connection, to, adopted=adopted, drop_rows=drop_rows, partitions=partitions)

    return list(on_database(url, work, alone=True))


def plan(url: str, to: str = HEAD, *, partitions: int = 0) -> str:
    """Return the SQL that `move` would send, for psql; nothing is changed."""
    return str(on_database(url, lambda connection: _plan(connection, to, partitions)))


def is_current(url: str) -> bool:
    """Whether the schema is not behind; a newer version of this program may have taken it further."""
    return bool(on_database(url, _is_current, seconds=LOOK_LIMIT))


def tables_like_ours(url: str) -> list[str]:
    """Return the tables that look as if another backend has kept its tasks there."""
    return list(on_database(url, look_alikes, seconds=LOOK_LIMIT))


def write_next(words: str) -> None:
    """Write the next migration, and print its name: what the model has, and an embedded PostgreSQL in which the other
    migrations have just been run has not."""
    from backend.development.embedded import embedded_postgres

    with TemporaryDirectory() as folder, embedded_postgres(Path(folder)) as url:
        upgrade(url)
        on_database(url, lambda connection: _write_next(words, alembic_config(connection)))


def _write_next(words: str, config: Config) -> None:
    number = int(ScriptDirectory.from_config(config).get_current_head() or 0) + 1
    command.revision(config, words, autogenerate=True, rev_id=f"{number:04}")


def known_revisions(connection: Connection) -> list[str]:
    """Return the revisions of this version, oldest first."""
    scripts = ScriptDirectory.from_config(alembic_config(connection)).walk_revisions()
    return [script.revision for script in scripts][::-1]


def current_revision(connection: Connection) -> str:
    """Return where the database is: a revision, perhaps one that only a newer version knows, or `base`."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision() or BASE


def _move(connection: Connection, to: str, *, adopted: bool, drop_rows: bool, partitions: int) -> list[str]:
    _compare(connection, partitions)
    names = [BASE, *known_revisions(connection)]
    start = current_revision(connection)
    if to == HEAD and start not in names:
        return []
    end = _resolved(names, start, to)
    if start == BASE != end and not adopted:
        _examine(connection)
    connection.rollback()
    go = command.downgrade if names.index(end) < names.index(start) else command.upgrade
    config = alembic_config(connection, drop_rows=drop_rows, partitions=partitions)
    patiently(lambda: go(config, end))
    return list(config.attributes["done"])


def _compare(connection: Connection, wanted: int) -> None:
    """Refuse to go on with a table that has not the partitions that are wanted."""
    found = connection.exec_driver_sql(PARTITIONS).scalar()
    if wanted and found not in {None, wanted}:
        raise MigrationError(
            f"There is a table task already, with {found or 'no'} partitions, and --partitions only makes a new one: "
            "docs/scaling.md tells how its rows move."
        )


def _examine(connection: Connection) -> None:
    if reasons := why_not_as_it_is(connection):
        text = "The database has a table task that would turn good requests into failures"
        raise MigrationError(f"{text}: {'; '.join(reasons)}. {WAY_ON}.")


def _plan(connection: Connection, to: str, partitions: int) -> str:
    _compare(connection, partitions)
    names = [BASE, *known_revisions(connection)]
    start = current_revision(connection)
    end = _resolved(names, start, to)
    config = alembic_config(connection, drop_rows=True, partitions=partitions)
    config.output_buffer = StringIO()
    if names.index(end) < names.index(start):
        command.downgrade(config, f"{start}:{end}", sql=True)
    elif start != end:
        command.upgrade(config, f"{start}:{end}", sql=True)
    sql = config.output_buffer.getvalue().replace("BEGIN;", f"BEGIN;\n\nSET LOCAL lock_timeout = '{LOCK_TIMEOUT}';")
    return sql.replace(f"CREATE TABLE {VERSION_TABLE}", f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE}")


def _resolved(names: list[str], start: str, to: str) -> str:
    if start not in names:
        raise MigrationError(f"The schema is at {start}, which a newer version of this program has made: use that one.")
    to = {HEAD: names[-1], "-1": names[max(names.index(start) - 1, 0)]}.get(to, to)
    if to not in names:
        raise MigrationError(f"There is no revision of this name. Known are: {', '.join(names)}.")
    return to


def _is_current(connection: Connection) -> bool:
    # The role of `serve` has no right on the table of versions, and is told by the columns.
    if connection.exec_driver_sql(MAY_READ_VERSION).scalar() is False:
        return set(COLUMNS) <= {column["name"] for column in sa.inspect(connection).get_columns("task")}
    current, names = current_revision(connection), [BASE, *known_revisions(connection)]
    return current == names[-1] or current not in names


def alembic_config(connection: Connection, **attributes: Any) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes |= {"connection": connection, "done": [], **attributes}
    return config


def on_database(
    url: str, work: Callable[[Connection], Any], *, alone: bool = False, seconds: float | None = None
) -> Any:
    """Do this work on a connection; `alone` keeps other migrations out meanwhile. A statement may take `seconds`."""
    return asyncio.run(_run(url, work, alone=alone, seconds=seconds))


async def _run(url: str, work: Callable[[Connection], Any], *, alone: bool, seconds: float | None) -> Any:
    limits = {"timeout": 10, "command_timeout": seconds, "statement_cache_size": 0}
    arguments = limits | connect_arguments(direct(url))
    engine = create_async_engine(
        "postgresql+asyncpg://", poolclass=NullPool, async_creator=lambda: asyncpg.connect(**arguments)
    )
    sa.event.listen(engine.sync_engine, "begin", _limit)
    try:
        async with _turn(arguments, taken=alone), engine.connect() as connection:
            return await connection.run_sync(work)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError) as error:
        raise MigrationError(f"The database could not be reached or migrated: {_first_line(error)}") from error
    finally:
        await engine.dispose()


def _limit(connection: Connection) -> None:
    # Of the transaction, not of the session: behind a pooler the session is not ours.
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")


@asynccontextmanager
async def _turn(arguments: dict[str, Any], *, taken: bool) -> AsyncIterator[None]:
    """Wait until no other process migrates, and keep others out until the end.

    The lock is asked for again and again, and held by a transaction of its own that does nothing else: whoever waits
    inside a statement has a snapshot, which an index that is built concurrently waits for.
    """
    if not taken:
        yield
        return
    connection = await asyncpg.connect(**arguments)
    try:
        await connection.execute("BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0")
        # As a simple query: a portal that is left open would keep its snapshot.
        query = f"SELECT WHERE pg_try_advisory_xact_lock({MIGRATION_LOCK})"
        while await connection.execute(query) != "SELECT 1":  # noqa: ASYNC110 - the event is in another process
            await asyncio.sleep(0.1)
        yield
    finally:
        await connection.close()


def _first_line(error: BaseException) -> str:
    # A detail says which row, view or policy stands in the way.
    detail = getattr(getattr(error, "orig", error), "detail", None)
    return (str(error).partition("\n")[0] or type(error).__name__) + (f" ({detail})" if detail else "")
