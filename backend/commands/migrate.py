"""Is the schema there, and how does it get there?"""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from backend.database.url import connect_arguments, direct
from backend.errors import OperatorError

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
VERSION_TABLE = "todo_schema_version"
# Any number will do as long as every version of this program takes the same one.
MIGRATION_LOCK = 2_002_002


class MigrationError(OperatorError):
    """The schema could not be brought up to date; nothing was changed. The message is for the operator."""


def upgrade(url: str) -> None:
    """Bring the schema up to date in one transaction; any number of processes may do so at once."""
    asyncio.run(_run(url, lambda connection: command.upgrade(_config(connection), "head")))


def downgrade(url: str) -> None:
    """Take the schema back to before the first migration; an adopted table stays."""
    asyncio.run(_run(url, lambda connection: command.downgrade(_config(connection), "base")))


def is_current(url: str) -> bool:
    return bool(asyncio.run(_run(url, _is_current)))


def write_next(words: str) -> None:
    """Write the next migration, and print its name: what the model has, and an embedded PostgreSQL in which the other
    migrations have just been run has not."""
    from backend.development.embedded import embedded_postgres

    with TemporaryDirectory() as folder, embedded_postgres(Path(folder)) as url:
        upgrade(url)
        asyncio.run(_run(url, lambda connection: _write_next(words, _config(connection))))


def _write_next(words: str, config: Config) -> None:
    number = int(ScriptDirectory.from_config(config).get_current_head() or 0) + 1
    command.revision(config, words, autogenerate=True, rev_id=f"{number:04}")


def _is_current(connection: Connection) -> bool:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return set(context.get_current_heads()) == set(ScriptDirectory.from_config(_config(connection)).get_heads())


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


async def _run(url: str, work: Any) -> Any:
    arguments = {"timeout": 10, "statement_cache_size": 0} | connect_arguments(direct(url))
    engine = create_async_engine(
        "postgresql+asyncpg://", poolclass=NullPool, async_creator=lambda: asyncpg.connect(**arguments)
    )
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(work)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError) as error:
        raise MigrationError(f"The database could not be reached or migrated: {_first_line(error)}") from error
    finally:
        await engine.dispose()


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
