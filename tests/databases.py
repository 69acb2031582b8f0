"""How does a test get a database of its own, and look into it?"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import asyncpg
from pydantic import SecretStr

from backend.schema import migrate
from backend.settings import Settings

PARTITIONS = int(os.environ.get("PARTITIONS", "0"))


def execute(url: str, *scripts: str) -> None:
    """Run each script as one message: on a failure nothing of it stays."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            for script in scripts:
                await connection.execute(script)
        finally:
            await connection.close()

    asyncio.run(run())


def ask(url: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    async def answer() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(query, *values)]
        finally:
            await connection.close()

    return asyncio.run(answer())


def upgrade(url: str) -> None:
    """Bring the schema up to date; PARTITIONS=16 runs the tests on tables in so many partitions."""
    migrate.upgrade(url, partitions=PARTITIONS)


@contextmanager
def own_database(server: str) -> Iterator[str]:
    """Make an empty database on the server of this URL; yields the URL of the new one."""
    name = f"test_{uuid4().hex}"
    execute(server, f"CREATE DATABASE {name}")
    yield server.replace("/todo?", f"/{name}?")
    execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def using(settings: Settings, url: str, **changes: object) -> Settings:
    """Return the settings for another database, with these changes."""
    return settings.model_copy(update={"neon_database_url": SecretStr(url), **changes})
